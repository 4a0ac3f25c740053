"""A process that imports modules, and forks into a program that needs them when it is asked to.

``python -m tests.support.fork_server SOCKET TEMPLATES MODULE...`` imports the modules, takes
requests from the socket (a descriptor), and ends when its other side is closed. A forked process
runs the program as ``python -m`` does, with templates of graphs from a directory, unless that is
the empty text. :mod:`tests.support.starting` is the other side, and for command lines of others
:mod:`tests.support.asking_python` is.
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
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from tests.support.templates import keep_templates

REQUEST_BYTES = 1 << 20
FDS = 4
"""Standard input, output and error, and where the process' number and exit status are told."""
_PR_SET_PDEATHSIG = 1


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork for every request until there are no more; return the request in the forked process."""
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if selector.get_map().get(key.fileobj) is not key:
                continue
            if key.fileobj is not requests:
                pidfd, pid, told = key.data
                if key.fileobj == told:
                    # Whoever has asked is gone.
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    selector.unregister(told)
                    continue
                selector.unregister(pidfd)
                if told in selector.get_map():
                    selector.unregister(told)
                _tell_end(pidfd, pid, told)
                continue
            message, fds, _, _ = socket.recv_fds(requests, REQUEST_BYTES, FDS)
            if not message:
                sys.exit(0)
            *streams, told = fds
            request = dict(json.loads(message))
            server = os.getpid()
            if (pid := os.fork()) == 0:
                selector.close()
                requests.close()
                os.close(told)
                _settle(server, streams)
                return request
            os.write(told, b"%d\n" % pid)
            ended = os.pidfd_open(pid), pid, told
            selector.register(ended[0], selectors.EVENT_READ, ended)
            if request.get("with_asker"):
                selector.register(told, selectors.EVENT_READ, ended)
            for stream in streams:
                os.close(stream)


def _tell_end(pidfd: int, pid: int, told: int) -> None:
    """Reap a process and tell its exit code, which is negative for a signal."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):
        os.write(told, b"%d\n" % code)
    os.close(told)
    os.close(pidfd)


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


def become(request: dict[str, Any], templates: str) -> None:
    """Run the program of a request, with its arguments and environment."""
    module, *arguments = request["words"]
    os.environ.clear()
    os.environ.update(request["env"])
    if (limit := request.get("file_bytes")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if (directory := request.get("cwd")) is not None:
        os.chdir(directory)
    if templates:
        keep_templates(Path(templates))
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
    asked_at, kept_templates, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    status: str | int | None = None
    try:
        become(serve(socket.socket(fileno=int(asked_at))), kept_templates)
    except SystemExit as ended:
        status = ended.code
    end(status)
