"""What a pod of the chart is told to do, done without a container: environment, files, an end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin import BEARER, write_hash
from tests.support.chart import CHART, Object, container_of, one, pod_of, rendered, variables
from tests.support.feedback import key_file
from tests.support.markdown import ROOT
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, environment, free_port, strict
from tests.support.starting import interpreter_that_forks, passed, run

pytestmark = pytest.mark.extras
QUICK = ["lameDuckSeconds=2", "readiness.periodSeconds=1", "preStopSeconds=1", "drainSeconds=5"]


def places(folder: Path) -> dict[str, Path]:
    """Return a directory for each mount of a pod."""
    names = ("/bundles", "/etc/ctr", "/requests", "/feedback", "/tmp", "/data", "/config")
    found = {name: folder / name.strip("/").replace("/", "-") for name in names}
    for each in found.values():
        each.mkdir()
    return found


class Running:
    """A pod's container as a process: its entrypoint, its environment, its probes."""

    def __init__(self, deployment: Object, folder: Path, mounts: dict[str, Path]) -> None:
        self.pod = pod_of(deployment)
        self.container = container_of(deployment)
        assert "command" not in self.container
        assert "args" not in self.container
        entrypoint = re.findall(
            r"^ENTRYPOINT (.+)$", (ROOT / "docker/service.Dockerfile").read_text(), re.M
        )
        assert json.loads(entrypoint[0]) == ["python", "-m", "app"]
        env = variables(self.container, mounts)
        assert env.pop("CTR_PORT") == "8000"
        self.env = env
        self.service = Service(None, folder / "log", env)

    def probe(self, name: str) -> int:
        """Ask as the kubelet does; return the status."""
        probe = self.container[f"{name}Probe"]
        ports = {each["name"]: each["containerPort"] for each in self.container["ports"]}
        assert ports[probe["httpGet"]["port"]] == 8000
        return self.service.client.get(probe["httpGet"]["path"]).status_code


@pytest.fixture
def running(helm: Path, tiny_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    """A pod with everything that needs no other server."""
    mounts = places(tmp_path)
    shutil.copytree(tiny_bundle, mounts["/bundles"] / tiny_bundle.name)
    write_hash(tmp_path / "hash").rename(mounts["/etc/ctr"] / "admin-keys")
    key_file(tmp_path).rename(mounts["/etc/ctr"] / "feedback-keys")
    (mounts["/etc/ctr"] / "gate.toml").write_text("[test]\nmin_auc = 0.5\n")
    sets = [
        *QUICK, 'bundles={"existingClaim":"bundles","readOnly":false}', 'gate.configMap="gate"',
        f'admin={{"keySecret":{{"name":"keys"}},"port":{free_port()}}}',
        'requestLog.existingClaim="requests"', 'feedback.existingClaim="events"',
        'feedback.keySecret.name="keys"',
        'settings={"CTR_REQUEST_LOG_SHARE":1,"CTR_REQUEST_LOG_BYTES":1073741824,'
        '"CTR_DEADLINE_MS":10000}',
    ]  # fmt: skip
    deployment = one(rendered(helm, [], sets), "Deployment")
    pod = Running(deployment, tmp_path, mounts)
    try:
        pod.service.wait_ready()
        yield pod
    finally:
        if pod.service.process.poll() is None:
            pod.service.stop()


def test_a_pod_serves(running: Running, sample: Sample, tmp_path: Path) -> None:
    """It scores, logs and takes events where its volumes are; its admin port knows the keys."""
    service = running.service
    for name in ("startup", "readiness", "liveness"):
        assert running.probe(name) == 200
    assert len(service.predict(sample.rows[:3])) == 3
    told = service.client.post(
        "/feedback", headers=BEARER, json={"events": [{"request_id": "r", "index": 0, "label": 1}]}
    )
    assert told.status_code == 202, told.text
    assert list((tmp_path / "feedback" / "pod-1").iterdir())
    assert (tmp_path / "requests" / "pod-1").is_dir()
    listing = service.client.get(
        f"http://127.0.0.1:{running.env['CTR_ADMIN_PORT']}/admin/bundles", headers=BEARER
    )
    assert listing.status_code == 200
    assert not [event for event in service.events() if event["level"] in ("warning", "error")]


def test_a_pod_ends_as_promised(running: Running, sample: Sample) -> None:
    """During preStop all is as ever; then it is alive and not ready, answers, and ends with 0."""
    service = running.service
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.02):
            statuses.append(service.post("/predict", {"instances": sample.rows[:1]}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        time.sleep(running.container["lifecycle"]["preStop"]["sleep"]["seconds"])
        assert running.probe("readiness") == 200
        begin = time.monotonic()
        service.terminate()
        while running.probe("readiness") == 200:
            assert time.monotonic() - begin < 1.0
        assert running.probe("liveness") == 200
    finally:
        over.set()
        asking.join()
    assert service.exit_code() == 0
    assert time.monotonic() - begin < running.pod["terminationGracePeriodSeconds"]
    assert set(statuses) == {200}


def test_vocabulary_and_catalogue_in_redis(
    helm: Path, tiny_bundle: Path, sample: Sample, valkey: RedisServer, tmp_path: Path
) -> None:
    """With their passwords out of files, as Secrets are mounted."""
    mounts = places(tmp_path)
    shutil.copytree(tiny_bundle, mounts["/bundles"] / tiny_bundle.name)
    password = mounts["/etc/ctr"] / "redis-password"
    password.write_text("correct horse")
    shutil.copy(password, mounts["/etc/ctr"] / "store-password")
    valkey.command("CONFIG", "SET", "requirepass", "correct horse")
    lines = tmp_path / "items.jsonl"
    items = {row["item_id"]: candidate_of(row) for row in sample.rows[:50]}
    lines.write_text("".join(json.dumps(each) + "\n" for each in items.values()))
    store = f"{valkey.url}?password_file={password}"
    published = run("model", "publish", str(tiny_bundle), "--redis", valkey.url,
                    "--redis-password-file", str(password), env=environment())  # fmt: skip
    assert published.returncode == 0, published.stderr
    put = run("app", "items", "put", str(lines), "--id", "item_id", "--bundle", str(tiny_bundle),
              "--store", store, "--create", env=environment())  # fmt: skip
    assert put.returncode == 0, put.stderr
    sets = [
        *QUICK, 'bundles.existingClaim="bundles"', "workers=1",
        f'redis={{"url":"{valkey.url}","passwordSecret":{{"name":"cache"}}}}',
        f'store={{"url":"{valkey.url}","passwordSecret":{{"name":"cache"}}}}',
        'settings={"CTR_VOCABULARY_FALLBACK":"reject","CTR_DEADLINE_MS":10000}',
    ]  # fmt: skip
    pod = Running(one(rendered(helm, [], sets), "Deployment"), tmp_path, mounts)
    try:
        told = pod.service.wait_ready()
        assert told["vocabulary"] == "redis"
        context = context_of(sample.rows[0])
        answer = pod.service.post("/rank", {"context": context, "candidates": {"all": True}})
        assert answer.status_code == 200, answer.text
        assert len(strict(answer.content)["ranking"]) == len(items)
    finally:
        assert pod.service.stop() == 0


def test_the_job_trains(helm: Path, sample: Sample, valkey: RedisServer, tmp_path: Path) -> None:
    """Its command, arguments and environment give a bundle that is published and can be served."""
    mounts = places(tmp_path)
    (mounts["/config"] / "clicks.toml").write_text(sample.spec.read_text())
    (mounts["/config"] / "clicks.train.toml").write_text("epochs = 1\nthreads = 1\n")
    shutil.copy(sample.data, mounts["/data"])
    (mounts["/etc/ctr"] / "redis-password").write_text("correct horse")
    (mounts["/etc/ctr"] / "gate.toml").write_text("[test]\nmin_auc = 0.0\n")
    valkey.command("CONFIG", "SET", "requirepass", "correct horse")
    values = [CHART / "ci" / "trainer-values.yaml"]
    job = one(rendered(helm, values, [f'redis.url="{valkey.url}"']), "CronJob")
    container = container_of(job)
    assert container["command"] == ["sh", "daily-bundle"]
    assert "daily-bundle" in (ROOT / "docker" / "trainer.Dockerfile").read_text()
    told: list[Any] = [
        {"name": str(place), "value": each} for place, each in enumerate(container["args"])
    ]
    words = list(variables({**container, "env": told}, mounts).values())[1:]
    (tmp_path / "bin").mkdir()
    forking = interpreter_that_forks(tmp_path / "bin" / "python")
    env = environment({**variables(container, mounts), **forking})
    env["PATH"] = f"{tmp_path / 'bin'}:{env['PATH']}"
    done = subprocess.run(
        ["sh", ROOT / "docker" / "daily-bundle", *words],
        cwd=ROOT, env=env, pass_fds=passed(env), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bundle = Path(done.stdout.splitlines()[-1])
    assert bundle.parent == mounts["/bundles"]
    assert (bundle / "manifest.json").is_file()
    listed = run("model", "list", "--redis", valkey.url, "--redis-password-file",
                 str(mounts["/etc/ctr"] / "redis-password"), env=environment())  # fmt: skip
    assert bundle.name in listed.stdout
