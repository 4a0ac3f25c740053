"""Files and directories are written whole or not at all, and are durable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.files import (
    PARTIAL,
    partial_directory,
    put_in_place,
    remove_abandoned,
    sha256,
    write_file,
)
from tests.support.disk import DiskCall, recorded
from tests.support.serving import ROOT


def test_a_file_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is durable before the rename, and the rename before the call returns."""
    target = tmp_path / "file"
    with recorded(monkeypatch) as calls:
        write_file(target, b"content")
    partial = calls[0].path
    assert calls == [
        DiskCall("fsync", partial),
        DiskCall("rename", partial, target),
        DiskCall("fsync", tmp_path),
    ]
    assert partial.name.startswith(PARTIAL)
    assert target.read_bytes() == b"content"


def test_a_directory_is_synced_with_all_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and every directory below it, before the rename."""
    target = tmp_path / "result"
    with recorded(monkeypatch) as calls, partial_directory(tmp_path) as partial:
        (partial / "inner").mkdir()
        for name in ("one", "inner/two"):
            (partial / name).write_bytes(b"x")
        put_in_place(partial, target)
    names = ["one", "inner", "inner/two"]
    *synced, renamed, last = calls
    assert {call.path for call in synced} == {partial, *(partial / name for name in names)}
    assert all(call.what == "fsync" for call in synced)
    assert renamed == DiskCall("rename", partial, target)
    assert last == DiskCall("fsync", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whichever step fails, the target keeps its content and nothing is left beside it."""
    target = tmp_path / "file"
    write_file(target, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_has_the_permissions_of_the_umask_or_those_given(tmp_path: Path) -> None:
    """A file that other users must read says so; all others follow the process."""
    before = os.umask(0o077)
    try:
        write_file(tmp_path / "own", b"")
        write_file(tmp_path / "shared", b"", mode=0o644)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"own": 0o600, "shared": 0o644}


def test_a_partial_directory_is_removed_unless_it_was_renamed(tmp_path: Path) -> None:
    """An error inside leaves nothing."""

    def interrupted() -> None:
        with partial_directory(tmp_path / "below") as partial:
            (partial / "file").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "below").iterdir()) == []


def test_only_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    """A directory whose process lives is kept; that of a killed one goes."""
    program = (
        "import sys, time; from pathlib import Path; from app.files import partial_directory\n"
        "with partial_directory(Path(sys.argv[1])) as path: print(path, flush=True); time.sleep(99)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        abandoned = Path(process.stdout.readline().strip())
        remove_abandoned(tmp_path)
        assert abandoned.is_dir()
        process.send_signal(signal.SIGKILL)
    with partial_directory(tmp_path) as own:
        remove_abandoned(tmp_path)
        assert list(tmp_path.iterdir()) == [own]


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    """As every other tool gives it."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
