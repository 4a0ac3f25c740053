"""Directories for what is half-done, which the next run removes where a killed one left them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial-"


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Give a new directory below ``parent``, and remove it at the end if it is still there."""
    parent.mkdir(parents=True, exist_ok=True)
    directory, lock = _locked(parent)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Remove such directories whose processes are no more."""
    for directory in parent.glob(f"{PARTIAL}*"):
        try:
            lock = os.open(directory, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)


def _locked(parent: Path) -> tuple[Path, int]:
    """Make a directory and hold its lock for as long as this process lives."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have taken it for abandoned before it was locked.
        if directory.exists():
            return directory, lock
        os.close(lock)
