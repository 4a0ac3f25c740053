"""``python -m app``, in what a shell, a supervisor or a terminal gives it before it starts.

``python -m tests.support.surrounded_service WORD... -- FLAG...`` changes its own process as those
do, and goes on as the service: what they would replace by the service with ``exec`` is the same
process, with its number, streams, limits, session and children, but need not import all anew.
"""

from __future__ import annotations

import argparse
import os
import resource
import runpy
import socket
import sys

SURROUNDED = (sys.executable, "-m", "tests.support.surrounded_service")
_PASSED = 3
"""The first descriptor that systemd passes."""


def surrounded(*words: object) -> tuple[str, ...]:
    """The program, for a :class:`tests.support.serving.Service`."""
    return (*SURROUNDED, *map(str, words), "--")


def write_errors_to(path: str) -> None:
    """Take a file as standard error: ``2>path`` of a shell."""
    file = os.open(path, os.O_WRONLY)
    os.dup2(file, 2)
    os.close(file)


def have_child(seconds: float) -> None:
    """Have a child that ends so many seconds later: ``sleep 1 &`` of a shell."""
    os.posix_spawnp("sleep", ["sleep", str(seconds)], os.environ)


def allow_descriptors(count: int) -> None:
    """Have no more file descriptors than this: ``ulimit -n``."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def take_terminal(path: str) -> None:
    """Be the first process of a terminal's session, as a shell's command or a login is."""
    os.setsid()
    # The first terminal that a session's leader opens is the session's.
    os.open(path, os.O_RDWR)


def pass_socket(port: int) -> None:
    """Be passed a listening socket, as systemd does."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        os.dup2(listener.fileno(), _PASSED, inheritable=True)
        if listener.fileno() == _PASSED:
            listener.detach()
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="ctr.socket")


def main() -> None:
    """Take the surroundings of the command line, and be the service."""
    own, flags = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("--errors", help="file for standard error")
    parser.add_argument("--child", type=float, action="append", default=[], help="its seconds")
    parser.add_argument("--descriptors", type=int, help="how many are allowed")
    parser.add_argument("--session", action="store_true", help="of its own, without a terminal")
    parser.add_argument("--terminal", help="of its own session")
    parser.add_argument("--socket", type=int, help="port of a socket that is passed")
    chosen = parser.parse_args(own)
    if chosen.errors is not None:
        write_errors_to(chosen.errors)
    for seconds in chosen.child:
        have_child(seconds)
    if chosen.descriptors is not None:
        allow_descriptors(chosen.descriptors)
    if chosen.session:
        os.setsid()
    if chosen.terminal is not None:
        take_terminal(chosen.terminal)
    if chosen.socket is not None:
        pass_socket(chosen.socket)
    sys.argv[1:] = flags
    runpy.run_module("app", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
