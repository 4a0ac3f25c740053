"""Processes that train together, started as ``torchrun`` starts them."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack

from tests.support.serving import free_port
from tests.support.starting import start

Ended = tuple[int, str, str]
"""Exit code, output and errors of a command."""


def variables(processes: int) -> dict[str, str]:
    """What ``torchrun`` tells each of so many processes about the group, beside its number."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }


def forked(processes: int, *words: object, module: str = "model") -> Ended:
    """Run a module, the trainer's command, in processes that are told what ``torchrun`` tells."""
    group = variables(processes)
    command = [sys.executable, "-m", module, *map(str, words)]
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile("a+b")) for _ in range(2))
        running = []
        for rank in map(str, range(processes)):
            env = {**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank}
            running.append(start(command, env, out, err))
            stack.callback(running[-1].kill)
        codes = [process.wait(600) for process in running]
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return next((code for code in codes if code), 0), *texts
