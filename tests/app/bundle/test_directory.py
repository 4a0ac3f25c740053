"""A directory of bundles gives the one that CURRENT names, or else the newest."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.bundle import Bundle
from app.bundle.directory import (
    CURRENT,
    complete_bundles,
    current_written,
    find_bundles,
    newest,
    read_current,
    write_current,
)
from app.errors import BundleError
from tests.support.bundles import rewrite, write


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A directory with an older and a newer bundle."""
    for users, created in (("a", "2024-01-02"), ("b", "2024-01-03")):
        rewrite(write(tmp_path, users), created=created)
    return tmp_path


def test_newest_goes_by_creation(tmp_path: Path) -> None:
    """The latest ``created`` wins, whatever the directories' own times say."""
    paths = [write(tmp_path, users) for users in ("a", "b", "c")]
    for path, created in zip(paths, ("2024-01-02", "2024-01-03", "2024-01-01"), strict=True):
        rewrite(path, created=created)
    assert newest(tmp_path) == paths[1]


def test_newest_passes_over_what_is_no_bundle(tmp_path: Path) -> None:
    """Temporary, incomplete and foreign directories do not count."""
    path = write(tmp_path)
    shutil.copytree(path, tmp_path / ".partial-x")
    shutil.copytree(path, tmp_path / "copy")
    incomplete = tmp_path / "99991231T235959Z-0123456789ab"
    incomplete.mkdir()
    (incomplete / "score.onnx").write_bytes(b"")
    (tmp_path / "99991231T235959Z-0123456789ac").write_bytes(b"a file")
    assert newest(tmp_path) == path
    assert newest(path) == path


def test_no_bundle_is_an_error(tmp_path: Path) -> None:
    """An empty or absent directory is an error that names it."""
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=place.name):
            newest(place)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(tmp_path)


def test_a_link_to_a_file_is_a_file(bundles: Path) -> None:
    """CURRENT may be a link, as a mounted configuration has it."""
    _, old = find_bundles(bundles).bundles
    (bundles / "chosen").write_text(old.name)
    (bundles / CURRENT).symlink_to("chosen")
    assert find_bundles(bundles).bundles == [old]


def test_one_that_nobody_may_look_into_is_passed_over(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's directory does not keep the others from being served."""
    new, old = find_bundles(bundles).bundles
    is_file, read_bytes = Path.is_file, Path.read_bytes

    def deny(call: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def denied(path: Path) -> Any:
            if path.parent == new:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path)

        return denied

    monkeypatch.setattr(Path, "is_file", deny(is_file))
    monkeypatch.setattr(Path, "read_bytes", deny(read_bytes))
    assert find_bundles(bundles).bundles == [old]
    assert set(complete_bundles(bundles)) == {old, new}, "an operator sees it"
    [(name, reason)] = find_bundles(bundles).unreadable.items()
    assert name == new.name
    assert "manifest.json cannot be read" in reason


def test_current_is_written_whole_or_not_at_all(bundles: Path) -> None:
    """A file that cannot be written leaves the old one, and nothing beside it."""
    write_current(bundles, b"one\n")
    there = sorted(path.name for path in bundles.iterdir())
    with pytest.raises(IsADirectoryError):
        point_into_a_directory(bundles)
    assert sorted(path.name for path in bundles.iterdir()) == there
    write_current(bundles, b"two\n")
    assert read_current(bundles) == b"two\n"
    assert (bundles / CURRENT).stat().st_mode & 0o777 == 0o644


def point_into_a_directory(bundles: Path) -> None:
    """Try to write CURRENT where a directory has its name; then put things back."""
    (bundles / CURRENT).rename(bundles / "kept")
    (bundles / CURRENT).mkdir()
    try:
        write_current(bundles, b"two\n")
    finally:
        (bundles / CURRENT).rmdir()
        (bundles / "kept").rename(bundles / CURRENT)


def test_current_names_the_bundle_to_serve(bundles: Path) -> None:
    """CURRENT is obeyed even where it names an older bundle, and is the only one offered."""
    new, old = find_bundles(bundles).bundles
    assert current_written(bundles) == 0
    stamp = write_current(bundles, f"{old.name}\n".encode())
    assert stamp == current_written(bundles) == (bundles / CURRENT).stat().st_mtime_ns
    assert find_bundles(bundles).bundles == [old]
    assert newest(bundles) == old
    assert write_current(bundles, None) == 0
    assert find_bundles(bundles).bundles == [new, old]


@pytest.mark.parametrize("name", ["", "../elsewhere", "20260101T000000Z-0123456789ab"])
def test_a_current_that_names_no_bundle_is_an_error(bundles: Path, name: str) -> None:
    """The newest is not served instead: an operator has asked for another."""
    write_current(bundles, name.encode())
    with pytest.raises(BundleError, match=r"CURRENT names .* there is no such bundle"):
        newest(bundles)


def test_a_link_leads_to_the_bundle_itself(tmp_path: Path) -> None:
    """Turned to another one it is another path; a link to a directory is that directory."""
    one, two = write(tmp_path / "one"), write(tmp_path / "two", "abc")
    link = tmp_path / "current"
    link.symlink_to(one)
    assert newest(link) == one
    before = current_written(link)
    assert before == link.lstat().st_mtime_ns
    turn(link, two)
    assert newest(link) == two
    assert current_written(link) >= before
    turn(link, tmp_path / "one")
    assert newest(link).resolve() == one
    turn(link, tmp_path / "nowhere")
    with pytest.raises(BundleError, match="no such directory"):
        newest(link)
    assert current_written(link) == 0


def test_a_link_on_the_way_counts_too(tmp_path: Path) -> None:
    """As a mounted volume has it: the bundle's own name stays, and a directory above is turned."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, name).rename(tmp_path / name / "bundle")
    (tmp_path / "data").symlink_to("one")
    path = tmp_path / "data" / "bundle"
    assert newest(path) == tmp_path / "one" / "bundle"
    turn(tmp_path / "data", Path("two"))
    assert newest(path) == tmp_path / "two" / "bundle"
    assert current_written(path) == (tmp_path / "data").lstat().st_mtime_ns


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    """It is told like a bundle that is not there."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(BundleError, match="no bundle at"):
        newest(tmp_path / "a")


def turn(link: Path, target: Path) -> None:
    """Put another link in a link's place, at once."""
    new = link.with_name("new")
    new.symlink_to(target)
    new.rename(link)


@pytest.mark.parametrize("kind", ["FIFO", "device", "endless link"])
def test_a_current_that_could_block_is_refused_at_once(bundles: Path, kind: str) -> None:
    """Nothing waits for a writer that may never come, or reads without end."""
    if kind == "FIFO":
        os.mkfifo(bundles / CURRENT)
    else:
        (bundles / CURRENT).symlink_to("/dev/zero" if kind == "endless link" else "/dev/tty")
    with pytest.raises(BundleError, match="CURRENT cannot be read, and should be a file"):
        newest(bundles)
    with pytest.raises(OSError):  # noqa: PT011
        read_current(bundles)


def test_only_the_beginning_of_a_large_current_is_read(bundles: Path) -> None:
    """A file that is no name of a bundle is shown in part."""
    (bundles / CURRENT).write_text("x" * 10**6)
    with pytest.raises(BundleError, match="there is no such bundle") as told:
        newest(bundles)
    assert len(str(told.value)) < 400
