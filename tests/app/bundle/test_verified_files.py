"""Large files are hashed once; any change is seen, and a note is used where it is safe."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from app.bundle import verified_files
from app.bundle.bundle import Bundle
from app.bundle.verified_files import VerifiedFiles
from app.errors import BundleError
from app.files import sha256
from tests.support.bundles import write

NAME = "score.onnx"


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note files of a few bytes, and at once."""
    monkeypatch.setattr(verified_files, "LARGE", 1)
    monkeypatch.setattr(verified_files, "SETTLED_NS", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle."""
    return write(tmp_path / "bundles")


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """The path of a note that is not there yet."""
    return tmp_path / "verified.json"


def forge(note: Path) -> None:
    """Give every file in a note another hash: where the note is used, verification fails."""
    files = msgspec.json.decode(note.read_bytes())
    note.write_bytes(msgspec.json.encode([[file, "0" * 64] for file, _ in files]))


def test_a_file_is_hashed_once(path: Path, note: Path) -> None:
    """The first start hashes a file and notes it; the next takes the hash from the note."""
    Bundle.open(path, verified=VerifiedFiles(note))
    assert note.stat().st_mode & 0o777 == 0o600
    content = note.read_bytes()
    Bundle.open(path, verified=VerifiedFiles(note))
    assert note.read_bytes() == content
    forge(note)
    with pytest.raises(BundleError, match="was altered"):
        Bundle.open(path, verified=VerifiedFiles(note))
    # Without the note every file is read.
    Bundle.open(path)


def overwrite(file: Path) -> None:
    file.write_bytes(file.read_bytes()[::-1])


def overwrite_and_set_times_back(file: Path) -> None:
    before = file.stat()
    overwrite(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes()[::-1])
    other.replace(file)


@pytest.mark.parametrize("change", [overwrite, overwrite_and_set_times_back, replace])
def test_a_change_is_seen(path: Path, note: Path, change: Callable[[Path], None]) -> None:
    """A noted file that is altered in any way, its size and times kept, is hashed again."""
    Bundle.open(path, verified=VerifiedFiles(note))
    change(path / NAME)
    with pytest.raises(BundleError, match=f"{NAME} was altered"):
        Bundle.open(path, verified=VerifiedFiles(note))


def test_an_altered_file_is_never_noted_as_right(path: Path, note: Path) -> None:
    """A bundle that is altered at first sight is refused each time."""
    overwrite(path / NAME)
    for _ in range(2):
        with pytest.raises(BundleError, match=f"{NAME} was altered"):
            Bundle.open(path, verified=VerifiedFiles(note))


def test_a_file_that_was_just_written_is_not_noted(
    path: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change within the clock's resolution could have the same time as the one before."""
    monkeypatch.setattr(verified_files, "SETTLED_NS", 3_600_000_000_000)
    Bundle.open(path, verified=VerifiedFiles(note))
    assert not note.exists()


def test_small_files_are_hashed_each_time(
    path: Path, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only large files are worth a note."""
    monkeypatch.setattr(verified_files, "LARGE", 10**6)
    Bundle.open(path, verified=VerifiedFiles(note))
    assert not note.exists()


def open_to_all(note: Path) -> None:
    note.write_bytes(b"[]")
    note.chmod(0o666)


def in_a_directory_open_to_all(note: Path) -> None:
    note.write_bytes(b"[]")
    note.parent.chmod(0o777)


def a_fifo(note: Path) -> None:
    os.mkfifo(note)


def a_link(note: Path) -> None:
    target = note.with_name("target.json")
    target.write_bytes(b"[]")
    note.symlink_to(target)


@pytest.mark.parametrize("spoil", [open_to_all, in_a_directory_open_to_all, a_fifo, a_link])
def test_a_note_that_others_could_write_is_not_used(
    path: Path, note: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is neither read nor written, the log says why, and every file is hashed."""
    spoil(note)
    before = note.lstat()
    Bundle.open(path, verified=VerifiedFiles(note))
    assert note.lstat() == before
    assert "verified files are not noted" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[[1]]", b'[[[1, 2, 3, 4, "5"], "0"]]', b"\xff"])
def test_a_damaged_note_is_written_again(path: Path, note: Path, content: bytes) -> None:
    """Damage costs one start with all files hashed."""
    note.write_bytes(content)
    note.chmod(0o600)
    Bundle.open(path, verified=VerifiedFiles(note))
    assert sha256(path / NAME) in note.read_text()


def test_a_note_that_cannot_be_written_costs_nothing(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its directory the service starts as without a note."""
    caplog.set_level(logging.WARNING)
    Bundle.open(path, verified=VerifiedFiles(tmp_path / "absent" / "verified.json"))
    assert "No such file" in caplog.text
