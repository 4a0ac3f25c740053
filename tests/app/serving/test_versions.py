"""Which bundle of a directory is to be served next."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.bundle.directory import (
    CURRENT,
    current_written,
    preferred_bundles,
    read_current,
    write_current,
)
from app.errors import BundleError
from app.serving.versions import Versions


@pytest.fixture
def bundles(tiny_bundle: Path, other_bundle: Path, tmp_path: Path) -> Path:
    """A directory with an older and a newer bundle."""
    for each in (tiny_bundle, other_bundle):
        shutil.copytree(each, tmp_path / each.name)
    return tmp_path


def test_the_newest_comes_first(bundles: Path) -> None:
    """Bundles are ordered by when they were made; what is in use wants no other."""
    new, old = preferred_bundles(bundles)
    assert new.name > old.name
    versions = Versions(bundles)
    assert wanted(versions, old) == new
    assert versions.wanted(new) is None


def test_current_names_the_one(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CURRENT is obeyed, also backwards; one that names nothing is told once and ignored."""
    new, old = preferred_bundles(bundles)
    versions = Versions(bundles)
    (bundles / CURRENT).write_text(f"{old.name}\n")
    assert preferred_bundles(bundles) == [old]
    assert wanted(versions, new) == old
    assert versions.wanted(old) is None
    for name in ("../elsewhere", "20260101T000000Z-0123456789ab", ""):
        (bundles / CURRENT).write_text(name)
        with pytest.raises(BundleError, match="there is no such bundle"):
            preferred_bundles(bundles)
        caplog.clear()
        assert [versions.wanted(new) for _ in range(3)] == [None] * 3
        assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["directory", "link to a bundle", "link to nothing"])
def test_a_current_that_is_no_file_is_told(
    bundles: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever made it wants to pin a bundle: serving the newest instead would be worse."""
    _, old = preferred_bundles(bundles)
    if kind == "directory":
        (bundles / CURRENT).mkdir()
    else:
        (bundles / CURRENT).symlink_to(old.name if kind == "link to a bundle" else "nowhere")
    with pytest.raises(BundleError, match="CURRENT cannot be read"):
        preferred_bundles(bundles)
    versions = Versions(bundles)
    assert [versions.wanted(old) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_a_refused_one_is_tried_again_when_it_has_changed(bundles: Path) -> None:
    """It may have been on its way; until then the next best is wanted, if that is newer."""
    new, old = preferred_bundles(bundles)
    versions = Versions(bundles)
    attempt = versions.wanted(old)
    assert attempt is not None
    assert attempt.path == new
    versions.refuse(attempt, "a reason")
    assert versions.refusals[new].reason == "a reason"
    assert versions.wanted(old) is None
    third = bundles / "20200101T000000Z-0123456789ab"
    assert wanted(versions, third) == old
    (new / "more").write_text("")
    assert wanted(versions, old) == new


def test_a_refused_one_is_tried_again_when_it_is_asked_for_again(bundles: Path) -> None:
    """Whoever writes CURRENT wants it tried now, though its files are what they were."""
    new, old = preferred_bundles(bundles)
    versions = Versions(bundles)
    for _ in range(2):
        write_current(bundles, f"{new.name}\n".encode())
        attempt = versions.wanted(old)
        assert attempt is not None
        assert attempt.pinned == current_written(bundles)
        versions.refuse(attempt, "a reason")
        assert versions.wanted(old) is None
    write_current(bundles, None)
    assert versions.wanted(old) is None, "nobody asks for it any more"
    assert read_current(bundles) is None


def test_an_attempt_has_one_number_for_all_workers(bundles: Path) -> None:
    """Whoever looks at the same files finds the same; another attempt has another."""
    _, old = preferred_bundles(bundles)
    write_current(bundles, None)
    first = [Versions(bundles).wanted(old) for _ in range(2)]
    write_current(bundles, preferred_bundles(bundles)[0].name.encode())
    first.append(Versions(bundles).wanted(old))
    numbers = [each.number for each in first if each]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(int(float(number)) == number < 2**48 for number in numbers)


def wanted(versions: Versions, current: Path) -> Path | None:
    """The bundle that should take the place of ``current``."""
    attempt = versions.wanted(current)
    return attempt.path if attempt else None
