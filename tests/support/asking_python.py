"""``python`` of an environment of tests: prepared programs are forked, all else runs as it is.

Where a command line is not the test's own but a page's or a script's, this stands in the place of
the interpreter. ``-m app`` and ``-m model`` are asked of the processes that
:mod:`tests.support.starting` forks from; streams, working directory, environment, signals and exit
code are those of any process. It imports little, as each command of a page starts it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

SERVERS = "TESTS_FORK_SERVERS"
"""Environment variable: for each program a descriptor of the socket to ask at, as JSON."""
DECIDED = "TESTS_INTERPRETER"
"""Environment variable: what those processes found as they loaded modules, as JSON."""
INTERPRETER = ("PYTHON", "LD_", "OMP_", "GOMP_", "MKL_", "OPENBLAS_", "ATEN_", "ONEDNN_")
"""Beginnings of variables that decide what an interpreter or a library does as it is loaded."""
FORWARDED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def interpreter_variables(env: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """Return the variables of an environment that decide how modules are loaded."""
    return {name: value for name, value in env.items() if name.startswith(INTERPRETER)}


def ask(descriptor: int, words: list[str]) -> int:
    """Have a program run with our streams, forward signals to it, and return its exit code."""
    pid = 0
    before: list[int] = []

    def forward(number: int, frame: object) -> None:
        if pid:
            os.kill(pid, number)
        else:
            before.append(number)

    for number in FORWARDED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, forward)
    told, tell = socket.socketpair()
    request = {"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "with_asker": True}
    asking = socket.socket(fileno=descriptor)
    socket.send_fds(asking, [json.dumps(request).encode()], [0, 1, 2, tell.fileno()])
    tell.close()
    answers = told.makefile()
    pid = int(answers.readline())
    for number in before:
        os.kill(pid, number)
    return int(answers.readline() or 1)


def main(python: str) -> None:
    """Ask for a program, or become the interpreter."""
    words = sys.argv[1:]
    servers = json.loads(os.environ.pop(SERVERS, "{}"))
    decided = json.loads(os.environ.pop(DECIDED, "{}"))
    here = interpreter_variables(os.environ)
    for each in (here, decided):
        # Scripts set it to the checkout, where the prepared modules are from.
        each.pop("PYTHONPATH", None)
    if len(words) < 2 or words[0] != "-m" or words[1] not in servers or here != decided:
        os.execv(python, [python, *words])
    code = ask(servers[words[1]], words[1:])
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
