"""A Docker engine: the one that runs here, or one set up for the test on Debian as root."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STATE = Path("/var/tmp/deepfm-serving-stack")
"""Things that the next run finds again: the base image, wheels, the engine's layers."""
START_SECONDS = 60.0
WHEELS_PORT = 38_765
"""Always the same, as it is part of what the layers of packages are cached by."""
BASE_PACKAGES = (
    "python3", "python3-venv", "python3-pip", "python-is-python3", "ca-certificates",
    "redis-server",
)  # fmt: skip
BASE_IMAGES = ("python:3.11-slim-bookworm", "redis:7-bookworm")
REDIS_USER = 999
"""The user of the official Redis image, who owns its /data."""
COMMAND_LINE = Path("/usr/bin/docker")
TRIAL = "deepfm-serving-trial"


@dataclass(frozen=True, slots=True)
class Engine:
    """The way to an engine, and whether its containers reach the outside."""

    docker: str
    env: Mapping[str, str]
    closed: bool


class NoEngine(Exception):
    """This machine cannot run an engine, for a reason that is none of the stack's."""


def run(
    words: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Run a command and return its output; a failure shows what it wrote."""
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    if done.returncode:
        wrote = f"{done.stdout}\n{done.stderr}"[-6000:]
        raise SystemExit(f"{words[0]} {words[1]} ended with {done.returncode}:\n{wrote}")
    return done.stdout


@contextmanager
def engine() -> Iterator[Engine]:
    """The engine of this machine, or one that lives as long as this context.

    Raises:
        NoEngine: there is none and none can be set up.
    """
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "info"], capture_output=True).returncode:
        yield Engine(docker, dict(os.environ), closed=False)
        return
    print("no Docker engine answers; setting one up", flush=True)
    STATE.mkdir(mode=0o700, exist_ok=True)
    with _alone(), ExitStack() as stack:
        try:
            _install()
            env = stack.enter_context(_daemon())
            _base_images(env)
            _try_out(env)
            find_links = stack.enter_context(_wheels())
        except SystemExit as failure:
            raise NoEngine(str(failure)) from failure
        env |= {"PIP_FIND_LINKS": find_links, "PIP_NO_INDEX": "1", "STACK_BUILD_NETWORK": "host"}
        yield Engine(str(COMMAND_LINE), env, closed=True)


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other run uses the state, and keep others waiting."""
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another run to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install() -> None:
    needed = {"docker.io": COMMAND_LINE, "containerd": Path("/usr/bin/containerd"),
              "mmdebstrap": Path("/usr/bin/mmdebstrap")}  # fmt: skip
    absent = [package for package, program in needed.items() if not program.exists()]
    if absent:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"])
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent], env)


@contextmanager
def _daemon() -> Iterator[dict[str, str]]:
    """An engine without firewall rules, and limits that need no privilege to raise."""
    socket, log = STATE / "docker.sock", STATE / "dockerd.log"
    env = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "DOCKER_BUILDKIT": "0"}
    if _answers(env):
        # Left behind by a run that was killed: no living one has the lock.
        os.kill(int((STATE / "docker.pid").read_text()), signal.SIGTERM)
        _wait(lambda: not (STATE / "docker.pid").exists(), "the engine of an earlier run ends", log)
    with log.open("wb") as file:
        daemon = subprocess.Popen(
            [
                "/usr/sbin/dockerd", "--data-root", STATE / "data", "--exec-root", STATE / "exec",
                "--pidfile", STATE / "docker.pid", "--host", f"unix://{socket}",
                "--iptables=false", "--ip6tables=false", "--bridge=none",
                "--default-ulimit", "nofile=20000:20000", "--default-ulimit", "nproc=4096:4096",
            ],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(lambda: _answers(env) or daemon.poll() is not None, "dockerd starts", log)
        if daemon.poll() is not None:
            raise SystemExit(f"dockerd ended:\n{log.read_text()[-4000:]}")
        yield env
    finally:
        daemon.terminate()
        daemon.wait(START_SECONDS)
        # dockerd leaves this behind, and then its directory cannot be removed.
        subprocess.run(["umount", STATE / "exec" / "netns" / "default"], capture_output=True)


def _answers(env: Mapping[str, str]) -> bool:
    """Return whether an engine answers."""
    return not subprocess.run([COMMAND_LINE, "info"], env=env, capture_output=True).returncode


def _wait(holds: Callable[[], bool], what: str, log: Path) -> None:
    """Wait for a condition; give up by its name, with what the engine wrote."""
    end = time.monotonic() + START_SECONDS
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"not within {START_SECONDS:g} s: {what}:\n{log.read_text()[-4000:]}")
        time.sleep(0.2)


def _try_out(env: Mapping[str, str]) -> None:
    """Run a container in a network of its own: some machines start an engine and no more."""
    # A run that was killed may have left it.
    subprocess.run([COMMAND_LINE, "network", "rm", TRIAL], env=env, capture_output=True)
    run([COMMAND_LINE, "network", "create", TRIAL], env)
    run([COMMAND_LINE, "run", "--rm", "--network", TRIAL, BASE_IMAGES[0], "true"], env)
    run([COMMAND_LINE, "network", "rm", TRIAL], env)


def _base_images(env: Mapping[str, str]) -> None:
    """Debian with Python and Redis, under the names of the images that a registry would give."""
    present = run([COMMAND_LINE, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], env)
    if set(BASE_IMAGES) <= set(present.split()):
        return
    tar = STATE / "base.tar"
    partial_tar = STATE / "base.partial.tar"
    run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}",
         "bookworm", partial_tar])  # fmt: skip
    with tarfile.open(partial_tar, "a") as archive:
        entry = tarfile.TarInfo("./data")
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o755, *[REDIS_USER] * 2
        archive.addfile(entry)
    partial_tar.replace(tar)
    first, *others = BASE_IMAGES
    run([COMMAND_LINE, "import", tar, first], env)
    for other in others:
        run([COMMAND_LINE, "tag", first, other], env)
    tar.unlink()


@contextmanager
def _wheels() -> Iterator[str]:
    """Serve to builds, on this machine only, what this machine's pip gets from where it looks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # Debian's Python 3.11.2 needs one package that later ones do without.
    wanted = [*project["dependencies"], *extras["cpu"], *extras["train"], "httpx", "async-timeout"]
    constraints = ROOT / "constraints.txt"
    name = hashlib.sha256(f"{wanted}{constraints.read_text()}".encode()).hexdigest()[:12]
    directory = STATE / f"wheels-{name}"
    if not directory.is_dir():
        for older in STATE.glob("wheels-*"):
            shutil.rmtree(older)
        partial_directory = STATE / "wheels-partial"
        run([sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:",
             "-c", constraints, "-d", partial_directory, *wanted])  # fmt: skip
        partial_directory.rename(directory)
    handler = partial(_Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{WHEELS_PORT}/"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""
