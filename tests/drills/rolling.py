"""A rolling update as a Deployment and a kubelet make it, on replicas of any kind.

Probes, their times, ``preStop`` and the grace period are those of the rendered Deployment; what a
replica is (a process, a container) is up to whoever calls.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.support.chart import Object, container_of, pod_of

KILLED = "killed at the end of the grace period"
RESTARTED = "restarted for their liveness"


class Replica(Protocol):
    """What runs in the place of a pod."""

    @property
    def port(self) -> int:
        """Where it listens, on this machine."""

    def start(self) -> None:
        """Begin to run."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def ended(self, seconds: float) -> int | None:
        """Wait for the end; return the exit code, or None if it still runs."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Deployment:
    """Replicas behind a set of ports, replaced as the rendered object says.

    ``faults`` counts pods that were killed or restarted, and exit codes other than 0.
    """

    def __init__(
        self, rendered: Object, ports: Sequence[int], replica: Callable[[int], Replica]
    ) -> None:
        self._spec = rendered["spec"]
        self._pod, self._container = pod_of(rendered), container_of(rendered)
        self._replica = replica
        self._free = list(ports)
        self._running: list[tuple[Replica, threading.Event]] = []
        self._ending: list[threading.Thread] = []
        self.faults: Counter[str] = Counter()
        rolling = self._spec["strategy"]["rollingUpdate"]
        assert (rolling["maxSurge"], rolling["maxUnavailable"]) == (1, 0), "one after the other"

    def install(self) -> None:
        """Start all replicas, and wait until they are ready."""
        started = [self._start() for _ in range(self._spec["replicas"])]
        for each in started:
            self._wait_ready(each)

    def update(self) -> None:
        """Replace each replica: the new one is ready before an old one is told to end.

        Returns when all old ones are gone; as in a cluster, they end while others are replaced.
        """
        for old in self._running[: self._spec["replicas"]]:
            self._wait_ready(self._start())
            self._delete(old)
        self._join()

    def kill(self) -> None:
        """End all replicas at once: nobody asks them any more."""
        self._join()
        for replica, over in self._running:
            over.set()
            replica.kill()

    def _start(self) -> Replica:
        replica = self._replica(self._free.pop(0))
        replica.start()
        self._running.append((replica, threading.Event()))
        return replica

    def _wait_ready(self, replica: Replica) -> None:
        """Probe as a kubelet does: the startup probe, then readiness and liveness."""
        probe = self._container["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            if _answers(replica.port, probe):
                break
            if replica.ended(probe["periodSeconds"]) is not None:
                raise AssertionError("a replica ended by itself")
        else:
            raise AssertionError("a replica was not ready within the time of its startup probe")
        readiness = self._container["readinessProbe"]
        while not _answers(replica.port, readiness):
            time.sleep(readiness["periodSeconds"])
        [over] = [over for each, over in self._running if each is replica]
        threading.Thread(target=self._watch, args=(replica, over), daemon=True).start()

    def _watch(self, replica: Replica, over: threading.Event) -> None:
        """Ask whether it is alive until it is told to end."""
        probe, failed = self._container["livenessProbe"], 0
        while not over.wait(probe["periodSeconds"]):
            failed = 0 if _answers(replica.port, probe) else failed + 1
            if failed == probe["failureThreshold"]:
                self.faults[RESTARTED] += 1

    def _delete(self, running: tuple[Replica, threading.Event]) -> None:
        """End a replica in its own time: preStop, SIGTERM, the rest of the grace period."""
        self._running.remove(running)
        replica, over = running
        over.set()
        ending = threading.Thread(target=self._end, args=(replica,))
        ending.start()
        self._ending.append(ending)

    def _end(self, replica: Replica) -> None:
        sleep = self._container["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(sleep)
        replica.terminate()
        code = replica.ended(self._pod["terminationGracePeriodSeconds"] - sleep)
        if code is None:
            replica.kill()
            self.faults[KILLED] += 1
        elif code:
            self.faults[f"exit code {code}"] += 1
        self._free.append(replica.port)

    def _join(self) -> None:
        """Wait until all that were told to end have ended."""
        while self._ending:
            self._ending.pop().join()


def _answers(port: int, probe: Object) -> bool:
    """Return whether a probe succeeds: an answer in time with a status of 200 to 399."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=probe["timeoutSeconds"])
    try:
        connection.request("GET", probe["httpGet"]["path"])
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
