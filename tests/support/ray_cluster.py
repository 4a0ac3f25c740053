"""A real Ray on this machine, in an environment of its own, which ends with its test session."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tests.support.bytecode import PLACE
from tests.support.children import ending_with_us
from tests.support.environments import PACKAGES, ROOT
from tests.support.processes import children, runs
from tests.support.serving import free_port, wait_until

CPUS = 4
TOKEN = secrets.token_hex(32)
"""Of all Rays of this session."""
_OBJECTS = 128 * 2**20
_SESSIONS = Path(tempfile.gettempdir(), "ctr-test-ray-sessions")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray whose machine says that it has ``CPUS``."""

    python: Path
    pid: int
    address: str
    client: str
    """The address of its client server."""

    def environment(self) -> dict[str, str]:
        """Return variables for a command that sees the product's code."""
        return {**_variables(), "PYTHONPATH": os.pathsep.join([str(ROOT), str(PACKAGES)])}

    def workers(self, doing: str = "") -> list[int]:
        """Return the processes that run a function of this name now, by default all workers."""
        titles = {pid: _title(pid) for pid in _below(self.pid)}
        agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
        wanted = [p for p, title in titles.items() if title.startswith("ray::")]
        if not doing:
            return [pid for pid in wanted if titles[pid] not in agents]
        return [pid for pid in wanted if titles[pid] == f"ray::{doing}"]

    def command(self, *words: object) -> list[str]:
        """Return the command line of ``python -m model`` in the environment."""
        return [str(self.python), "-m", "model", *map(str, words)]

    def run(self, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the trainer to its end, with more variables."""
        return subprocess.run(
            self.command(*words), cwd=ROOT, env={**self.environment(), **variables},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    def program(self, text: str, *words: object) -> str:
        """Run a program, and return what it prints.

        Of programs that are given the address of a client server, one runs at a time: two servers
        on one machine may give their sessions one port.
        """
        with FileLock(_SESSIONS) if self.client in words else nullcontext():
            done = subprocess.run(
                [str(self.python), "-c", text, *map(str, words)], cwd=ROOT,
                env=self.environment(), capture_output=True, text=True, timeout=300,
            )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def cluster(python: Path) -> Iterator[Cluster]:
    """Start a Ray whose workers have the product's packages, but not its code."""
    # Short: sockets lie there, whose names have a limit.
    place = Path(tempfile.mkdtemp(prefix="ctr-ray-"))
    port, client = free_port(), free_port()
    words = [
        str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block",
        "--port", str(port),
        "--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(free_port()),
        "--min-worker-port", "0", "--max-worker-port", "0", "--num-cpus", str(CPUS),
        "--object-store-memory", str(_OBJECTS), "--include-dashboard", "false",
        "--disable-usage-stats", "--temp-dir", str(place),
    ]  # fmt: skip
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            ending_with_us(words), cwd=place, stdout=log, stderr=subprocess.STDOUT,
            env={**_variables(), "PYTHONPATH": str(PACKAGES)},
        )  # fmt: skip
    try:
        wait_until(
            lambda: "Ray runtime started" in (place / "log").read_text(), "Ray has started", 120
        )
        wait_until(lambda: _listens(client), "its client server listens", 120)
        yield Cluster(python, process.pid, f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}")
    finally:
        # Told to end, it would wait for half a minute for nothing.
        left = [process.pid, *_below(process.pid)]
        for pid in filter(runs, left):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _variables() -> dict[str, str]:
    # Without a token of ours, Ray puts one into the home directory.
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # Ray's workers are nice by default, and wait for all else that a busy machine does.
    own["RAY_worker_niceness"] = "0"
    # Beside the code, bytecode would be handed to workers, who have it under another path.
    own["PYTHONPYCACHEPREFIX"] = str(PLACE)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **own}


def _below(pid: int) -> list[int]:
    """Return all processes below one, as far as they are there."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        try:
            below = children(waiting.pop())
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += below
        waiting += below
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
