"""``python -m app``, but each process tells once a second how many asyncio tasks it has.

It writes the number into the directory ``WATCHED_DIRECTORY``, as a file named by the process.
Nothing of this is in the service.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from app.__main__ import main
from app.serving.loading import Opened
from app.serving.start import Starter

VARIABLE = "WATCHED_DIRECTORY"
WATCHED = (sys.executable, "-m", "tests.drills.watched_service")
"""The program, for a :class:`tests.support.serving.Service`."""
SECONDS = 1.0


def watch(directory: Path) -> None:
    """Make every process of this program tell its number of tasks once it starts to load."""
    start = Starter.start
    file = directory / "new"

    def tell() -> None:
        loop = asyncio.get_running_loop()
        own = file.with_name(f".{os.getpid()}")
        own.write_text(str(len(asyncio.all_tasks(loop))))
        own.rename(file.with_name(str(os.getpid())))
        loop.call_later(SECONDS, tell)

    async def started(self: Starter, opened: Opened | None) -> None:
        tell()
        await start(self, opened)

    Starter.start = started  # type: ignore[method-assign]


if __name__ == "__main__":
    watch(Path(os.environ[VARIABLE]))
    sys.exit(main())
