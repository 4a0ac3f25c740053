"""A process that imports modules, and forks into a program that needs them when it is asked to.

``python -m tests.support.fork_server SOCKET MODULE...`` imports the modules, takes requests from
the socket (a descriptor), and ends when its other side is closed. A forked process runs the program
as ``python -m`` does, to the end of the interpreter. :mod:`tests.support.starting` is the other
side.
"""

from __future__ import annotations

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
from contextlib import suppress
from pathlib import Path
from typing import Any

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
            if key.fileobj is not requests:
                selector.unregister(key.fileobj)
                _tell_end(key.fd, *key.data)
                continue
            message, fds, _, _ = socket.recv_fds(requests, REQUEST_BYTES, FDS)
            if not message:
                sys.exit(0)
            *streams, told = fds
            server = os.getpid()
            if (pid := os.fork()) == 0:
                selector.close()
                requests.close()
                os.close(told)
                _settle(server, streams)
                return dict(json.loads(message))
            os.write(told, b"%d\n" % pid)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))
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


def become(request: dict[str, Any]) -> None:
    """Run the program of a request, with its arguments and environment."""
    module, *arguments = request["words"]
    os.environ.clear()
    os.environ.update(request["env"])
    if (limit := request["file_bytes"]) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if (templates := request["templates"]) is not None:
        keep_templates(Path(templates))
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # Ctrl-C at a terminal is for those who ask, and for the programs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
