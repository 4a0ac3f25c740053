"""Pods of the chart as containers, with what it renders, on the bundles of the stack."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.drills.faults.drive import Request
from tests.drills.faults.rolling_update import (
    NO_RETRIES,
    RATE,
    REPLICAS,
    SETS,
    VALUES,
    check_of,
    updated,
    wait_settled,
)
from tests.drills.rolling import Deployment
from tests.drills.stack.stack import PROJECT, Stack
from tests.support.chart import Object, container_of, helm, one, pod_of, rendered
from tests.support.environments import PeerProblem
from tests.support.programs import installed
from tests.support.proxies import haproxy
from tests.support.serving import free_port

IMAGE = "deepfm-serving/service-cpu"


class Container:
    """A pod as a container, whose port is published on this machine."""

    def __init__(self, stack: Stack, deployment: Object, port: int) -> None:
        self.port = port
        self._stack = stack
        self._name = f"{PROJECT}-pod-{port}"
        container, pod = container_of(deployment), pod_of(deployment)
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        user = pod["securityContext"]
        self._words = [
            "--read-only", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp",
            "--user", f"{user['runAsUser']}:{user['runAsGroup']}",
            "--volume", f"{PROJECT}_bundles:/bundles:ro",
            "--memory", container["resources"]["limits"]["memory"].replace("i", "").lower(),
            *(word for each in security["capabilities"]["drop"] for word in ("--cap-drop", each)),
            *(
                word for each in container["env"]
                for word in ("--env", f"{each['name']}={each['value']}")
            ),
        ]  # fmt: skip

    def start(self) -> None:
        """Begin to run."""
        published = f"127.0.0.1:{self.port}:8000"
        self._stack.docker(
            "run", "-d", "--name", self._name, "--network", f"{PROJECT}_default",
            "--publish", published, *self._words, IMAGE,
        )  # fmt: skip

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._stack.docker("kill", "--signal", "TERM", self._name)

    def ended(self, seconds: float) -> int | None:
        """Wait for the end; return the exit code, or None if it still runs.

        A container that has ended is removed, so that its port is free.
        """
        try:
            code = int(self._stack.docker("wait", self._name, timeout=seconds))
        except subprocess.TimeoutExpired:
            return None
        self._stack.docker("rm", self._name)
        return code

    def kill(self) -> None:
        """Remove it, whatever it does."""
        self._stack.docker("rm", "--force", self._name)


def rolled(stack: Stack, body: bytes) -> str:
    """Replace two pods behind haproxy three times; say what was lost, which must be nothing.

    Raises:
        SystemExit: a request failed, or a pod did not end as promised.
    """
    if not installed("haproxy"):
        return "SKIPPED: haproxy not installed"
    try:
        program = helm()
    except PeerProblem as problem:
        return f"SKIPPED: helm {problem}"
    deployment = one(rendered(program, [VALUES], SETS), "Deployment")
    ports = [free_port() for _ in range(2 * REPLICAS)]
    replicas = Deployment(deployment, ports, lambda port: Container(stack, deployment, port))
    try:
        with (
            TemporaryDirectory(prefix="haproxy-") as folder,
            haproxy(Path(folder), ports, check_of(deployment), NO_RETRIES) as port,
        ):
            request = Request("/rank", body)
            replicas.install()
            wait_settled(port, request)
            figures = list(updated(replicas, port, request))
    finally:
        replicas.kill()
    failed = [f"{each.name} {each.value:g}" for each in figures if each.failed]
    if failed or replicas.faults:
        raise SystemExit(f"FAILED: a rolling update: {failed}, {dict(replicas.faults)}")
    asked = sum(each.value for each in figures if each.name.endswith("requests"))
    return f"three updates at {RATE} requests a second: {asked:.0f} requests, none failed"
