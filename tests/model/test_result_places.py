"""Places for results: what can be written passes and leaves no trace; what cannot is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.result_places import (
    ResultError,
    require_bundle_directory,
    require_directory,
    require_file,
)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory that nothing can be written to, whoever asks."""
    place = tmp_path / "read-only"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and not subprocess.run(words, capture_output=True).returncode
    if not mounted:
        if os.geteuid() == 0:
            pytest.skip("no file system can be mounted here, and root may write anywhere")
        place.chmod(0o555)
    yield place
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    else:
        place.chmod(0o755)


def test_a_place_that_can_be_made_is_left_as_it_was(tmp_path: Path) -> None:
    """Absent directories pass and stay absent; present ones stay as they are."""
    require_directory(tmp_path / "a" / "b")
    require_bundle_directory(tmp_path)
    require_file(tmp_path / "scores.parquet")
    require_file(tmp_path / "a" / "found.toml", parents=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "scores.parquet").write_text("older")
    require_file(tmp_path / "scores.parquet", [tmp_path / "absent.csv"])
    assert (tmp_path / "scores.parquet").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


Require = Callable[[Path], object]


def file_below(place: Path) -> None:
    """Ask for a file in a directory that may be absent."""
    require_file(place / "x.toml", parents=True)


@pytest.mark.parametrize("require", [require_directory, require_bundle_directory, file_below])
def test_a_directory_that_cannot_be_is_told(tmp_path: Path, require: Require) -> None:
    """A file in its place or above it, a link to nowhere, a name too long, a read-only system."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    for place, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file" / "below", "Not a directory"),
        (tmp_path / "link", "File exists"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/proc/x"), "No such file or directory"),
    ):
        with pytest.raises(ResultError) as caught:
            require(place)
        message = str(caught.value)
        assert message.startswith(str(place)), message
        assert " cannot be written: " in message
        assert reason in message or place.name == "file"
        assert "\n" not in message
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


def test_a_place_that_may_not_be_written_is_told(read_only: Path) -> None:
    """Permissions, or a file system that is read-only."""
    for require, place in (
        (require_directory, read_only),
        (require_directory, read_only / "bundles"),
        (require_file, read_only / "scores.parquet"),
    ):
        with pytest.raises(ResultError, match=r"cannot be written: .*(Read-only|Permission)"):
            require(place)  # type: ignore[operator]


def test_a_bundle_holds_no_bundles(tiny_bundle: Path) -> None:
    """The directory above it is meant."""
    with pytest.raises(ResultError, match="is a bundle; name the directory that holds bundles"):
        require_bundle_directory(tiny_bundle)


def test_a_file_that_cannot_be_is_told(tmp_path: Path) -> None:
    """Directories, pipes, devices, absent directories, long names."""
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "it is a directory"),
        (tmp_path / "pipe", "it is not an ordinary file"),
        (Path("/dev/null"), "it is not an ordinary file"),
        (tmp_path / "no" / "x.parquet", f"there is no directory {tmp_path / 'no'}"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ResultError) as caught:
            require_file(path)
        assert str(caught.value) == f"{path} cannot be written: {reason}"


def test_an_input_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own name, another spelling, a symbolic or a hard link, or a link above it."""
    data = tmp_path / "data" / "x.parquet"
    data.parent.mkdir()
    data.write_text("rows")
    (tmp_path / "symbolic").symlink_to(data)
    (tmp_path / "hard").hardlink_to(data)
    (tmp_path / "above").symlink_to(data.parent)
    monkeypatch.chdir(tmp_path)
    spellings = [
        data, Path("data/x.parquet"), Path("./data/../data/x.parquet"), Path("symbolic"),
        Path("hard"), Path("above/x.parquet"),
    ]  # fmt: skip
    for out in spellings:
        with pytest.raises(ResultError) as caught:
            require_file(out, [tmp_path / "other.csv", data])
        named = "an input" if out == data else f"the input {data} by another name"
        assert str(caught.value) == f"{out} is {named}, and must stay; name another file"
    require_file(Path("data/y.parquet"), [data])
    assert data.read_text() == "rows"


def test_a_bundle_is_never_written_into(tiny_bundle: Path, tmp_path: Path) -> None:
    """It never changes after it was made; beside it there is room."""
    (tmp_path / "link").symlink_to(tiny_bundle)
    for out in (tiny_bundle / "scores.parquet", tmp_path / "link" / "score.onnx"):
        with pytest.raises(ResultError, match=f"lies in the bundle {tiny_bundle.name}, which"):
            require_file(out, bundle=tiny_bundle)
    require_file(tiny_bundle.parent / "scores.parquet", bundle=tiny_bundle)
