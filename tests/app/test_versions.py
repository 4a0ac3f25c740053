"""Which bundle of a directory is to be served next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.bundle import CURRENT, candidates
from app.errors import BundleError
from app.versions import Versions


@pytest.fixture
def bundles(tiny_bundle: Path, other_bundle: Path, tmp_path: Path) -> Path:
    """A directory with an older and a newer bundle."""
    for each in (tiny_bundle, other_bundle):
        shutil.copytree(each, tmp_path / each.name)
    return tmp_path


def test_the_newest_comes_first(bundles: Path) -> None:
    """Bundles are ordered by when they were made; what is in use wants no other."""
    new, old = candidates(bundles)
    assert new.name > old.name
    versions = Versions(bundles)
    assert versions.wanted(old) == new
    assert versions.wanted(new) is None


def test_current_names_the_one(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CURRENT is obeyed, also backwards; one that names nothing is told once and ignored."""
    new, old = candidates(bundles)
    versions = Versions(bundles)
    (bundles / CURRENT).write_text(f"{old.name}\n")
    assert candidates(bundles) == [old]
    assert versions.wanted(new) == old
    assert versions.wanted(old) is None
    for name in ("../elsewhere", "20260101T000000Z-0123456789ab", ""):
        (bundles / CURRENT).write_text(name)
        with pytest.raises(BundleError, match="there is no such bundle"):
            candidates(bundles)
        caplog.clear()
        assert [versions.wanted(new) for _ in range(3)] == [None] * 3
        assert len(caplog.records) == 1


def test_a_refused_one_is_tried_again_when_it_has_changed(bundles: Path) -> None:
    """It may have been on its way; until then the next best is wanted, if that is newer."""
    new, old = candidates(bundles)
    versions = Versions(bundles)
    assert versions.wanted(old) == new
    versions.refuse(new)
    assert versions.wanted(old) is None
    third = bundles / "20200101T000000Z-0123456789ab"
    assert versions.wanted(third) == old
    (new / "more").write_text("")
    assert versions.wanted(old) == new
