"""A rolling update of the chart's pods, as processes: nobody who asks notices."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from tests.drills.faults.drive import Answer, Request, offer, offer_while, run
from tests.drills.faults.figures import Figure, Skipped
from tests.drills.faults.stage import Stage, predict
from tests.drills.rolling import Deployment
from tests.support.chart import CHART, Object, container_of, helm, one, rendered, variables
from tests.support.environments import PeerProblem
from tests.support.programs import installed
from tests.support.proxies import haproxy
from tests.support.serving import Service, free_port, wait_until

UPDATES, REPLICAS = 3, 2
RATE = 300
"""Requests a second."""
VALUES = CHART / "ci" / "plain-values.yaml"
SETS = (f"replicas={REPLICAS}", "workers=1", 'settings={"CTR_DEADLINE_MS":20000}')
"""A deadline longer than a busy machine stands still: what a request waits for is no fault."""
NO_RETRIES = "retries 0"
"""Connections that a pod refuses are lost, as between callers and pods without a proxy."""
SETTLED_SECONDS = 0.5
"""Time of requests before and after an update."""


def rolling_update(stage: Stage) -> Iterator[Figure | Skipped]:
    """Two replicas behind haproxy are replaced three times under load."""
    if not installed("haproxy"):
        yield Skipped("haproxy not installed")
        return
    try:
        program = helm()
    except PeerProblem as problem:
        yield Skipped(f"helm {problem}")
        return
    deployment = one(rendered(program, [VALUES], SETS), "Deployment")
    # An update has up to twice as many pods, as old ones still end.
    ports = [free_port() for _ in range(2 * REPLICAS)]
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(stage.bundle, Path(folder), deployment)
        replicas = Deployment(deployment, ports, processes.replica)
        try:
            front = haproxy(Path(folder) / "haproxy", ports, check_of(deployment), NO_RETRIES)
            with front as port:
                replicas.install()
                wait_settled(port, predict(stage.rows[0]))
                yield from updated(replicas, port, predict(stage.rows[0]))
        finally:
            replicas.kill()
    for fault, number in replicas.faults.items():
        yield Figure(f"pods: {fault}", number, 0, exact=True)
    yield Figure("pods", processes.started)
    yield Figure("pods that did not end as promised", replicas.faults.total(), 0, exact=True)


def wait_settled(port: int, request: Request) -> None:
    """Wait until the proxy has noticed on which of its ports there is no pod."""

    def settled() -> bool:
        answers = run(offer(port, request, RATE, SETTLED_SECONDS))
        return all(answer.status == 200 for answer in answers)

    wait_until(settled, "the proxy knows where pods are", 30)


def check_of(deployment: Object) -> str:
    """The readiness probe as haproxy has it."""
    probe = container_of(deployment)["readinessProbe"]
    return f"inter {probe['periodSeconds']}s fall {probe['failureThreshold']} rise 1"


def asked_until(over: threading.Event, port: int, request: Request) -> list[Answer]:
    """Ask until it is over; return the answers."""
    return run(offer_while(port, request, RATE, lambda: not over.is_set()))


def updated(replicas: Deployment, port: int, request: Request) -> Iterator[Figure]:
    """Update again and again; what those who ask meanwhile see."""
    for number in range(1, UPDATES + 1):
        over = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(asked_until, over, port, request)
            try:
                time.sleep(SETTLED_SECONDS)
                begin = time.monotonic()
                replicas.update()
                seconds = time.monotonic() - begin
                time.sleep(SETTLED_SECONDS)
            finally:
                over.set()
            answers = asking.result()
        failed = [answer for answer in answers if answer.status != 200]
        told = f": {sorted({answer.status for answer in failed})}" if failed else ""
        yield Figure(f"update {number}: requests", len(answers))
        yield Figure(f"update {number}: failed requests{told}", len(failed), 0, exact=True)
        yield Figure(f"update {number}: slowest answer", max(a.seconds for a in answers), unit="s")
        yield Figure(f"update {number}: all pods replaced in", seconds, unit="s")


class Processes:
    """Pods of a Deployment as processes with its environment."""

    def __init__(self, bundle: Path, folder: Path, deployment: Object) -> None:
        self._folder = folder
        env = variables(container_of(deployment), {"/bundles": bundle.parent})
        env.pop("CTR_PORT")
        self._env = env
        self._number = count(1)
        self.started = 0

    def replica(self, port: int) -> Process:
        """Return a pod that is not started yet."""
        self.started += 1
        return Process(port, self._env, self._folder / f"log{next(self._number)}")


class Process:
    """A pod as a process."""

    def __init__(self, port: int, env: dict[str, str], log: Path) -> None:
        self.port = port
        self._env, self._log = env, log
        self._service: Service | None = None

    def start(self) -> None:
        """Begin to run."""
        self._service = Service(None, self._log, self._env, port=self.port)

    @property
    def service(self) -> Service:
        """The process, once it runs."""
        assert self._service is not None
        return self._service

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.service.ask_to_end()

    def ended(self, seconds: float) -> int | None:
        """Wait for the end; return the exit code, or None if it still runs."""
        try:
            return self.service.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """Send SIGKILL."""
        self.service.process.kill()
        self.service.process.wait()
