"""``python -m app``, but the engine does what the file ``ENGINE_DOES`` says, while it is there.

``hang``: a run never ends; ``hang-on-loop`` and ``hang-on-thread``: only there; ``exit``: it raises
SystemExit. A process' number behind the word limits it to that process. ``QUICK_SECONDS`` is the
longest run for the event loop, in the place of the product's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from app.__main__ import main
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine
from app.serving import build

VARIABLE, QUICK = "ENGINE_DOES", "QUICK_SECONDS"
HANGING = (sys.executable, "-m", "tests.support.hanging_service")
"""The program, for a :class:`tests.support.serving.Service`."""


def obey(file: Path) -> None:
    """Make the engines of this process and its forks do what a file says."""
    score = Engine.score

    def maybe(self: Engine, batch: Batch) -> Scores:
        word, _, number = file.read_text().partition(" ") if file.exists() else ("", "", "")
        if number in ("", str(os.getpid())):
            here = "loop" if threading.current_thread() is threading.main_thread() else "thread"
            if word in ("hang", f"hang-on-{here}"):
                time.sleep(1_000_000)
            if word == "exit":
                sys.exit(3)
        return score(self, batch)

    Engine.score = maybe  # type: ignore[method-assign]


if __name__ == "__main__":
    obey(Path(os.environ[VARIABLE]))
    build.INLINE_SECONDS = float(os.environ.get(QUICK, build.INLINE_SECONDS))
    sys.exit(main())
