"""Files of object stores stand where paths stand."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from model.data.file_kinds import is_parquet
from model.remote import files
from model.remote.file_systems import Entry, RemoteError
from model.remote.files import Copies, RemoteFile, file_path, is_address, with_patterns_found

URL = "s3://bucket/day=1/part-0.snappy.parquet"


def test_a_remote_file_is_named_by_its_address() -> None:
    """In messages, by its name and its ending; also after a way through a pipe to a worker."""
    path = file_path(URL)
    assert isinstance(path, RemoteFile)
    assert (str(path), path.name) == (URL, "part-0.snappy.parquet")
    assert is_parquet(path)
    for again in (pickle.loads(pickle.dumps(path)), file_path(URL)):
        assert (again, str(again), hash(again)) == (path, URL, hash(path))
    assert str(path.parent) == "s3://bucket/day=1"
    assert path.absolute() == path
    assert is_address(path)
    assert is_address(Path(URL))


def test_other_paths_stay_as_they_are() -> None:
    """A path of this machine is one, whatever it looks like."""
    for text in ("days/1.csv", "/s3/1.csv", "s3:/1.csv"):
        assert type(file_path(text)) is type(Path())
    assert not is_address(Path("days/s3:/1.csv"))
    assert not is_address(Path())
    assert with_patterns_found([Path("*.csv")]) == [Path("*.csv")]


def test_copies_make_room_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is copied once, those used last stay, and none of them fills the disk."""
    copied: list[str] = []
    sizes = {f"s3://b/{n}": size for n, size in enumerate((40, 40, 40, 400))}

    class Usage:
        total = 100

        @property
        def free(self) -> int:
            held = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
            return 100 - held

    def download(entry: Entry, file: object) -> None:
        copied.append(entry.url)
        file.write(b"x" * entry.size)  # type: ignore[attr-defined]
        file.flush()  # type: ignore[attr-defined]

    monkeypatch.setattr(files, "find", lambda url: Entry(url, sizes[url], 0))
    monkeypatch.setattr(files, "download", download)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: Usage())
    monkeypatch.setattr(files.tempfile, "gettempdir", lambda: str(tmp_path))
    copies = Copies()
    first, second = copies.of("s3://b/0"), copies.of("s3://b/1")
    assert copies.of("s3://b/0") == first
    third = copies.of("s3://b/2")
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert copied == ["s3://b/0", "s3://b/1", "s3://b/2"]
    with pytest.raises(RemoteError, match=r"s3://b/3: no copy could be kept in .*TMPDIR"):
        copies.of("s3://b/3")
    assert copied[3:] == []
    copies.close()
    assert not list(tmp_path.iterdir())
