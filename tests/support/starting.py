"""Programs as processes of their own: started as anywhere, or forked from a prepared one.

``python -m app`` takes half a second of CPU time to import its modules, ``python -m model`` two.
Forked from a process that has imported them (:mod:`tests.support.fork_server`) they take none, and
at the end they leave the interpreter as it is. All else is the same: a real process with its own
number, streams, environment, signals and exit code.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from tests.support import asking_python
from tests.support.asking_python import interpreter_variables
from tests.support.children import ending_with_us
from tests.support.fork_server import GREETING

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = {
    "app": (
        "app.check", "app.catalogue.command", "app.catalogue.follower", "app.main",
        "app.missing_packages", "app.profiles.stored", "app.remote.vocabulary",
        "app.scoring.engine_device", "app.store.redis", "app.web.protocol",
        "app.workers.supervisor", "encodings.utf_8_sig", "fastapi.openapi.utils",
        "fastapi.telemetry._runtime", "httptools", "httpx", "pydantic.v1", "uvicorn.lifespan.on",
        "uvicorn.loops.auto", "uvicorn.loops.uvloop", "uvloop",
    ),
    "model": (
        "app.scoring.engine", "matplotlib.figure", "model.commands.data",
        "model.commands.explaining", "model.commands.feedback", "model.commands.redis",
        "model.commands.scoring", "model.commands.stores", "model.commands.training",
        "model.compare", "model.group", "model.must_beat", "model.pipeline", "model.score_files",
        "model.tune", "onnx", "optuna", "pydantic_settings", "redis.asyncio", "rich.markdown",
        "rich.traceback", "torch.distributed.nn", "typer",
    ),
}  # fmt: skip
"""Modules that are imported before a program is forked, those of ``tests.load``'s client among
them. They start no thread, which a fork would not have: not onnxruntime, as ``app`` has said before
it is imported, nor polars' allocator, as :data:`THREADLESS` says. polars' only one removes files of
work that memory does not hold, of which tests have none."""
OF_TRAINER = ("model", "tests.model", "tests.bench.training", "torch")
"""Beginnings of the modules that need what the trainer has imported; all others are forked from
the service's process."""
THREADLESS = {"OPENBLAS_NUM_THREADS": "1", "_RJEM_MALLOC_CONF": "background_thread:false"}
"""Environment of a process that forks."""

START_SECONDS = 120.0
"""Seconds in which the process that forks has its modules, on a busy machine too."""


class Forked:
    """A forked process, with the part of :class:`subprocess.Popen` that tests use."""

    def __init__(self, words: Sequence[str], told: socket.socket) -> None:
        self.args = list(words)
        self.returncode: int | None = None
        self._told = told
        self._text = b""
        self._lock = threading.Lock()
        while b"\n" not in self._text:
            self._read()
        line, _, self._text = self._text.partition(b"\n")
        self.pid = int(line)

    def _read(self) -> None:
        received = self._told.recv(64)
        if not received:
            raise RuntimeError(f"the process that forks is gone: {self.args}")
        self._text += received

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        with self._lock:
            while self.returncode is None:
                if self._text.endswith(b"\n"):
                    self.returncode = int(self._text)
                    self._told.close()
                elif select.select([self._told], [], [], 0)[0]:
                    self._read()
                else:
                    break
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = 1.0 if end is None else end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            with suppress(ValueError):
                # Another thread may have read the end, and closed it.
                select.select([self._told], [], [], min(left, 1.0))
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that forks into a program, and how it is asked.

    The processes of a run share it: the first that needs it starts it. It ends with the last.
    """

    def __init__(self, program: str) -> None:
        self.variables = interpreter_variables(os.environ)
        self._asking = _connected(program)
        atexit.register(self.close)

    def fileno(self) -> int:
        """Return the descriptor of the socket where it is asked."""
        return self._asking.fileno()

    def runs(self, env: Mapping[str, str]) -> bool:
        """Return whether an environment has the same that is read as modules are loaded."""
        return interpreter_variables(dict(env)) == self.variables

    def fork(
        self,
        words: Sequence[str],
        env: Mapping[str, str],
        streams: Sequence[int],
        file_bytes: int | None = None,
    ) -> Forked:
        """Run ``python -m`` of some words with standard input, output and error."""
        told, tell = socket.socketpair()
        request = {
            "words": list(words),
            "env": dict(env),
            "file_bytes": file_bytes,
        }
        with tell:
            socket.send_fds(self._asking, [json.dumps(request).encode()], [*streams, tell.fileno()])
        return Forked(words, told)

    def close(self) -> None:
        """End all that this process had forked."""
        self._asking.close()


def _connected(program: str) -> socket.socket:
    """Return a socket to the run's process that forks into a program, which has been started."""
    # What decides how modules are loaded is that of the process that starts it.
    decided = repr((str(ROOT), sys.executable, sorted(interpreter_variables(os.environ).items())))
    run_of = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    told = hashlib.sha256(decided.encode()).hexdigest()[:16]
    address = f"\0ctr-tests-{run_of}-{program}-{told}"
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with suppress(ConnectionError):
            asking.connect(address)
            # It may end between our coming and its looking; then another one is needed.
            if asking.recv(1) == GREETING:
                return asking
        asking.close()
        _start_server(program, address)
    raise RuntimeError(f"no process that forks {program} after {START_SECONDS:g} s")


def _start_server(program: str, address: str) -> None:
    """Start the process that forks into a program, unless another test process does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError:
            time.sleep(0.01)
            return
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(listener.fileno()),
             *IMPORTS[program]],
            cwd=ROOT, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
            env={**os.environ, **THREADLESS},
        )  # fmt: skip
    # It may go on for others when this process ends: Popen need not warn that it does.
    server.returncode = 0


Process = subprocess.Popen[bytes] | Forked


def start(
    words: Sequence[str],
    env: Mapping[str, str],
    stdout: IO[bytes] | None,
    stderr: IO[bytes] | None,
    file_bytes: int | None = None,
) -> Process:
    """Start a program that ends with this process, at the latest; what has no file is dropped.

    ``python -m app`` and ``python -m model`` are forked, and so are modules of tests around them
    and torch's launcher; all others are started from nothing, and so are these where the
    environment decides how modules are loaded. ``file_bytes`` is the longest file that a forked
    program may write.
    """
    if list(words[:2]) == [sys.executable, "-m"] and hasattr(os, "pidfd_open"):
        server = server_of("model" if words[2].startswith(OF_TRAINER) else "app")
        if server.runs(env):
            with Path(os.devnull).open("r+b") as nothing:
                streams = [(each or nothing).fileno() for each in (nothing, stdout, stderr)]
                return server.fork(words[2:], env, streams, file_bytes)
    assert file_bytes is None, "only forked programs have this limit"
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        ending_with_us(words), cwd=ROOT, env=env, pass_fds=passed(env),
        stdout=stdout or nowhere, stderr=stderr or nowhere,
    )  # fmt: skip


def run(
    program: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    timeout: float = 250.0,
    file_bytes: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m`` of a program to its end; return its exit code and what it wrote."""
    words = [sys.executable, "-m", program, *map(str, arguments)]
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(words, os.environ if env is None else env, stdout, stderr, file_bytes)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(words, code, *texts)


def interpreter_that_forks(path: Path) -> dict[str, str]:
    """Write a ``python`` that forks our programs, for the commands of pages and scripts.

    Return variables that such a command needs, beside the descriptors of :func:`passed`.
    """
    code = str(Path(asking_python.__file__))
    path.write_text(
        f"#!{sys.executable} -IS\nasking = {{'__name__': 'asking_python'}}\n"
        f"exec(compile(open({code!r}).read(), {code!r}, 'exec'), asking)\n"
        f"asking['main']({sys.executable!r})\n"
    )
    path.chmod(0o755)
    servers = {program: server_of(program) for program in IMPORTS}
    variables = servers["model"].variables
    return {
        asking_python.SERVERS: json.dumps({each: servers[each].fileno() for each in servers}),
        asking_python.DECIDED: json.dumps(variables),
    }


def passed(env: Mapping[str, str]) -> list[int]:
    """Return the descriptors that a command with these variables must have."""
    return [*json.loads(env.get(asking_python.SERVERS, "{}")).values()]


@cache
def server_of(program: str) -> ForkServer:
    """Return the run's process that forks into a program."""
    return ForkServer(program)
