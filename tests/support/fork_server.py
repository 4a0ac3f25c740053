"""A process that imports modules, and forks into a program that needs them when it is asked to.

``python -m tests.support.fork_server LISTENER MODULE...`` imports the modules, accepts
connections at the listener (a descriptor) and takes requests from them. What a connection has asked
for is killed when its other side is closed; when that is so of all, the process ends. A forked
process runs the program as ``python -m`` does, with templates of graphs from a directory, unless
that is the empty text. :mod:`tests.support.starting` is the other side, and for command lines of
others :mod:`tests.support.asking_python` is.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, cast

REQUEST_BYTES = 1 << 20
ALONE_SECONDS = 60.0
"""Seconds without a connection after which the process ends: the one that started it is gone."""
FDS = 4
"""Standard input, output and error, and where the process' number and exit status are told."""
_PR_SET_PDEATHSIG = 1


GREETING = b"\n"
"""Sent to each that connects, once requests are taken from it."""


@dataclass(frozen=True)
class Running:
    """A forked process."""

    pid: int
    pidfd: int
    told: int
    """Descriptor where its number and exit status are told."""
    asker: socket.socket
    """The connection that has asked for it."""

    def kill(self) -> None:
        """Kill it; its end is told as any other."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


def prepare(modules: Sequence[str]) -> None:
    """Import modules, in a process that will fork."""
    for name in modules:
        importlib.import_module(name)


def serve(listener: socket.socket) -> dict[str, Any]:
    """Fork for every request until there are no more; return the request in the forked process."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    askers: set[socket.socket] = set()
    forked: dict[int, Running] = {}
    while True:
        ready = selector.select(None if askers else ALONE_SECONDS)
        if not (ready or askers):
            sys.exit(0)
        for key, _ in ready:
            if selector.get_map().get(key.fileobj) is not key:
                continue
            if key.fileobj is listener:
                asker, _ = listener.accept()
                askers.add(asker)
                selector.register(asker, selectors.EVENT_READ)
                with suppress(ConnectionError):
                    asker.send(GREETING)
                continue
            if isinstance(key.data, Running):
                running = key.data
                if key.fileobj == running.told:
                    # Whoever has asked is gone.
                    running.kill()
                    selector.unregister(running.told)
                    continue
                selector.unregister(running.pidfd)
                if running.told in selector.get_map():
                    selector.unregister(running.told)
                del forked[running.pid]
                _tell_end(running)
                continue
            asker = cast(socket.socket, key.fileobj)
            message, fds = _received(asker)
            if not message:
                askers.remove(asker)
                selector.unregister(asker)
                asker.close()
                for running in forked.values():
                    if running.asker is asker:
                        running.kill()
                if not askers:
                    sys.exit(0)
                continue
            *streams, told = fds
            request = dict(json.loads(message))
            server = os.getpid()
            if (pid := os.fork()) == 0:
                selector.close()
                for each in (listener, *askers):
                    each.close()
                for running in forked.values():
                    os.close(running.pidfd)
                    os.close(running.told)
                os.close(told)
                _settle(server, streams)
                return request
            with suppress(BrokenPipeError):
                os.write(told, b"%d\n" % pid)
            running = forked[pid] = Running(pid, os.pidfd_open(pid), told, asker)
            selector.register(running.pidfd, selectors.EVENT_READ, running)
            if request.get("with_asker"):
                selector.register(told, selectors.EVENT_READ, running)
            for stream in streams:
                os.close(stream)


def _received(asker: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next request and its descriptors; nothing if whoever asked is gone."""
    try:
        message, fds, _, _ = socket.recv_fds(asker, REQUEST_BYTES, FDS)
    except ConnectionError:
        return b"", []
    return message, fds


def _tell_end(ended: Running) -> None:
    """Reap a process and tell its exit code, which is negative for a signal."""
    code = os.waitstatus_to_exitcode(os.waitpid(ended.pid, 0)[1])
    with suppress(BrokenPipeError):
        os.write(ended.told, b"%d\n" % code)
    os.close(ended.told)
    os.close(ended.pidfd)


def _settle(server: int, streams: list[int]) -> None:
    """Take the standard streams, and end with the server that forked this process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number in (signal.SIGINT, signal.SIGPIPE):
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_IGN
        signal.signal(number, default)


def become(request: dict[str, Any]) -> None:
    """Run the program of a request, with its arguments and environment."""
    module, *arguments = request["words"]
    os.environ.clear()
    os.environ.update(request["env"])
    if (limit := request.get("file_bytes")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if (directory := request.get("cwd")) is not None:
        os.chdir(directory)
    if "model" in sys.modules:
        # The package looks at the environment as it is imported, which was another one then.
        sys.modules["model"].bound_spinning()
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def end(status: str | int | None) -> NoReturn:
    """End a forked process as ``sys.exit`` of a status does, all but its modules taken apart.

    That writes to the pages of each object, all of which a forked process shares until then: it
    takes a quarter of a second of ``python -m model``, and a third of what a service takes.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if isinstance(status, str):
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(status, str) else status or 0)


if __name__ == "__main__":
    # Ctrl-C at a terminal is for those who ask, and for the programs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked_at, *modules = sys.argv[1:]
    prepare(modules)
    gc.collect()
    gc.freeze()
    status: str | int | None = None
    try:
        become(serve(socket.socket(fileno=int(asked_at))))
    except SystemExit as ended:
        status = ended.code
    end(status)
