"""The promises of the stack, step by step, in real containers."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.drills.stack.pods import rolled
from tests.drills.stack.stack import PROJECT, TRAIN_ARGUMENTS, Stack, wait_until
from tests.drills.stack.traffic import RIGHT, Traffic, Truth

LATE_SECONDS = 20.0
OUTAGE_SECONDS = 5.0
GRACE_SECONDS = 30.0
SLOW_SECONDS = 0.4
SERVICE_IMAGE = "deepfm-serving/service-cpu"
IMAGES = (SERVICE_IMAGE, "deepfm-serving/trainer")
NEXT_IMAGE = f"{PROJECT}/next-service"


def need(holds: object, what: str) -> None:
    """End the test unless something holds."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")


class Proof:
    """The steps, in their order; each leaves a healthy stack behind."""

    def __init__(self, stack: Stack, truth: Truth, bundles: Path) -> None:
        self.stack = stack
        self.truth = truth
        self.bundles = bundles

    def cold_start(self) -> str:
        """Nothing is there; in the end the first request through the port is right."""
        self.stack.down()
        self.stack.up()
        version = self.stack.ready()["version"]
        self._learn(version)
        self._first_ranking()
        need(self.stack.container("service")["RestartCount"] == 0, "the service restarted")
        return f"bundle {version}"

    def _learn(self, version: str) -> None:
        self.truth.add(self.stack.copy_bundle(version, self.bundles), self.stack.client)

    def _first_ranking(self) -> None:
        answer = self.stack.client.post(
            "/rank", content=self.truth.bodies[0], headers={"content-type": "application/json"}
        )
        need(answer.status_code == 200, f"the first ranking: {answer.status_code} {answer.text}")
        need(self.truth.judge(0, answer.json()) == RIGHT, "the first ranking's scores")

    def scores(self) -> str:
        """Rows alone and in company have the bundle's own logits, and came through Redis."""
        stack = self.stack
        before = stack.metric("ctr_redis_round_trips_total")
        check = self.truth.add(self.bundles / stack.ready()["version"], stack.client)
        check.rows = 300
        check.shuffled = check.shuffled[check.shuffled < check.rows]
        worst = max(check.run().values())
        tolerance = stack.client.get("/model").json()["tolerance"]
        need(worst <= tolerance, f"a logit differs by {worst:.1e}, {tolerance:g} allowed")
        trips = stack.metric("ctr_redis_round_trips_total") - before
        lookups = stack.metric("ctr_vocabulary_lookups_total")
        need(stack.ready()["vocabulary"] == "redis", "the vocabulary is not read from Redis")
        need(trips > 0 and lookups > 0, "no look-up in Redis happened")
        need(stack.metric("ctr_vocabulary_fallbacks_total") == 0, "something stood in for Redis")
        served = stack.redis("INFO", "commandstats")
        need("cmdstat_hmget" in served, f"Redis itself saw no look-up: {served}")
        return f"worst logit difference {worst:.1e}; {trips:.0f} questions to Redis"

    def hardening(self) -> str:
        """No root, nothing writable, no torch, no secret where it can be read off."""
        for name in ("service", "redis"):
            found = self.stack.container(name)
            need(found["HostConfig"]["ReadonlyRootfs"], f"{name}: the root file system is writable")
            need(found["Config"]["User"].split(":")[0] not in ("", "0", "root"), f"{name} is root")
            need(found["HostConfig"]["CapDrop"] == ["ALL"], f"{name} has capabilities")
            need(self.stack.password not in json.dumps(found), f"{name} shows the password")
        ports = self.stack.container("service")["NetworkSettings"]["Ports"]["8000/tcp"]
        need({port["HostIp"] for port in ports} == {"127.0.0.1"}, "the port is open to others")
        listed = self.stack.compose(
            "exec", "-T", "service", "python", "-c",
            "import importlib.util as u; print([n for n in ('torch', 'model', 'pip') "
            "if u.find_spec(n)])",
        )  # fmt: skip
        need(listed.strip() == "[]", f"the service's image holds {listed}")
        for service in ("redis", "service"):
            logs = self.stack.compose("logs", "--no-log-prefix", service)
            need(self.stack.password not in logs, f"{service} logs the password")
        sizes = {
            image: int(self.stack.docker("image", "inspect", "-f", "{{.Size}}", image)) / 1e6
            for image in IMAGES
        }
        return ", ".join(f"{image} {size:.0f} MB" for image, size in sizes.items())

    def load(self) -> str:
        """The load profile runs, and gets an answer to everything."""
        said = self.stack.compose(
            "--profile", "load", "run", "--rm", "-T", "--build", "load", "--rate", "50",
            "--duration", "5", "--allowed-delay-ms", "1000", "--objective", "errors<=0%",
        )  # fmt: skip
        return next(line for line in said.splitlines() if line.startswith("answers")).strip()

    def redis_outage(self) -> str:
        """Redis ends and comes back under load: every answer is right, before, between, after."""
        stack = self.stack
        with Traffic(stack.url, self.truth) as traffic:
            time.sleep(2)
            stack.compose("stop", "redis")
            took = wait_until(
                lambda: stack.ready()["degraded"] == ["vocabulary"], "it says that it is degraded"
            )
            gone = time.monotonic()
            time.sleep(OUTAGE_SECONDS)
            stood_in = stack.metric("ctr_vocabulary_fallbacks_total")
            need(stood_in > 0, "nothing was looked up while Redis was away")
            slowest = traffic.slowest_ms(gone)
            stack.compose("start", "redis")
            wait_until(lambda: stack.ready()["degraded"] == [], "it is whole again")
            trips = stack.metric("ctr_redis_round_trips_total")
            time.sleep(2)
            need(stack.metric("ctr_redis_round_trips_total") > trips, "Redis is not asked again")
        outcomes = traffic.outcomes()
        need(set(outcomes) == {RIGHT}, f"under an outage of Redis: {dict(outcomes)}")
        return (
            f"{outcomes[RIGHT]} rankings, all right; noticed after {took:.1f} s, "
            f"{stood_in:.0f} values stood in, slowest ranking meanwhile {slowest:.0f} ms"
        )

    def _without_redis(self, fallback: str) -> None:
        self.stack.compose("rm", "-s", "-f", "service", "publish", "redis")
        self.stack.docker("volume", "rm", f"{PROJECT}_redis")
        self.stack.compose("up", "-d", "--no-deps", "service", CTR_VOCABULARY_FALLBACK=fallback)
        wait_until(lambda: self.stack.status("/live") == 200, "the service is alive")

    def _stays(self, path: str, status: int, what: str) -> None:
        end = time.monotonic() + LATE_SECONDS
        while time.monotonic() < end:
            found = self.stack.status(path)
            need(found == status, f"{what}: {path} answered {found}")
            need(self.stack.status("/live") == 200, f"{what}: not alive")
            time.sleep(0.5)

    def late(self) -> str:
        """Redis comes late, the vocabulary later: alive but not ready, then ready by itself."""
        stack = self.stack
        self._without_redis("oov")
        self._stays("/ready", 503, "without Redis")
        stack.compose("up", "-d", "--no-deps", "redis")
        self._stays("/ready", 503, "without a vocabulary")
        stack.compose("up", "-d", "--no-deps", "publish")
        took = wait_until(lambda: stack.status("/ready") == 200, "it is ready")
        need(stack.container("service")["RestartCount"] == 0, "the service restarted")
        self._first_ranking()
        return f"ready {took:.1f} s after the publisher was started"

    def late_snapshot(self) -> str:
        """With its own copy in reserve it is ready without Redis, right, and says so."""
        stack = self.stack
        self._without_redis("snapshot")
        wait_until(lambda: stack.status("/ready") == 200, "it is ready")
        need(stack.ready()["degraded"] == ["vocabulary"], "it does not say that it is degraded")
        self._first_ranking()
        stack.compose("up", "-d", "--wait", "redis", "service")
        wait_until(lambda: stack.ready()["degraded"] == [], "it is whole again")
        need(stack.container("service")["RestartCount"] == 0, "the service restarted")
        self._first_ranking()
        return "right without Redis; found Redis and vocabulary by itself"

    def cluster(self) -> str:
        """Data prepared by a Ray head and two workers are those that one process prepares."""
        profile = ("--profile", "cluster")
        start = time.monotonic()
        self.stack.compose(*profile, "up", "-d", "--build", "--wait", "ray-head", "ray-worker")
        up = time.monotonic() - start
        words = ["prepare", "model/specs/movielens-100k.toml", "/data/movielens-100k/ratings.csv"]
        words += ["--split", "random", "--worker-memory", "512", "--cache"]
        there = ["--cluster", "ray://ray-head:10001"]
        run = (*profile, "run", "--rm", "-T", "--no-deps", "prepare")
        seconds = []
        for more in (["/encoded/one"], ["/encoded/two", *there]):
            start = time.monotonic()
            self.stack.compose(*run, *words, *more)
            seconds.append(time.monotonic() - start)
        self.stack.compose(
            *profile, "run", "--rm", "-T", "--no-deps", "--entrypoint", "diff", "prepare",
            "-r", "/encoded/one", "/encoded/two",
        )  # fmt: skip
        self.stack.compose(*profile, "rm", "--force", "--stop", "ray-head", "ray-worker")
        return (
            f"up in {up:.0f} s; {seconds[0]:.0f} s in one process, {seconds[1]:.0f} s on the"
            " cluster, to the byte the same"
        )

    def _choose(self, version: str) -> None:
        """Let the file CURRENT name a bundle."""
        script = f"echo {version} >/bundles/CURRENT"
        self.stack.compose(
            "run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "train", "-c", script
        )

    def roll(self) -> str:
        """Another bundle is trained, published, and taken up under load without a gap."""
        stack = self.stack
        old = stack.ready()["version"]
        self._choose(old)
        said = stack.compose(
            "run", "--rm", "-T", "--no-deps", "--entrypoint", "python -m model", "train", "train",
            "model/specs/movielens-100k.toml", "/data/movielens-100k/ratings.csv",
            "--out", "/bundles", "--seed", "2", *TRAIN_ARGUMENTS,
        )  # fmt: skip
        new = Path(said.strip().splitlines()[-1]).name
        need(new != old, "training made no new bundle")
        self._learn(new)
        stack.compose("run", "--rm", "-T", "--no-deps", "publish", "publish", f"/bundles/{new}")
        with Traffic(stack.url, self.truth) as traffic:
            time.sleep(2)
            need(stack.ready()["version"] == old, "the bundle changed before it was chosen")
            self._choose(new)
            took = wait_until(lambda: stack.ready()["version"] == new, "it has the new bundle")
            wait_until(lambda: stack.ready()["degraded"] == [], "it reads the new vocabulary")
            time.sleep(2)
        outcomes = traffic.outcomes()
        need(set(outcomes) == {RIGHT}, f"around another bundle: {dict(outcomes)}")
        versions = [each.version for each in traffic.asked]
        need(versions[0] == old and versions[-1] == new, "not from the old bundle to the new")
        need(stack.container("service")["RestartCount"] == 0, "the service restarted")
        return f"{old} to {new} after {took:.1f} s; {outcomes[RIGHT]} rankings, all right"

    def new_image(self) -> str:
        """`up -d` with a new image under load replaces the service and nothing else."""
        stack = self.stack
        before = {name: stack.container(name) for name in ("redis", "service")}
        with TemporaryDirectory(prefix="image-") as context:
            Path(context, "Dockerfile").write_text(f"FROM {SERVICE_IMAGE}\nLABEL revision=next\n")
            stack.docker("build", "-q", "-t", NEXT_IMAGE, context)
        with Traffic(stack.url, self.truth) as traffic:
            time.sleep(2)
            start = time.monotonic()
            stack.compose("up", "-d", "--wait", STACK_TEST_IMAGE=NEXT_IMAGE)
            time.sleep(2)
        change = self._change(traffic, start)
        after = {name: stack.container(name) for name in before}
        need(after["service"]["Config"]["Image"] == NEXT_IMAGE, "not the new image")
        need(after["service"]["RestartCount"] == 0, "the service restarted")
        need(after["redis"]["Id"] == before["redis"]["Id"], "Redis was replaced, too")
        stack.compose("up", "-d", "--wait")
        need(stack.container("service")["Image"] == before["service"]["Image"], "not back again")
        stack.docker("image", "rm", NEXT_IMAGE)
        return change

    def _change(self, traffic: Traffic, start: float) -> str:
        """Judge what callers saw of a service that went at ``start``, and of the next one."""
        before, after = traffic.outcomes(end=start), traffic.outcomes(start)
        need(set(before) == {RIGHT}, f"before the change: {dict(before)}")
        self._only_refused(after)
        need(traffic.asked[-1].outcome == RIGHT, f"in the end: {traffic.asked[-1].outcome}")
        answered = sorted(each.ended for each in traffic.asked if each.outcome == RIGHT)
        gap = max(late - early for early, late in pairwise(answered))
        return f"{gap:.1f} s without an answer; {dict(after)}"

    def _only_refused(self, outcomes: Counter[str]) -> None:
        """Requests that meet a closing or closed service may be refused; no other failure may."""
        allowed = {RIGHT, "503", "ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}
        need(set(outcomes) <= allowed, f"around the end of a service: {dict(outcomes)}")

    def rolling_update(self) -> str:
        """Pods of the chart, as containers, are replaced under load: no request fails."""
        return rolled(self.stack, self.truth.bodies[0])

    def stop_under_load(self) -> str:
        """SIGTERM under load: what was begun is answered, idle connections do not hold it up."""
        stack = self.stack
        container = stack.container("service")["Id"]
        body = self.truth.bodies[0]
        head = (
            "POST /rank HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode()
        address = ("127.0.0.1", stack.port)
        with (
            closing(socket.create_connection(address, 10)) as idle,
            closing(socket.create_connection(address, 10)) as slow,
            Traffic(stack.url, self.truth) as traffic,
        ):
            idle.sendall(head + body)
            need(idle.recv(12).endswith(b"200"), "a request on a connection that then idles")
            time.sleep(2)
            slow.sendall(head + body[:-1])
            late = threading.Timer(SLOW_SECONDS, slow.sendall, [body[-1:]])
            late.start()
            start = time.monotonic()
            stack.docker("stop", container)
            took = time.monotonic() - start
            late.join()
            said = slow.recv(12)
            need(said.endswith(b"200"), f"a request whose end comes after SIGTERM: {said!r}")
        begun, later = traffic.outcomes(end=start), traffic.outcomes(start)
        need(set(begun) == {RIGHT}, f"begun before the stop: {dict(begun)}")
        self._only_refused(later)
        state = stack.container("service")["State"]
        need(state["ExitCode"] == 0, f"the service ended with {state['ExitCode']}")
        need(took < GRACE_SECONDS, f"the stop took {took:.1f} s")
        stack.compose("up", "-d", "--wait", "service")
        return f"exit code 0 after {took:.1f} s; {begun[RIGHT]} right before; then {dict(later)}"
