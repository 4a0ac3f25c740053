"""``python -m app``, but every run of an engine fails while the file ``FAIL_WHILE`` is there.

If it holds a process' number, only the runs of that one do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from app.__main__ import main
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine

VARIABLE = "FAIL_WHILE"
FAILING = (sys.executable, "-m", "tests.support.failing_service")
"""The program, for a :class:`tests.support.serving.Service`."""


def fail_while(file: Path) -> None:
    """Make runs of the engines of this process and its forks fail while there is a file."""
    score = Engine.score

    def maybe(self: Engine, batch: Batch) -> Scores:
        if file.exists() and file.read_text() in ("", str(os.getpid())):
            raise RuntimeError("the device is gone")
        return score(self, batch)

    Engine.score = maybe  # type: ignore[method-assign]


if __name__ == "__main__":
    fail_while(Path(os.environ[VARIABLE]))
    sys.exit(main())
