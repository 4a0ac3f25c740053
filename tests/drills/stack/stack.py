"""The stack of docker-compose.yml under a name, a port, volumes and a secret of its own."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.drills.stack.engine import ROOT, Engine, run
from tests.support.own_connections import OwnConnections
from tests.support.serving import free_port

PROJECT = "deepfm-serving-test"
COMPOSE = ROOT / ".venv" / "bin" / "docker-compose"
SHORT_TRAINING = "hidden = [64, 32]\nepochs = 1\npatience = 0\noov_rate = 0.02\n"
TRAIN_ARGUMENTS = ["--config", "/train.toml", "--split", "random"]


class Stack:
    """Commands to one Compose project, and questions to the service through its port."""

    def __init__(self, engine: Engine, scratch: Path, data: Path) -> None:
        self._engine = engine
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.password = secrets.token_hex(24)
        password, training = scratch / "redis-password", scratch / "train.toml"
        token = scratch / "ray-token"
        password.write_text(self.password)
        token.write_text(secrets.token_hex(32))
        training.write_text(SHORT_TRAINING)
        override = scratch / "override.json"
        volumes = [f"{training}:/train.toml:ro"]
        if engine.closed:
            # Its containers reach no registry, so the data were fetched out here.
            volumes.append(f"{data}:/data:ro")
        services: dict[str, Any] = {
            "train": {"command": TRAIN_ARGUMENTS, "volumes": volumes},
            # Smaller than the vocabulary, so that Redis is asked all the time.
            "service": {
                "image": "${STACK_TEST_IMAGE:-deepfm-serving/service-cpu}",
                "environment": {"CTR_VOCABULARY_CACHE": "500"},
            },
        }
        if engine.closed:
            services["ray-head"] = services["ray-worker"] = services["prepare"] = {
                "volumes": [f"{data}:/data:ro"]
            }
        override.write_text(json.dumps({"services": services}))
        self._files = ["-f", "docker-compose.yml", "-f", "docker-compose.cluster.yml"]
        self._files += ["-f", str(override)]
        self._env = {
            **engine.env, "STACK_PORTS": str(self.port), "STACK_PASSWORD_FILE": str(password),
            "STACK_RAY_TOKEN_FILE": str(token),
        }  # fmt: skip
        connections = OwnConnections(trust_env=False)
        self.client = httpx.Client(base_url=self.url, timeout=10.0, transport=connections)

    def compose(self, *words: str, **env: str) -> str:
        """Run a Compose command; a failure ends the test with the containers' last lines."""
        try:
            return run([COMPOSE, "-p", PROJECT, *self._files, *words], {**self._env, **env})
        except SystemExit as failure:
            if words[0] != "logs":
                logs = self.compose("logs", "--no-color", "--tail", "30")
                raise SystemExit(f"{failure}\n{logs}") from None
            raise

    def docker(self, *words: str, timeout: float | None = None) -> str:
        """Run a command of Docker's; ``subprocess.TimeoutExpired`` where it takes too long."""
        return run([self._engine.docker, *words], self._env, timeout)

    def up(self) -> None:
        """Bring everything up and wait until it is healthy."""
        self.compose("up", "-d", "--build", "--wait")

    def down(self) -> None:
        """Take everything away, volumes too."""
        profiles = ("--profile", "load", "--profile", "cluster")
        self.compose(*profiles, "down", "-v", "--remove-orphans", "--timeout", "30")

    def container(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        [name] = self.compose("ps", "-a", "-q", service).split()
        [found] = json.loads(self.docker("inspect", name))
        return dict(found)

    def redis(self, *words: str) -> str:
        """Ask Redis in its own container."""
        script = 'REDISCLI_AUTH="$(cat /run/secrets/redis-password)" exec redis-cli "$@"'
        return self.compose("exec", "-T", "redis", "sh", "-c", script, "-", *words).strip()

    def status(self, path: str) -> int:
        """The status of a path; 0 where nothing answers."""
        try:
            return self.client.get(path).status_code
        except httpx.TransportError:
            return 0

    def ready(self) -> dict[str, Any]:
        """Return the answer of /ready, whatever its status."""
        return dict(self.client.get("/ready").json())

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = self.client.get("/metrics").raise_for_status().text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(sample.value for sample in samples if sample.name == name)

    def copy_bundle(self, version: str, directory: Path) -> Path:
        """Copy a bundle out of the volume."""
        self.compose("cp", f"service:/bundles/{version}", str(directory))
        return directory / version


@contextmanager
def stack(engine: Engine, data: Path) -> Iterator[Stack]:
    """A stack that is gone in the end, whatever happens."""
    with TemporaryDirectory(prefix="stack-") as scratch:
        # The secret is mounted as the file that it is: others may not get as far as it.
        made = Stack(engine, Path(scratch), data)
        for name in ("redis-password", "ray-token", "train.toml"):
            Path(scratch, name).chmod(0o444)
        made.down()
        try:
            yield made
        finally:
            made.down()
            made.client.close()


def wait_until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> float:
    """Wait for a condition and return how long it took; fail by its name."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise SystemExit(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - start
