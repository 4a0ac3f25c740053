"""``python -m app``, but each run of the engine takes ``SLOW_RUN_MS`` milliseconds longer.

The engine's own method is wrapped, so the time passes where a slow graph would spend it: on the
thread that runs the engine. Nothing of this is in the service.
"""

from __future__ import annotations

import os
import sys
import time

from app.__main__ import main
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine

VARIABLE = "SLOW_RUN_MS"
SLOW = (sys.executable, "-m", "tests.drills.faults.slow_service")
"""The program, for a :class:`tests.support.serving.Service`."""


def slow_by(seconds: float) -> None:
    """Make every run of every engine of this process take longer."""
    score = Engine.score

    def slowly(self: Engine, batch: Batch) -> Scores:
        time.sleep(seconds)
        return score(self, batch)

    Engine.score = slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_by(float(os.environ[VARIABLE]) / 1000)
    sys.exit(main())
