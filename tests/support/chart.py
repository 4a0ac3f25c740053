"""The Helm chart as its users render it: helm out of a package, and what a pod of it is given."""

from __future__ import annotations

import io
import os
import re
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from tests.support.environments import HOME, ROOT, PeerProblem, environment
from tests.support.registry import skip_without_registry

CHART = ROOT / "docker" / "chart"
PINNED = ROOT / "tests" / "extras" / "helm.txt"
RELEASE = "shop"
SECONDS = 60.0
Object = dict[str, Any]


def helm() -> Path:
    """Return the path of helm, installed on demand.

    Raises:
        PeerProblem: it cannot be had.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with FileLock(HOME / "helm-program.lock"):
        home = environment(PINNED)
        program = home / "bin" / "helm"
        if not program.exists():
            partial = program.with_suffix(".partial")
            partial.write_bytes(_out_of_layer(home))
            partial.chmod(partial.stat().st_mode | stat.S_IXUSR)
            partial.rename(program)
    return program


def _out_of_layer(home: Path) -> bytes:
    """The program within the zip of a layer within the archive of an npm package within a wheel."""
    [archive] = home.glob("lib/python*/site-packages/aws_cdk/**/*.jsii.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("helm/helm")


def helm_or_skip(scratch: Path) -> Path:
    """Return the path of helm; skip the test where no registry is reached."""
    try:
        return helm()
    except PeerProblem:
        [wanted] = [line for line in PINNED.read_text().splitlines() if "==" in line]
        skip_without_registry(wanted, scratch)
        raise


def run_helm(program: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm, without a cluster and without what this user has set up for it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HELM_")}
    return subprocess.run(
        [program, *words], env={**env, "KUBECONFIG": os.devnull},
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip


def rendered(
    program: Path, values: Iterable[Path], sets: Iterable[str] = (), version: str = "1.33.0"
) -> list[Object]:
    """Return the objects of a release with these files of values, as a cluster would be given."""
    words = ["template", RELEASE, str(CHART), "--namespace", "ads", "--kube-version", version]
    words += [word for file in values for word in ("--values", str(file))]
    words += [word for each in sets for word in ("--set-json", each)]
    done = run_helm(program, *words)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def one(objects: Iterable[Object], kind: str, ending: str = "") -> Object:
    """Return the only object of a kind whose name ends so."""
    [found] = [
        each for each in objects
        if each["kind"] == kind and each["metadata"]["name"].endswith(ending)
    ]  # fmt: skip
    return found


def pod_of(owner: Object) -> Object:
    """Return the specification of the pods of a Deployment or CronJob."""
    spec = owner["spec"]
    while "containers" not in spec:
        spec = (spec.get("jobTemplate") or spec["template"])["spec"]
    return dict(spec)


def container_of(owner: Object) -> Object:
    """Return the only container of the pods of a Deployment or CronJob."""
    [found] = pod_of(owner)["containers"]
    return dict(found)


def variables(container: Object, places: Mapping[str, Path]) -> dict[str, str]:
    """Return the environment of a container, with directories of this machine for its mounts.

    ``places`` has one for each mount that a variable names; the pod is called ``pod-1``.
    """
    given = {"POD_NAME": "pod-1"}
    mounts = sorted((each["mountPath"] for each in container["volumeMounts"]), key=len)
    for each in container["env"]:
        if "value" not in each:
            assert each["name"] in given, each
            continue
        value = re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], each["value"])
        for mount in mounts:
            value = re.sub(
                rf"(?<![\w/.]){re.escape(mount)}(?=/|$)",
                lambda found: str(places[found[0]]),
                value,
            )
        given[each["name"]] = value
    return given
