"""Files of the request log: whole, closed by size and time, within a budget."""

from __future__ import annotations

import errno
import gzip
import os
from pathlib import Path

import pytest

from app.feedback import log_files
from app.feedback.log_files import LEAST_ROLL_BYTES, LogFiles
from tests.support.disks import files_limited_to


def lines_of(directory: Path) -> list[bytes]:
    """All lines, closed files first by their names."""
    return [
        line
        for path in sorted(directory.iterdir())
        for line in gzip.decompress(path.read_bytes()).splitlines()
    ]


def test_a_file_has_its_name_once_it_is_closed(tmp_path: Path) -> None:
    """While it is written its name ends in .open; its lines can be read at any time."""
    files = LogFiles(tmp_path, 2**30)
    assert files.is_new
    files.write(b"a\n")
    files.write(b"b\n")
    (path,) = tmp_path.iterdir()
    assert path.name.endswith(".jsonl.gz.open")
    assert lines_of(tmp_path) == [b"a", b"b"]
    files.close()
    assert [each.name for each in tmp_path.iterdir()] == [path.name.removesuffix(".open")]
    assert files.is_new


def test_files_are_closed_by_age(tmp_path: Path) -> None:
    """By the clock, also if nothing is written meanwhile."""
    now = 1_000.0
    files = LogFiles(tmp_path, 2**30, roll_seconds=60, clock=lambda: now)
    files.write(b"a\n")
    now += 59
    files.close_old()
    assert not files.is_new
    now += 1
    files.close_old()
    assert files.is_new
    files.close_old()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_oldest_files_go(tmp_path: Path) -> None:
    """The directory stays within its budget, and keeps the newest lines; other files stay."""
    budget = 8 * LEAST_ROLL_BYTES
    now = 1_000.0
    files = LogFiles(tmp_path, budget, clock=lambda: now)
    (tmp_path / "other").write_bytes(bytes(budget))
    for number in range(60):
        now += 1
        files.write(f"{number} ".encode() + os.urandom(4096).hex().encode() + b"\n")
    files.close()
    (tmp_path / "other").unlink()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= budget
    kept = [int(line.split()[0]) for line in lines_of(tmp_path)]
    assert kept == list(range(kept[0], 60))
    assert 5 < len(kept) < 50


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """What cannot be written is not there by halves, and the next write follows what was."""
    files = LogFiles(tmp_path, 2**30)
    files.write(b"a\n")
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    with files_limited_to(size + 100), pytest.raises(OSError, match="File too large") as caught:
        files.write(os.urandom(1000).hex().encode())
    assert caught.value.errno == errno.EFBIG
    assert path.stat().st_size == size
    files.write(b"b\n")
    assert lines_of(tmp_path) == [b"a", b"b"]


def test_files_of_a_process_that_is_gone_are_closed(tmp_path: Path) -> None:
    """By whoever starts next; a file that is in use stays open."""
    child = os.fork()
    if child == 0:
        LogFiles(tmp_path, 2**30).write(b"child\n")
        os._exit(0)
    os.waitpid(child, 0)
    files = LogFiles(tmp_path, 2**30)
    files.write(b"own\n")
    LogFiles(tmp_path, 2**30).close_abandoned()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.endswith(".open") for name in names] == [False, True]
    assert sorted(lines_of(tmp_path)) == [b"child", b"own"]


def test_a_small_budget_is_shared_by_the_workers(tmp_path: Path) -> None:
    """Each rolls early enough that all together keep to it."""
    files = LogFiles(tmp_path, 10 * 2**20, workers=4)
    assert files._roll_bytes == 10 * 2**20 // 32
    assert LogFiles(tmp_path, 2**40)._roll_bytes == log_files.ROLL_BYTES
