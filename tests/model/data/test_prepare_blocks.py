"""Prepared data are the same however the work is cut, placed and interrupted."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from model.cluster.places import Places, ThisProcess
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import prepare, prepare_rows
from tests.model.held_prepare import VARIABLE
from tests.support import samples
from tests.support.scattered import Backwards, contents, scatter
from tests.support.serving import wait_until
from tests.support.starting import run, start

ROWS, FILES = 1_800, 6


class Data:
    """Files with a spec."""

    def __init__(self, directory: Path) -> None:
        self.spec = directory / "clicks.toml"
        self.spec.write_text(samples.with_scaled_numbers(), encoding="utf-8")
        self.paths = scatter(directory, ROWS, FILES)

    def prepared(self, cache: Path, places: Places, **options: object) -> Path:
        """Fill a cache and return its entry."""
        inputs = InputFiles(self.paths, max_bad_lines=0.1, **options)  # type: ignore[arg-type]
        return prepare_rows(self.spec, inputs, None, cache, places, progress=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def expected(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The entry that this process makes of whole files."""
    return data.prepared(tmp_path_factory.mktemp("cache"), ThisProcess())


@pytest.mark.slow
@pytest.mark.parametrize("mib", [1, 3], ids=["small blocks", "larger blocks"])
def test_neither_blocks_nor_their_order_change_a_byte(
    data: Data, expected: Path, tmp_path: Path, mib: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small blocks that run backwards, twice each, give the same files, and name the same lines."""
    found = data.prepared(tmp_path, Backwards(mib))
    assert found.name == expected.name
    assert contents(found) == contents(expected)
    assert os.listdir(tmp_path) == [found.name]
    assert (
        f"of {ROWS} lines are bad:\n  part-00.csv:8: 1 values, expected " in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_split_at_random_is_the_same(data: Data, tmp_path: Path) -> None:
    """It is of the rows in the order of the files."""
    one = data.prepared(tmp_path / "one", ThisProcess(), mode="random", seed=3)
    two = data.prepared(tmp_path / "two", Backwards(1), mode="random", seed=3)
    assert contents(one) == contents(two)


def test_other_commands_find_the_entry(
    data: Data, expected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They read no row again."""
    inputs = InputFiles(data.paths, max_bad_lines=0.1)
    prepare(data.spec, inputs, cache=expected.parent, progress=False)
    assert "taken from the cache" in capsys.readouterr().err


@pytest.mark.parametrize("mib", [1, 1024])
def test_errors_are_those_of_whole_files(data: Data, tmp_path: Path, mib: int) -> None:
    """Too many bad lines: the first ten in the order of the files. Nothing is kept of the work."""
    with pytest.raises(DataError) as caught:
        prepare_rows(data.spec, InputFiles(data.paths), None, tmp_path, Backwards(mib), False)
    told = str(caught.value).splitlines()
    assert told[0] == f"12 of {ROWS} lines are bad:"
    lines = [line.split(": ")[0].strip() for line in told[1:11]]
    assert lines == [f"part-{n:02d}.csv:{k}" for n in (0, 1, 3, 4) for k in (8, 139, 270)][:10]
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_usable_line_is_named(data: Data, tmp_path: Path) -> None:
    """Also where it is several blocks, with the first lines of it alone."""
    path = tmp_path / "useless.csv"
    header = data.paths[0].read_text(encoding="utf-8").partition("\n")[0]
    path.write_text(f"{header}\n" + "cut\n" * 20_000, encoding="utf-8")
    told = []
    for mib in (1, 1024):
        inputs = InputFiles([data.paths[0], path], max_bad_lines=1.0)
        with pytest.raises(DataError) as caught:
            prepare_rows(data.spec, inputs, None, tmp_path / "cache", Backwards(mib), False)
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert told[0].startswith("useless.csv has no usable line\n20000 of 20000 lines are bad:\n")


@pytest.mark.slow
def test_an_interrupted_run_is_kept_and_goes_on(
    data: Data,
    expected: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is done is not done again; in the end nothing but the entry is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before: dict[Path, int] = {}
    for where in ("input_files.split", "prepare.learn_vocabulary", "encoded_data.write_arrays"):
        with monkeypatch.context() as patch:
            patch.setattr(f"model.data.{where}", interrupt)
            with pytest.raises(KeyboardInterrupt):
                data.prepared(tmp_path, Backwards(1))
        [work] = tmp_path.iterdir()
        assert work.name.startswith(".work-")
        told = f"what is done is kept in {work}: the same command goes on there"
        assert told in capsys.readouterr().err
        blocks = {path: path.stat().st_mtime_ns for path in work.rglob("*.json")}
        assert len(blocks) >= len(before) + FILES
        assert before.items() <= blocks.items(), "a block was done again"
        before = blocks
    found = data.prepared(tmp_path, Backwards(1))
    assert contents(found) == contents(expected)
    assert os.listdir(tmp_path) == [found.name]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("stage", ["rows", "counts", "frames"])
def test_a_killed_run_leaves_no_entry_and_its_successor_goes_on(
    data: Data, expected: Path, tmp_path: Path, stage: str
) -> None:
    """SIGKILL when a stage has begun: the next run has the same result and leaves nothing else."""
    cache = tmp_path / "cache"
    words = ["prepare", data.spec, *data.paths, "--cache", cache, "--max-bad-lines", 0.1]
    options = ["--worker-memory", 128]
    program = [sys.executable, "-m", "tests.model.held_prepare"]
    environment = {**os.environ, VARIABLE: stage}
    process = start([*program, *map(str, [*words, *options])], environment, None, None)

    def begun() -> bool:
        assert process.poll() is None, "it has ended before"
        return any(cache.glob(f".work-*/{stage}/*.json"))

    try:
        wait_until(begun, "a block of the stage is done", 120)
    finally:
        process.kill()
        process.wait()
    [work] = cache.iterdir()
    assert work.name.startswith(".work-")
    again = run("model", *words, *options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == str(cache / expected.name)
    assert contents(cache / expected.name) == contents(expected)
    assert os.listdir(cache) == [expected.name]
