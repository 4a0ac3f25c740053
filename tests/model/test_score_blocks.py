"""Scores block by block are those of a single process, and a run goes on where it was."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from model.cluster.places import MEMORY_MIB, THIS_PROCESS, Block, Result
from model.data.encode import encode
from model.data.errors import DataError
from model.data.file_blocks import BlockSize
from model.data.reader import Reader
from model.data.stored_files import StoredFiles
from model.quality.offline_scoring import score_dataset
from model.result_places import ResultError
from model.score_blocks import DONE, RUN, predict_blocks
from model.score_files import Offline
from tests.support.samples import Sample, candidate_of, context_of

pytestmark = pytest.mark.slow
SIZES = [BlockSize(1_000, 1_000, 7), BlockSize(30_000, 30_000, 1_000), BlockSize()]
"""Some hundred blocks, a few, one."""


@pytest.fixture(scope="module")
def offline(tiny_bundle: Path) -> Offline:
    """The bundle that all tests share, opened."""
    return Offline.open(tiny_bundle)


@pytest.fixture(scope="module")
def files(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Each kind of file, with bad lines and lines that are none."""
    directory = tmp_path_factory.mktemp("kinds")
    lines = sample.data.read_text(encoding="utf-8").splitlines(keepends=True)
    head, first, second, third = lines[0], lines[1:700], lines[700:1_000], lines[1_000:1_300]
    first[20] = "too,few\n"
    first[300] = "\n"
    first[500] = first[500].replace(",top,", ",,").replace(",side,", ",,")
    (directory / "a.csv").write_text("".join([head, *first]), encoding="utf-8")
    (directory / "b.csv.gz").write_bytes(gzip.compress("".join([head, *second]).encode()))
    rows = sample.rows[1_300:1_700]
    rows[3] = {**rows[3], "price": "dear"}
    (directory / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "d.csv").write_text("".join([head, *third]), encoding="utf-8")
    pl.read_csv(directory / "d.csv", infer_schema=False).write_parquet(directory / "e.parquet")
    (directory / "f.csv").write_text(head, encoding="utf-8")
    return sorted(directory.iterdir())


def warnings(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without lines of progress."""
    lines = capsys.readouterr().err.splitlines()
    return "\n".join(line for line in lines if " s left (" not in line)


def parts(directory: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(directory.glob("part-*"))])


@pytest.mark.parametrize("size", SIZES, ids=["many", "some", "one"])
def test_parts_have_the_bits_of_a_single_process(
    offline: Offline, tiny_bundle: Path, files: list[Path], size: BlockSize, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Every score, the order of the rows, kept columns; bad lines are counted and named alike."""
    rows = offline.predict(files, tmp_path / "one.parquet", 0.1, ["item_id"])
    told = warnings(capsys)
    assert "3 of 1998 lines are bad" in told
    out = tmp_path / "parts"
    found = predict_blocks(
        THIS_PROCESS, tiny_bundle, files, out, 0.1, ["item_id"], size=size
    )  # fmt: skip
    assert found == rows
    assert warnings(capsys) == told
    assert_frame_equal(parts(out), pl.read_parquet(tmp_path / "one.parquet"), check_exact=True)
    assert json.loads((out / DONE).read_text()) == {
        "rows": rows, "version": offline.bundle.version,
    }  # fmt: skip


def test_stored_values_are_joined_in_every_block(
    offline: Offline, tiny_bundle: Path, sample: Sample, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """And rows whose user is unknown are counted over all of them."""
    rows = list(enumerate(sample.rows[:400]))
    write = "".join
    (tmp_path / "items.jsonl").write_text(
        write(json.dumps({"n": n, **candidate_of(row)}) + "\n" for n, row in rows)
    )
    (tmp_path / "users.jsonl").write_text(
        write(json.dumps({"m": n, **context_of(row)}) + "\n" for n, row in rows[:300])
    )
    (tmp_path / "log.csv").write_text(
        write(["n,m,placement,time\n", *(f"{n},{n},top,1700000000\n" for n, _ in rows)])
    )
    stored = [
        StoredFiles("item", [tmp_path / "items.jsonl"], "n"),
        StoredFiles("profile", [tmp_path / "users.jsonl"], "m"),
    ]
    data = [tmp_path / "log.csv"]
    offline.predict(data, tmp_path / "one.parquet", 0.0, stored=stored)
    told = warnings(capsys)
    assert "100 of 400 rows have no profile" in told
    predict_blocks(
        THIS_PROCESS, tiny_bundle, data, tmp_path / "parts", 0.0, stored=stored,
        size=BlockSize(500, 500, 50),
    )  # fmt: skip
    assert warnings(capsys) == told
    assert_frame_equal(
        parts(tmp_path / "parts"), pl.read_parquet(tmp_path / "one.parquet"), check_exact=True
    )


class Dying:
    """Places that are gone after some blocks."""

    many = False

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.memory_mib = MEMORY_MIB
        self.ran: list[Any] = []

    def map(self, function: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
        for block in blocks:
            if hasattr(block, "number"):
                if len(self.ran) == self.blocks:
                    raise KeyboardInterrupt
                self.ran.append(block.number)
            yield function(block)


def test_a_run_goes_on_where_it_was(
    tiny_bundle: Path, sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts that are there stay, nothing says that the run has ended before it has."""
    out, size = tmp_path / "parts", BlockSize(20_000, 20_000, 100)
    first = Dying(3)
    with pytest.raises(KeyboardInterrupt):
        predict_blocks(first, tiny_bundle, [sample.data], out, 0.0, size=size)
    assert not (out / DONE).exists()
    written = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(written) == 3
    (out / ".partial-0123").write_bytes(b"half")
    second = Dying(1_000)
    capsys.readouterr()
    rows = predict_blocks(second, tiny_bundle, [sample.data], out, 0.0, size=size)
    assert rows == len(sample.rows)
    assert "3 of " in capsys.readouterr().err
    assert second.ran == [*range(3, 3 + len(second.ran))]
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    names = {path.name for path in out.iterdir()}
    assert names == {RUN, DONE, *(f"part-{n:06}.parquet" for n in range(3 + len(second.ran)))}
    third = Dying(0)
    assert predict_blocks(third, tiny_bundle, [sample.data], out, 0.0, size=size) == rows


def test_the_directory_of_another_run_is_refused(
    tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """Other content, other options, foreign files: nothing of it is touched."""
    data, out = tmp_path / "clicks.csv", tmp_path / "parts"
    lines = sample.data.read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines[:100]), encoding="utf-8")
    predict_blocks(THIS_PROCESS, tiny_bundle, [data], out, 0.0)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(ResultError, match="has the scores of other files, or of another bundle"):
        predict_blocks(THIS_PROCESS, tiny_bundle, [data], out, 0.0, ["item_id"])
    data.write_text("".join(lines[:101]), encoding="utf-8")
    with pytest.raises(ResultError, match="has the scores of other files, or of another bundle"):
        predict_blocks(THIS_PROCESS, tiny_bundle, [data], out, 0.0)
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(ResultError, match=r"has files that are no scores, such as clicks\.csv"):
        predict_blocks(THIS_PROCESS, tiny_bundle, [data], tmp_path, 0.0)


def test_what_stops_a_single_process_stops_a_run(
    offline: Offline, tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """The same message, whichever block finds it: one of a small file's, or after some others."""
    lines = sample.data.read_text(encoding="utf-8").splitlines(keepends=True)
    names = {
        "many-bad.csv": [*lines[:50], *["too,few\n"] * 30],
        "none-usable.csv": [lines[0], *["too,few\n"] * 200],
        "empty.csv": lines[:1],
        "other.csv": ["a,b\n", "1,2\n"],
    }
    for name, content in names.items():
        data = tmp_path / name
        data.write_text("".join(content), encoding="utf-8")
        for given in ([data], [sample.data, data]):
            try:
                offline.predict(given, tmp_path / "one.parquet", 0.0)
            except DataError as error:
                expected = str(error)
            else:
                assert given[1:], name
                continue
            out, size = tmp_path / f"{name}-{len(given)}", SIZES[len(given) - 1]
            with pytest.raises(DataError) as caught:
                predict_blocks(THIS_PROCESS, tiny_bundle, given, out, 0.0, size=size)
            assert str(caught.value) == expected
            assert not (out / DONE).exists()


def test_a_row_has_the_same_bits_in_any_company(offline: Offline, sample: Sample) -> None:
    """Beside which rows, at which place and by how many threads it is scored."""
    spec = offline.bundle.spec
    [frame] = Reader(spec, [sample.data], label=False).frames()
    data = encode(spec, offline.encoder, frame, label=False)
    whole = score_dataset(offline.engine, data, whole_runs=True)
    order = np.random.default_rng(1).permutation(len(data))
    for threads in (1, 2, 3):
        engine = Offline.open(offline.bundle.path, threads).engine
        for rows in (order, order[:1], order[:100], order[5:2_000]):
            found = score_dataset(engine, data.take(rows), whole_runs=True)
            np.testing.assert_array_equal(found.logit, whole.logit[rows])
            np.testing.assert_array_equal(found.score, whole.score[rows])
