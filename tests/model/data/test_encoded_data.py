"""Encoded data are used again while nothing has changed, and never half-written or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.features.spec import DataPart
from app.files import PARTIAL, partial_directory
from model.array_files import INDEX
from model.config import TrainConfig
from model.data.encoded_data import DECIDING, code_hash
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.pipeline import run
from tests.contract.test_layers import imports, modules
from tests.support import samples

pytestmark = pytest.mark.slow

NOT_DECIDING = {
    "app.bundle.bundle",
    "app.bundle.manifest",
    "app.errors",
    "app.files",
    "model.array_files",
    "model.cluster.places",
    "model.config",
    "model.fingerprint",
    "model.group",
    "model.networks.crosses",
    "model.networks.network",
    "model.progress",
}
CONFIG = TrainConfig(network="lr", embedding_size=4, batch_size=64, epochs=1, threads=1)


class Cached:
    """A log with its spec, prepared with a cache."""

    def __init__(self, directory: Path) -> None:
        self.spec, self.data = directory / "few.toml", directory / "few.csv"
        self.cache = directory / "cache"
        self.spec.write_text(samples.with_scaled_numbers(), encoding="utf-8")
        samples.write_log(self.data, 300)

    def __call__(self, **changed: Any) -> Prepared:
        return prepare(self.spec, InputFiles([self.data], **changed), cache=self.cache)

    def entries(self) -> list[Path]:
        return sorted(self.cache.iterdir())


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    return Cached(tmp_path)


TakenFrom = Callable[[], bool]


@pytest.fixture
def taken(capsys: pytest.CaptureFixture[str]) -> TakenFrom:
    """Tells whether what was said since it was last asked says that the cache was used."""

    def ask() -> bool:
        err = capsys.readouterr().err
        assert ("taken from the cache" in err) != ("read and encoded" in err)
        return "taken from the cache" in err

    return ask


def assert_same(found: Prepared, expected: Prepared) -> None:
    """Every array of every part is the same."""
    assert list(found.data) == list(expected.data)
    for part, data in expected.data.items():
        for column in fields(data):
            mine, theirs = (getattr(each.data[part], column.name) for each in (found, expected))
            if not isinstance(mine, tuple):
                mine, theirs = (mine,), (theirs,)
            assert len(mine) == len(theirs)
            for one, other in zip(mine, theirs, strict=True):
                assert np.array_equal(one, other)
                assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
    assert found.vocabulary.layout == expected.vocabulary.layout
    assert found.fingerprint() == expected.fingerprint()


def test_the_second_time_nothing_is_read(
    cached: Cached, taken: TakenFrom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, vocabulary and the bundle made of them are the same, lists and numbers included."""
    first = cached()
    assert not taken()

    def refuse(*_: object) -> None:
        raise AssertionError("the files were parsed again")

    monkeypatch.setattr("model.data.prepare.learn_vocabulary", refuse)
    monkeypatch.setattr("model.data.input_files.Reader", refuse)
    second = cached()
    assert taken()
    assert_same(second, first)
    paths = [run(each, CONFIG, tmp_path / "out", progress=False) for each in (first, second)]
    one, other = (Bundle.open(path).manifest for path in paths)
    assert one.id == other.id
    assert (one.metrics, one.data, one.statistics) == (other.metrics, other.data, other.statistics)


def test_whatever_has_changed_is_read_anew(
    cached: Cached, taken: TakenFrom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of a file or of the spec, its name, the split, the parts, the program: all count."""
    cached()
    taken()
    cached(mode="random")
    assert not taken()
    cached(mode="random", seed=2)
    assert not taken()
    cached(max_bad_lines=0.5)
    assert not taken()
    cached(wanted=("train", "validation"))
    assert not taken()
    cached(wanted=("train", "validation"))
    assert taken()
    content = cached.data.read_bytes()
    cached.data.write_bytes(content.replace(b"top", b"abc", 1))
    cached()
    assert not taken()
    cached.data.write_bytes(content)
    cached()
    assert taken()
    cached.spec.write_text(cached.spec.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    cached()
    assert not taken()
    cached.data = cached.data.rename(tmp_path / "other.csv")
    cached()
    assert not taken()
    with monkeypatch.context() as patched:
        patched.setattr("model.data.prepare.code_hash", lambda: "another version")
        cached()
        assert not taken()
    files: dict[DataPart, list[Path]] = {
        "train": [cached.data], "validation": [cached.data], "test": [cached.data],
    }  # fmt: skip
    parts = InputFiles(parts=files)
    for used in (False, True):
        prepare(cached.spec, parts, cache=cached.cache)
        assert taken() == used


def test_a_warm_start_has_an_entry_of_its_own(
    cached: Cached, taken: TakenFrom, tmp_path: Path
) -> None:
    """Buckets that a bundle settled are not those of another run."""
    bundle = Bundle.open(run(cached(), CONFIG, tmp_path / "out", progress=False))
    taken()
    for used in (False, True):
        prepare(cached.spec, InputFiles([cached.data]), bundle, cached.cache)
        assert taken() == used


@pytest.mark.parametrize("how", ["cut off", "altered", "absent", "index", "vocabulary", "rows"])
def test_damage_is_noticed_and_mended(
    how: str, cached: Cached, taken: TakenFrom, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever part of an entry is broken: a warning is given, and it is made anew."""
    # Not from the cache, whose files are mapped: what is changed in them would change.
    first = prepare(cached.spec, InputFiles([cached.data]))
    cached()
    (entry,) = cached.entries()
    arrays = sorted(entry.glob("*.npy"), key=lambda path: path.stat().st_size)
    match how:
        case "cut off":
            arrays[-1].write_bytes(arrays[-1].read_bytes()[:-1])
        case "altered":
            flip(arrays[-1])
        case "absent":
            arrays[0].unlink()
        case "index":
            flip(entry / INDEX)
        case "vocabulary":
            flip(max((entry / "vocabulary").iterdir(), key=lambda path: path.stat().st_size))
        case "rows":
            flip(entry / "test.jsonl")
    capsys.readouterr()
    again = cached()
    err = capsys.readouterr().err
    assert "warning: the cache is damaged and is written again: " in err
    assert "read and encoded" in err
    assert_same(again, first)
    assert_same(cached(), first)
    assert taken()


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_what_is_half_written_is_never_used(
    cached: Cached, taken: TakenFrom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted write leaves nothing; what a killed one leaves is no entry."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("app.features.vocabulary.Vocabulary.save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cached()
    assert cached.entries() == []
    # A killed write: everything is there but the last rename.
    cached()
    (entry,) = cached.entries()
    taken()
    entry.rename(cached.cache / f"{PARTIAL}killed")
    with partial_directory(cached.cache) as running:
        cached()
        assert not taken()
        # What a killed run has left is gone, what another one still writes is not.
        assert set(cached.entries()) == {entry, running}
    assert cached.entries() == [entry]


def test_bad_lines_are_told_every_time(cached: Cached, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that were left out are named again where the cache is used, and count as much."""
    with cached.data.open("a", encoding="utf-8") as file:
        file.write("one,cell,too,few\n")
    with pytest.raises(DataError, match="1 of 301 lines are bad"):
        cached()
    assert cached.entries() == []
    told = []
    for _ in range(2):
        capsys.readouterr()
        cached(max_bad_lines=0.01)
        told.append([line for line in capsys.readouterr().err.splitlines() if "warning" in line])
    assert told[0] == told[1]
    assert "1 of 301 lines are bad" in told[0][0]


def test_a_file_that_cannot_be_read_is_named(cached: Cached) -> None:
    """The message has the path, as without a cache."""
    cached.data = cached.data.with_name("absent.csv")
    with pytest.raises(DataError, match=r"cannot read .*absent\.csv"):
        cached()


def test_every_module_of_the_deciding_folders_changes_the_key(tmp_path: Path) -> None:
    """A changed, new, renamed or removed module makes earlier entries stale."""
    folders = [tmp_path / str(number) for number in range(len(DECIDING))]
    for folder, own in zip(folders, DECIDING, strict=True):
        shutil.copytree(own, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = code_hash(folders)
    assert before == code_hash()
    modules = [module for folder in folders for module in sorted(folder.rglob("*.py"))]
    assert {"canonical.py", "encoder.py", "reader.py"} <= {module.name for module in modules}
    for module in modules:
        content = module.read_bytes()
        module.write_bytes(content + b"\n")
        assert code_hash(folders) != before, module.name
        renamed = module.with_name("renamed.py")
        module.write_bytes(content)
        module.rename(renamed)
        assert code_hash(folders) != before, module.name
        renamed.unlink()
        assert code_hash(folders) != before, module.name
        module.write_bytes(content)
    (folders[0] / "new.py").touch()
    assert code_hash(folders) != before


def test_what_reads_and_encodes_lies_in_the_deciding_folders() -> None:
    """Each module that these folders import from elsewhere is known not to decide an index."""
    paths = modules()
    found = {
        each.target
        for name, path in paths.items()
        if path.parent in DECIDING
        for each in imports(name, path.read_text())
        if each.target in paths and paths[each.target].parent not in DECIDING
    }
    assert found == NOT_DECIDING
