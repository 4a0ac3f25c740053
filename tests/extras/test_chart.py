"""The chart: helm takes it, Kubernetes takes what it renders, and wrong values are refused."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings, descriptions
from tests.support.chart import (
    CHART,
    RELEASE,
    container_of,
    one,
    pod_of,
    rendered,
    run_helm,
)
from tests.support.markdown import ROOT, blocks
from tests.support.programs import program
from tests.support.registry import environment_or_skip, node_environment_or_skip

pytestmark = pytest.mark.extras
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
PINNED = Path(__file__).with_name("kubernetes-validate.txt")
VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
VALIDATE = """\
import json, sys
import kubernetes_validate

objects = json.load(open(sys.argv[1]))
for version in sys.argv[2:]:
    for name, each in objects:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            print(f"{version} {name}: {'.'.join(map(str, error.path))}: {error.message[:300]}")
"""
OPERATOR = Path(__file__).with_name("prometheus-operator")
OPERATE = """\
import { PrometheusRule, ServiceMonitor }
    from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";
for (const each of JSON.parse(readFileSync(0))) {
    new { PrometheusRule, ServiceMonitor }[each.kind](each).validate();
}
"""
PAGE = ROOT / "docs" / "kubernetes.md"
OF_THE_OPERATOR = "monitoring.coreos.com/v1"
PLAIN = 'bundles.existingClaim="bundles"'
IMAGE = 'image.repository="registry.example/service-gpu"'
REFUSED = yaml.safe_load((CHART / "ci" / "refused.yaml").read_text(encoding="utf-8"))


def of(name: str) -> list[Path]:
    """The values of an example."""
    return [CHART / "ci" / f"{name}-values.yaml"]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_helm_finds_nothing_to_complain_of(helm: Path, values: Path) -> None:
    """``helm lint --strict``, for every example."""
    done = run_helm(helm, "lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["says"])
def test_wrong_values_are_refused(helm: Path, case: dict[str, Any], tmp_path: Path) -> None:
    """Each in a line that names the value and repeats nothing secret."""
    values = {"bundles": {"existingClaim": "bundles"}, **case["values"]}
    (tmp_path / "values.json").write_text(json.dumps(values), encoding="utf-8")
    done = run_helm(helm, "template", RELEASE, CHART, "--values", tmp_path / "values.json")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if re.search(case["says"], line)]
    assert lines, done.stderr
    assert "hunter2" not in done.stderr


@pytest.fixture(scope="module")
def objects(helm: Path) -> dict[str, list[dict[str, Any]]]:
    """What each example renders, by its name."""
    return {path.name.removesuffix("-values.yaml"): rendered(helm, [path]) for path in VALUES}


def test_kubernetes_takes_what_is_rendered(
    objects: dict[str, list[dict[str, Any]]],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The API's own schemas, strictly, for every version from the oldest that the chart allows."""
    home = environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand"))
    everything = [
        [f"{name}: {each['kind']} {each['metadata']['name']}", each]
        for name, found in objects.items()
        for each in found
        if each["apiVersion"] != OF_THE_OPERATOR
    ]
    assert len(everything) > 30
    wrong = json.loads(json.dumps(one(objects["plain"], "Deployment")))
    container_of(wrong)["livenessProbe"]["httpget"] = {}
    everything.append(["misspelt", wrong])
    (tmp_path / "objects.json").write_text(json.dumps(everything), encoding="utf-8")
    done = subprocess.run(
        [home / "bin" / "python", "-c", VALIDATE, tmp_path / "objects.json", *VERSIONS],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    problems = done.stdout.splitlines()
    assert [line.split(":")[0] for line in problems] == [f"{each} misspelt" for each in VERSIONS]
    assert all("livenessProbe" in line and "httpget" in line for line in problems), problems


def test_examples_cover_every_kind(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Each template is rendered by one of them."""
    templates = {file.stem for file in (CHART / "templates").glob("*.yaml")}
    kinds = {each["kind"].lower() for found in objects.values() for each in found}
    assert templates == kinds


def test_the_example_of_the_page(helm: Path, tmp_path: Path) -> None:
    """docs/kubernetes.md begins with values that are a release, in which everything is named."""
    [example] = [block for block in blocks(PAGE) if block.words == ("shop.yaml",)]
    (tmp_path / "shop.yaml").write_text(example.text, encoding="utf-8")
    found = rendered(helm, [tmp_path / "shop.yaml"])
    names = {f"{each['kind']} {each['metadata']['name']}" for each in found}
    assert {"Deployment shop-deepfm-serving", "CronJob shop-deepfm-serving-trainer"} <= names
    text = PAGE.read_text(encoding="utf-8")
    assert "--from=cronjob/shop-deepfm-serving-trainer " in text


def test_a_cluster_that_is_too_old_is_refused(helm: Path) -> None:
    """From 1.33 on, what a provider has appended to the version notwithstanding."""
    for version, taken in (("1.32.9", False), ("1.33.0-eks-1", True), ("1.37.2", True)):
        words = ["--kube-version", version, "--set-json", PLAIN]
        done = run_helm(helm, "template", RELEASE, CHART, *words)
        assert (done.returncode == 0) == taken, done.stderr


@pytest.mark.parametrize("name", ["1shop", "a.shop"])
def test_a_release_that_no_service_can_be_named_after(helm: Path, name: str) -> None:
    """Helm takes such names, and the API would refuse half of the objects."""
    done = run_helm(helm, "template", name, CHART, "--set-json", PLAIN)
    assert done.returncode != 0
    assert f"the release's name, {name}, names a Service" in done.stderr


def test_a_limit_may_be_given_up(helm: Path) -> None:
    """By null, as in any chart."""
    sets = ["resources.limits.memory=null", "trainer.resources.limits.cpu=null"]
    container = container_of(one(rendered(helm, of("plain"), sets), "Deployment"))
    assert not container["resources"]["limits"]


def test_variables_are_settings_that_exist(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Whatever a pod is given the service reads, and takes."""
    known = {each.variable: each.name for each in descriptions()}
    for name, found in objects.items():
        owners = [each for each in found if each["kind"] in ("Deployment", "CronJob")]
        for owner in owners:
            given = {each["name"]: each.get("value") for each in container_of(owner)["env"]}
            assert set(given) <= {*known, "POD_NAME"}, name
            assert len(given) == len(container_of(owner)["env"]), name
            values = {known[key]: value for key, value in given.items() if key in known}
            assert Settings.model_validate(values)


def test_probes_ask_the_right_things(objects: dict[str, list[dict[str, Any]]]) -> None:
    """A pod is ready by /ready and alive by /live alone, and has time for its bundle."""
    for found in objects.values():
        container = container_of(one(found, "Deployment"))
        asked = {
            name: container[f"{name}Probe"]["httpGet"]["path"]
            for name in ("startup", "readiness", "liveness")
        }
        assert asked == {"startup": "/ready", "readiness": "/ready", "liveness": "/live"}
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
        ports = {port["name"] for port in container["ports"]}
        assert {container[f"{name}Probe"]["httpGet"]["port"] for name in asked} <= ports


def test_the_end_has_time(helm: Path) -> None:
    """The grace period is longer than what the service may take, whatever the values."""
    for sets in ([], ["lameDuckSeconds=7.5", "drainSeconds=90", "preStopSeconds=12"]):
        deployment = one(rendered(helm, of("plain"), sets), "Deployment")
        container = container_of(deployment)
        env = {each["name"]: each["value"] for each in container["env"]}
        own = math.fsum(float(env[f"CTR_{name}_SECONDS"]) for name in ("LAME_DUCK", "DRAIN"))
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod_of(deployment)["terminationGracePeriodSeconds"] > sleep + own + 6


@pytest.mark.parametrize(
    ("sets", "workers", "threads"),
    [
        (['resources.requests.cpu="2"'], "2", "1"),
        (["resources.requests.cpu=2.9"], "2", "1"),
        (['resources.requests.cpu="500m"'], "1", "1"),
        (['resources.requests.cpu="3500m"'], "3", "1"),
        (["resources.requests.cpu=8", "workers=2"], "2", "3"),
        (["resources.requests.cpu=4", "gpu.count=1", IMAGE], "1", "3"),
        (["workers=12"], "12", "1"),
    ],
)
def test_workers_follow_the_request(
    helm: Path, sets: list[str], workers: str, threads: str
) -> None:
    """One for each CPU that is asked for; the node's cores, without a limit, are not ours."""
    container = container_of(one(rendered(helm, of("plain"), sets), "Deployment"))
    env = {each["name"]: each["value"] for each in container["env"]}
    assert (env["CTR_WORKERS"], env["CTR_ENGINE_THREADS"]) == (workers, threads)
    assert "cpu" not in container["resources"]["limits"]


def test_pods_can_do_no_harm(objects: dict[str, list[dict[str, Any]]]) -> None:
    """No root, no capability, nothing to write to but volumes, no token of the cluster."""
    for found in objects.values():
        for owner in found:
            if owner["kind"] not in ("Deployment", "CronJob"):
                continue
            pod = pod_of(owner)
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not pod["automountServiceAccountToken"]
            assert not pod["enableServiceLinks"]
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
            volumes = {each["name"] for each in pod["volumes"]}
            mounted = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
            assert volumes == mounted


def test_secrets_are_files_by_name(objects: dict[str, list[dict[str, Any]]]) -> None:
    """No variable has a secret, and the chart makes none."""
    for found in objects.values():
        assert not [each for each in found if each["kind"] == "Secret"]
        assert "secretKeyRef" not in json.dumps(found)
    store = container_of(one(objects["catalogue"], "Deployment"))["env"]
    env = {each["name"]: each["value"] for each in store}
    assert env["CTR_STORE"].endswith("/shop/1?password_file=/etc/ctr/store-password")
    # Numbers are written out: 1.073741824e+09 is no size.
    assert env["CTR_ITEM_PARTS_BYTES"] == "1073741824"


def test_a_gpu_is_asked_for_and_used(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Or the pod does not start: the service never falls back to the CPU there."""
    for name, found in objects.items():
        container = container_of(one(found, "Deployment"))
        env = {each["name"]: each.get("value") for each in container["env"]}
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert (gpus, env["CTR_PROVIDER"]) == ((1, "cuda") if name == "gpu" else (None, "cpu"))


def test_the_admin_port_stays_inside(objects: dict[str, list[dict[str, Any]]]) -> None:
    """By itself it listens within the pod; opened, it has a policy and a Service of its own."""

    def host(found: list[dict[str, Any]]) -> str:
        given = container_of(one(found, "Deployment"))["env"]
        return str({each["name"]: each.get("value") for each in given}["CTR_ADMIN_HOST"])

    assert host(objects["autoscaled"]) == "127.0.0.1"
    assert host(objects["admin"]) == "0.0.0.0"
    for name, found in objects.items():
        policy = one(found, "NetworkPolicy")["spec"]
        assert policy["policyTypes"] == ["Ingress"]
        assert policy["podSelector"]["matchLabels"].items() <= (
            one(found, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
        )
        opened = [rule for rule in policy["ingress"] if rule["ports"][0]["port"] != "http"]
        assert bool(opened) == (name == "admin")
        assert all(rule["from"] for rule in opened)
        [service] = [
            each for each in found
            if each["kind"] == "Service" and not each["metadata"]["name"].endswith("-admin")
        ]  # fmt: skip
        assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


def test_selectors_find_the_pods_of_the_service_alone(
    objects: dict[str, list[dict[str, Any]]],
) -> None:
    """Service, budget, spread and policy mean these pods, and none of the trainer's."""
    found = objects["trainer"]
    labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    job = one(found, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(found, "Deployment")["spec"]["selector"]["matchLabels"],
        one(found, "Service")["spec"]["selector"],
        one(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in pod_of(one(found, "Deployment"))["topologySpreadConstraints"]
        ),
    ]
    assert len(selectors) == 6
    for selector in selectors:
        # A Deployment's selector cannot change, so no version is in it.
        assert {name.partition("/")[2] for name in selector} == {"name", "instance", "component"}
        assert selector.items() <= labels.items()
        assert not selector.items() <= job.items()


def test_the_autoscaler_and_the_alerts(objects: dict[str, list[dict[str, Any]]]) -> None:
    """Both numbers count, replicas are the autoscaler's, and all rules are there as they are."""
    found = objects["autoscaled"]
    autoscaler = one(found, "HorizontalPodAutoscaler")["spec"]
    asked = {
        each["pods"]["metric"]["name"]: each["pods"]["target"]["averageValue"]
        for each in autoscaler["metrics"]
    }
    assert asked == {"ctr_queue_wait_seconds": "10m", "ctr_refused_requests_per_second": "1"}
    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (3, 40)
    assert "replicas" not in one(found, "Deployment")["spec"]
    wanted = [
        group
        for name in ("recording", "alerts")
        for group in yaml.safe_load((CHART / "files" / f"{name}.yml").read_text())["groups"]
    ]
    assert one(found, "PrometheusRule")["spec"]["groups"] == wanted
    monitor = one(found, "ServiceMonitor")["spec"]
    [endpoint] = monitor["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "ctr"}]
    assert monitor["selector"]["matchLabels"].items() <= (
        one(found, "Service")["metadata"]["labels"].items()
    )
    assert OF_THE_OPERATOR not in {each["apiVersion"] for each in objects["plain"]}


def test_prometheus_and_its_operator_take_what_is_rendered(
    objects: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Objects by the operator's schemas, rules by promtool, which knows every field of them."""
    found = [each for each in objects["autoscaled"] if each["apiVersion"] == OF_THE_OPERATOR]
    assert len(found) == 2
    home = node_environment_or_skip(OPERATOR)
    (home / "validate.mjs").write_text(OPERATE, encoding="utf-8")

    def said(given: list[dict[str, Any]]) -> str:
        done = subprocess.run(
            ["node", home / "validate.mjs"], input=json.dumps(given),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stderr if done.returncode else ""

    assert said(found) == ""
    wrong = json.loads(json.dumps(found))
    one(wrong, "ServiceMonitor")["spec"]["endpoints"][0]["relabelings"][0]["action"] = "swap"
    assert "relabelings/0/action" in said(wrong)
    groups = {"groups": one(found, "PrometheusRule")["spec"]["groups"]}
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps(groups), encoding="utf-8")
    checked = subprocess.run(
        [program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", file],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
