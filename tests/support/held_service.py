"""``python -m app``, but every run of an engine waits while the file ``HOLD_WHILE`` is there.

A run that waits says so by a second file, ``<file>.held``. The engine's own method is wrapped, so
the wait is where a slow graph would spend its time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from app.__main__ import main
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine
from tests.support.serving import Service, wait_until

if TYPE_CHECKING:
    from tests.conftest import StartService

VARIABLE = "HOLD_WHILE"
PROGRAM = (sys.executable, "-m", "tests.support.held_service")


class Held:
    """A service whose engine can be held in a run, so that what comes meanwhile is queued."""

    def __init__(self, start: StartService, directory: Path, **settings: object) -> None:
        self._file = directory / "hold"
        self.service: Service = start(
            program=PROGRAM, env={VARIABLE: str(self._file)}, deadline_ms=60_000, **settings
        )

    def hold(self) -> None:
        """Let the next run wait."""
        told_by(self._file).unlink(missing_ok=True)
        self._file.touch()

    def wait_held(self) -> None:
        """Wait until a run waits."""
        wait_until(told_by(self._file).exists, "a run is held", 30)

    def release(self) -> None:
        """Let the run go on, and all others."""
        self._file.unlink()

    def descriptors(self) -> int:
        """The number of descriptors that the service has open."""
        return len(os.listdir(f"/proc/{self.service.process.pid}/fd"))


def hold_while(file: Path) -> None:
    """Make runs of this process' engines wait while there is a file."""
    score = Engine.score

    def patiently(self: Engine, batch: Batch) -> Scores:
        while file.exists():
            told_by(file).touch()
            time.sleep(0.005)
        return score(self, batch)

    Engine.score = patiently  # type: ignore[method-assign]


def told_by(file: Path) -> Path:
    """The file that says of another one that a run waits for it."""
    return file.with_suffix(".held")


if __name__ == "__main__":
    hold_while(Path(os.environ[VARIABLE]))
    sys.exit(main())
