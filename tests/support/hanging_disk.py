"""``python -m app``, but while the file ``HANG_WHILE`` is there, looking for bundles blocks.

So does a network disk that does not answer: the call does not return, and no signal ends it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import app.serving.swap
import app.serving.versions
from app.__main__ import main
from app.bundle.directory import Found

VARIABLE = "HANG_WHILE"
HANGING = (sys.executable, "-m", "tests.support.hanging_disk")
"""The program, for a :class:`tests.support.serving.Service`."""


def hang_while(file: Path) -> None:
    """Make looks of this process block while there is a file."""
    find = app.serving.versions.find_bundles

    def patiently(path: Path) -> Found:
        while file.exists():
            time.sleep(0.01)
        return find(path)

    app.serving.versions.find_bundles = patiently
    app.serving.swap.HANGING_SECONDS = 0.2


if __name__ == "__main__":
    hang_while(Path(os.environ[VARIABLE]))
    sys.exit(main())
