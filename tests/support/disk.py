"""Records what is made durable, and when it gets its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest


class DiskCall(NamedTuple):
    """A call of ``fsync``, or of ``rename`` with its target."""

    what: str
    path: Path
    target: Path | None = None


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[DiskCall]]:
    """Record every ``fsync`` and ``rename`` of this process, in their order; both still happen."""
    calls: list[DiskCall] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(DiskCall("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def note_rename(source: str | Path, target: str | Path) -> None:
        rename(source, target)
        calls.append(DiskCall("rename", Path(source), Path(target)))

    def note_replace(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        calls.append(DiskCall("rename", Path(source), Path(target)))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", note_fsync)
        patched.setattr(os, "rename", note_rename)
        patched.setattr(os, "replace", note_replace)
        yield calls
