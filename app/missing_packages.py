"""A line of advice where the packages of the project are not there; the standard library only."""

from __future__ import annotations

import sys
from types import TracebackType


def advise(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what to do about a missing package: for ``sys.excepthook``."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in ("", "app", "model"):
        sys.__excepthook__(kind, error, trace)
        return
    print(
        f"{sys.executable} does not have the package {missing!r}: use ./ctr or .venv/bin/python"
        " (scripts/environment makes .venv)",
        file=sys.stderr,
    )
