"""Files are cut into blocks that hold every row once, with the numbers of their lines."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.features.spec import Categorical, FeatureSpec
from model.data.bad_lines import BadLines
from model.data.file_blocks import WHOLE, BlockSize, FilePart, Looked, look
from model.data.log_files import pieces
from model.data.wanted_columns import FILE, LINE

SPEC = FeatureSpec(
    label="click",
    fields=(Categorical(name="a", side="context"), Categorical(name="b", side="candidate")),
)


def blocks(path: Path, limit: int) -> tuple[FilePart, ...]:
    """The blocks of a file, of about so many bytes or rows."""
    return look(Looked(path, BlockSize(limit, limit, limit))).parts


def lines(path: Path, part: FilePart, bad: BadLines) -> list[tuple[object, ...]]:
    """The rows of a part with their lines."""
    found = pieces(SPEC, path, ["click", "a", "b"], bad, part=part)
    frames = [piece.frame.drop(FILE) for piece in found]
    return [row for frame in frames for row in frame.select(LINE, "click", "a", "b").rows()]


CELLS = st.sampled_from(["", "x", "yy", "é" * 3, "long " * 9])
TABLES = st.lists(st.tuples(st.sampled_from("01"), CELLS, CELLS) | st.none(), max_size=30)


@given(TABLES, st.integers(1, 200), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_blocks_of_text_hold_what_the_file_holds(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[str, ...] | None],
    limit: int,
    end: str,
    ended: bool,
    marked: bool,
) -> None:
    """Rows, numbers of lines, bad lines: however small the blocks, with empty lines between."""
    path = tmp_path_factory.mktemp("log") / "log.csv"
    rows = ["click,a,b", *("cut" if row is None else ",".join(row) for row in table), "1,x,y"]
    text = end.join(rows) + (end if ended else "")
    path.write_bytes(text.encode("utf-8-sig" if marked else "utf-8"))
    whole, cut = BadLines(), BadLines()
    expected = lines(path, WHOLE, whole)
    parts = blocks(path, limit)
    assert [row for part in parts for row in lines(path, part, cut)] == expected
    assert cut == whole
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert parts[0].start == 0
    assert parts[-1].stop in (None, path.stat().st_size)
    # A block ends with the first line that makes it so long.
    content = path.read_bytes()
    for part in parts[:-1]:
        assert part.stop is not None
        block = content[part.start : part.stop]
        assert len(block) >= limit > block.rfind(b"\n", 0, -1) + 1


def test_a_look_has_the_size_and_the_hash(tmp_path: Path) -> None:
    """Of what was read."""
    path = tmp_path / "log.csv"
    path.write_bytes(b"click,a,b\n" + b"1,x,y\n" * 400_000)
    found = look(Looked(path, BlockSize(2**20)))
    content = path.read_bytes()
    assert found.bytes == len(content)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert len(found.parts) == 3
    assert found.parts[1].first_line == content[: found.parts[0].stop].count(b"\n") + 1


@pytest.mark.parametrize("name", ["log.csv.gz", "mac.csv"])
def test_a_file_that_can_be_read_only_from_its_beginning_is_one_block(
    tmp_path: Path, name: str
) -> None:
    """Gzipped text, and text whose lines end in CR alone."""
    text = b"click,a,b\n1,x,y\n0,x,y\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text.replace(b"\n", b"\r"))
    assert blocks(path, 4) == (WHOLE,)
    assert [row[0] for row in lines(path, WHOLE, BadLines())] == [2, 3]


@pytest.mark.parametrize("rows", [0, 1, 10, 11])
def test_blocks_of_parquet_are_ranges_of_rows(tmp_path: Path, rows: int) -> None:
    """Their lines are numbered as in the whole file."""
    path = tmp_path / "log.parquet"
    values = [str(number) for number in range(rows)]
    frame = pl.DataFrame({"click": [1] * rows, "a": values, "b": values})
    frame.write_parquet(path, row_group_size=4)
    found = [row for part in blocks(path, 5) for row in lines(path, part, BadLines())]
    assert [row[0] for row in found] == list(range(1, rows + 1))
    assert [row[2] for row in found] == values


def test_json_is_cut_too(tmp_path: Path) -> None:
    """A line is an object."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"click":1,"a":"{n}","b":"x"}}\n' for n in range(40)) + "\n[]\n")
    bad = BadLines()
    parts = blocks(path, 100)
    found = [row for part in parts for row in lines(path, part, bad)]
    assert len(parts) > 5
    assert [row[0] for row in found] == list(range(1, 41))
    assert bad.lines == [("log.jsonl", 42, "Expected `object`, got `array`")]


def test_a_file_that_is_no_parquet_is_left_to_its_reader(tmp_path: Path) -> None:
    """It tells what is wrong, and in which file."""
    path = tmp_path / "log.parquet"
    path.write_text("click,a,b\n1,x,y\n")
    assert blocks(path, 5) == (WHOLE,)


def test_less_memory_makes_smaller_blocks() -> None:
    """In proportion, and never empty."""
    assert BlockSize.of_memory(1024) == BlockSize()
    assert BlockSize.of_memory(512) == BlockSize(2**24, 2**22, 2**16)
    assert min(BlockSize.of_memory(1)) >= 1
