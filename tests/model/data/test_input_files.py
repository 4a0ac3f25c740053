"""The files of a run become rows on disk, each of one part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.features.spec import FeatureSpec
from model.data.errors import DataError
from model.data.input_files import InputFiles, SplitRows
from model.data.split import PARTS
from tests.support import samples

SPEC = FeatureSpec.parse(samples.SPEC)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of 300 rows."""
    samples.write_log(tmp_path / "log.csv", 300)
    return tmp_path / "log.csv"


def read(inputs: InputFiles, tmp_path: Path) -> SplitRows:
    """The rows, read into a directory of their own."""
    directory = tmp_path / "rows"
    directory.mkdir()
    return inputs.read(SPEC, directory)


def test_data_are_split_along_time_where_the_spec_has_one(log: Path, tmp_path: Path) -> None:
    """No row of the training part is later than one of the validation part, and so on."""
    found = read(InputFiles([log]), tmp_path)
    assert np.bincount(found.part).tolist() == [240, 30, 30]
    times = np.array([row["time"] for row in samples.read_rows(log)])
    train, validation, test = (times[found.part == place] for place in range(len(PARTS)))
    assert train.max() <= validation.min()
    assert validation.max() <= test.min()


def test_a_column_of_the_training_part_can_be_read_again(log: Path, tmp_path: Path) -> None:
    """It comes in pieces, in the order of the files, any number of times."""
    found = read(InputFiles([log], mode="random", seed=3), tmp_path)
    for _ in range(2):
        values = [value for piece in found.train("placement") for value in piece.to_list()]
        expected = [row["placement"] for row in samples.read_rows(log)]
        chosen = np.flatnonzero(found.part == PARTS.index("train"))
        assert values == [expected[place] for place in chosen]


def test_files_for_each_part_are_kept_apart(log: Path, tmp_path: Path) -> None:
    """Every row belongs to the part whose file it came from."""
    short = tmp_path / "short.csv"
    samples.write_log(short, 50, seed=9)
    parts = {"train": [log], "validation": [short], "test": [short]}
    found = read(InputFiles(parts=parts), tmp_path)
    assert np.bincount(found.part).tolist() == [300, 50, 50]
    assert {part: [each.name for each in files] for part, files in found.sources.items()} == {
        "train": ["log.csv"],
        "validation": ["short.csv"],
        "test": ["short.csv"],
    }


@pytest.mark.parametrize("given", [{"train": ["a"]}, {}])
def test_parts_without_files_are_named(given: dict[str, list[str]], tmp_path: Path) -> None:
    """Files for some of the parts only are an error that names all parts."""
    parts = {part: [Path(name) for name in names] for part, names in given.items()}
    with pytest.raises(DataError, match="files for each part: train, validation, test"):
        read(InputFiles(parts=parts), tmp_path)


def test_the_key_follows_content_and_name(log: Path) -> None:
    """Content, spec and options change the key; the directory of a file does not."""
    key = InputFiles([log]).key("spec", SPEC)
    assert InputFiles([log], seed=2).key("spec", SPEC) != key
    assert InputFiles([log]).key("other", SPEC) != key
    moved = log.parent / "elsewhere" / "log.csv"
    moved.parent.mkdir()
    log.rename(moved)
    assert InputFiles([moved]).key("spec", SPEC) == key
    moved.write_bytes(moved.read_bytes() + b"\n")
    assert InputFiles([moved]).key("spec", SPEC) != key
    with pytest.raises(DataError, match=r"cannot read .*log\.csv: No such file"):
        InputFiles([log]).key("spec", SPEC)


def test_markers_beside_parts_change_no_key(log: Path) -> None:
    """A directory among them is not opened."""
    (log.parent / "_temporary").mkdir()
    assert InputFiles([log, log.parent / "_temporary"]).key("", SPEC) == InputFiles([log]).key(
        "", SPEC
    )


def test_one_warning_for_all_parts(log: Path, tmp_path: Path) -> None:
    """A warning that is the same for several parts is said once."""
    (tmp_path / "_SUCCESS").touch()
    files = [log, tmp_path / "_SUCCESS"]
    found = read(InputFiles(parts={"train": files, "validation": files, "test": files}), tmp_path)
    assert found.warnings == ["files passed over, as their names begin with _ or .: _SUCCESS"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_lacks_a_column_is_told_before_a_row_is_read(
    log: Path, tmp_path: Path, suffix: str
) -> None:
    """The last of the files, or that of the last part; one that is not there, too."""
    frame = pl.read_csv(log, infer_schema=False).drop("item_id")
    short = tmp_path / f"short{suffix}"
    frame.write_csv(short) if suffix == ".csv" else frame.write_parquet(short)
    absent = tmp_path / f"absent{suffix}"
    bad = tmp_path / "bad.csv"
    bad.write_text(log.read_text() + "cut\n")
    for last, wanted in (
        (short, f"short{suffix}: column 'item_id' is absent; the columns are 'user_id', "),
        (absent, f"cannot read {absent}: No such file or directory"),
    ):
        for number, inputs in enumerate((
            InputFiles([bad, last]),
            InputFiles(parts={"train": [bad], "validation": [bad], "test": [last]}),
        )):  # fmt: skip
            directory = tmp_path / f"rows-{last.name}-{number}"
            directory.mkdir()
            with pytest.raises(DataError) as caught:
                inputs.read(SPEC, directory)
            assert str(caught.value).startswith(wanted)
            assert list(directory.iterdir()) == []
