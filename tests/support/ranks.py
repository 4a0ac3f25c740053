"""Groups of processes in an environment that has TorchRec, one after another."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.children import ending_with_us
from tests.support.environments import PACKAGES, ROOT


@dataclass(frozen=True, slots=True)
class Running:
    """A group that runs; its errors grow in a file."""

    pids: list[int]
    err: Path


class Ranks:
    """Starts groups by ``tests.extras.forked_ranks``; files of what they print lie in ``place``."""

    def __init__(self, program: subprocess.Popen[str], python: Path, place: Path) -> None:
        self._program = program
        self.python = python
        self._place = place
        self._groups = 0

    def begin(self, size: int, module: str, *words: object) -> Running:
        """Start a module in so many processes; 0 is one without a group."""
        self._groups += 1
        out, err = (self._place / f"{self._groups}.{name}" for name in ("out", "err"))
        asked = {
            "size": size, "module": module, "words": [str(word) for word in words],
            "out": str(out), "err": str(err),
        }  # fmt: skip
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps(asked) + "\n")
        self._program.stdin.flush()
        return Running(json.loads(self._line()), err)

    def end(self, running: Running) -> tuple[list[int], str, str]:
        """Wait for a group; return exit codes, output and errors."""
        codes = json.loads(self._line())
        return codes, running.err.with_suffix(".out").read_text(), running.err.read_text()

    def run(self, size: int, module: str, *words: object) -> tuple[list[int], str, str]:
        """Run a module in so many processes to their ends."""
        return self.end(self.begin(size, module, *words))

    def _line(self) -> str:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        assert line, "the program that forks has ended"
        return line


@contextmanager
def ranks(python: Path, place: Path) -> Iterator[Ranks]:
    """Start the program that forks, which has TorchRec; it ends with the block."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(PACKAGES)]),
        # Of this environment alone: the bytecode of 3,000 modules is half of what importing costs.
        "PYTHONPYCACHEPREFIX": str(python.parents[1] / "bytecode"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with subprocess.Popen(
        ending_with_us([str(python), "-m", "tests.extras.forked_ranks"]), cwd=ROOT,
        env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as program:  # fmt: skip
        found = Ranks(program, python, place)
        try:
            assert found._line() == "ready\n"
            yield found
        finally:
            program.kill()
