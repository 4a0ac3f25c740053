"""Which bundle of a directory is to be served next."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.bundle import CURRENT, candidates, complete_bundles
from app.errors import BundleError
from app.serving.versions import Versions, point, pointer, written


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
    assert wanted(versions, old) == new
    assert versions.wanted(new) is None


def test_current_names_the_one(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CURRENT is obeyed, also backwards; one that names nothing is told once and ignored."""
    new, old = candidates(bundles)
    versions = Versions(bundles)
    (bundles / CURRENT).write_text(f"{old.name}\n")
    assert candidates(bundles) == [old]
    assert wanted(versions, new) == old
    assert versions.wanted(old) is None
    for name in ("../elsewhere", "20260101T000000Z-0123456789ab", ""):
        (bundles / CURRENT).write_text(name)
        with pytest.raises(BundleError, match="there is no such bundle"):
            candidates(bundles)
        caplog.clear()
        assert [versions.wanted(new) for _ in range(3)] == [None] * 3
        assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["directory", "link to a bundle", "link to nothing"])
def test_a_current_that_is_no_file_is_told(
    bundles: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever made it wants to pin a bundle: serving the newest instead would be worse."""
    _, old = candidates(bundles)
    if kind == "directory":
        (bundles / CURRENT).mkdir()
    else:
        (bundles / CURRENT).symlink_to(old.name if kind == "link to a bundle" else "nowhere")
    with pytest.raises(BundleError, match="CURRENT cannot be read"):
        candidates(bundles)
    versions = Versions(bundles)
    assert [versions.wanted(old) for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is None


def test_a_link_to_a_file_is_a_file(bundles: Path) -> None:
    """CURRENT may be a link, as a mounted configuration has it."""
    _, old = candidates(bundles)
    (bundles / "chosen").write_text(old.name)
    (bundles / CURRENT).symlink_to("chosen")
    assert candidates(bundles) == [old]


def test_one_that_nobody_may_look_into_is_passed_over(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's directory does not keep the others from being served."""
    new, old = candidates(bundles)
    is_file, read_bytes = Path.is_file, Path.read_bytes

    def deny(call: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def denied(path: Path) -> Any:
            if path.parent == new:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path)

        return denied

    monkeypatch.setattr(Path, "is_file", deny(is_file))
    monkeypatch.setattr(Path, "read_bytes", deny(read_bytes))
    assert candidates(bundles) == [old]
    assert sorted(complete_bundles(bundles)) == [old, new], "an operator sees it"


def test_a_refused_one_is_tried_again_when_it_has_changed(bundles: Path) -> None:
    """It may have been on its way; until then the next best is wanted, if that is newer."""
    new, old = candidates(bundles)
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
    new, old = candidates(bundles)
    versions = Versions(bundles)
    for _ in range(2):
        point(bundles, f"{new.name}\n".encode())
        attempt = versions.wanted(old)
        assert attempt is not None
        assert attempt.pinned == written(bundles)
        versions.refuse(attempt, "a reason")
        assert versions.wanted(old) is None
    point(bundles, None)
    assert versions.wanted(old) is None, "nobody asks for it any more"
    assert pointer(bundles) is None


def test_an_attempt_has_one_number_for_all_workers(bundles: Path) -> None:
    """Whoever looks at the same files finds the same; another attempt has another."""
    _, old = candidates(bundles)
    point(bundles, None)
    first = [Versions(bundles).wanted(old) for _ in range(2)]
    point(bundles, candidates(bundles)[0].name.encode())
    first.append(Versions(bundles).wanted(old))
    numbers = [each.number for each in first if each]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(int(float(number)) == number < 2**48 for number in numbers)


def test_current_is_written_whole_or_not_at_all(bundles: Path) -> None:
    """What cannot be written leaves the old one, and nothing beside it."""
    point(bundles, b"one\n")
    there = sorted(path.name for path in bundles.iterdir())
    with pytest.raises(IsADirectoryError):
        point_into_a_directory(bundles)
    assert sorted(path.name for path in bundles.iterdir()) == there
    point(bundles, b"two\n")
    assert pointer(bundles) == b"two\n"
    assert (bundles / CURRENT).stat().st_mode & 0o777 == 0o644


def point_into_a_directory(bundles: Path) -> None:
    """Try to write CURRENT where a directory has its name; then put things back."""
    (bundles / CURRENT).rename(bundles / "kept")
    (bundles / CURRENT).mkdir()
    try:
        point(bundles, b"two\n")
    finally:
        (bundles / CURRENT).rmdir()
        (bundles / "kept").rename(bundles / CURRENT)


def wanted(versions: Versions, current: Path) -> Path | None:
    """The bundle that should take the place of ``current``."""
    attempt = versions.wanted(current)
    return attempt.path if attempt else None
