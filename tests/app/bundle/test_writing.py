"""A bundle is written whole or not at all."""

from __future__ import annotations

from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from app.bundle.directory import newest
from app.errors import BundleError
from tests.support.bundles import describe, fill, write_bundle
from tests.support.disk import recorded


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, OSError])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the filling or the description, no directory stays."""

    def interrupted(directory: Path | None = None) -> Any:
        if directory is not None:
            (directory / "half").write_bytes(b"x")
        raise error

    seen = BundleError if error is OSError else error
    for steps in ((interrupted, describe), (fill, interrupted)):
        with pytest.raises(seen):
            write_bundle(tmp_path, *steps)
        assert list(tmp_path.iterdir()) == []


def test_unfinished_bundle_is_hidden(tmp_path: Path) -> None:
    """While a bundle is being written, the directory has none."""
    seen: list[str] = []

    def watch(directory: Path) -> None:
        fill(directory)
        with pytest.raises(BundleError, match="no bundle"):
            newest(tmp_path)
        seen.extend(child.name for child in tmp_path.iterdir())

    path = write_bundle(tmp_path, watch, describe)
    assert [name[0] for name in seen] == ["."]
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_every_file_is_synced_before_the_bundle_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power failure a bundle that has its name has all its content."""
    with recorded(monkeypatch) as calls:
        path = write_bundle(tmp_path, fill, describe)
    # What the vocabulary is learned from has files of its own, elsewhere.
    calls = [call for call in calls if call.path.is_relative_to(tmp_path)]
    [renamed] = [place for place, call in enumerate(calls) if call.what == "rename"]
    partial = calls[renamed].path
    assert calls[renamed].target == path
    written = [partial, *(partial / each.relative_to(path) for each in path.rglob("*"))]
    assert {call.path for call in calls[:renamed]} == set(written)
    assert [(call.what, call.path) for call in calls[renamed + 1 :]] == [("fsync", tmp_path)]


def test_the_same_content_of_the_same_second_is_one_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is taken has the same content: it is kept, and nothing is left beside it."""
    monkeypatch.setattr("app.bundle.writing.datetime", StoppedClock)
    paths = [write_bundle(tmp_path, fill, describe) for _ in range(2)]
    assert paths[0] == paths[1]
    assert list(tmp_path.iterdir()) == [paths[0]]


class StoppedClock(datetime):
    """A clock that always shows one moment."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> StoppedClock:
        return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)
