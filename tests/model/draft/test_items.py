"""A log that has items' ids alone, joined with a file of the items, becomes a spec."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.features.spec import FeatureSpec
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.data.stored_files import StoredFiles
from model.draft.draft import Draft, draft
from model.draft.items import with_items
from model.draft.look import look_at
from tests.support.starting import run

ROWS, ITEMS = 600, 40
NUMBERS = np.random.default_rng(3)
LOG = pl.DataFrame(
    {
        "click": NUMBERS.integers(0, 2, ROWS),
        "user": NUMBERS.integers(0, 50, ROWS),
        "time": [f"2026-03-{1 + row // 30:02d}T{row % 24:02d}:00:00Z" for row in range(ROWS)],
        "film": NUMBERS.integers(0, ITEMS, ROWS),
        "place": NUMBERS.integers(1, 8, ROWS),
    }
)
FILMS = pl.DataFrame(
    {
        "film": range(ITEMS),
        "genre": [("drama", "comedy", "crime")[number % 3] for number in range(ITEMS)],
        "length": [80 + number * 1.5 for number in range(ITEMS)],
        "released": [f"19{70 + number % 30}-05-01T00:00:00Z" for number in range(ITEMS)],
    }
)


def write_exported(path: Path) -> None:
    """The items as ``items export`` writes them."""
    lines = [
        {"id": row["film"], "features": {k: v for k, v in row.items() if k != "film"}}
        for row in FILMS.to_dicts()
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


WRITERS: dict[str, Callable[[Path], None]] = {
    "films.csv": lambda path: FILMS.write_csv(path),
    "films.csv.gz": lambda path: path.write_bytes(gzip.compress(FILMS.write_csv().encode())),
    "films.tsv": lambda path: FILMS.write_csv(path, separator="\t"),
    "films.parquet": lambda path: FILMS.write_parquet(path),
    "films.jsonl": lambda path: FILMS.write_ndjson(path),
    "exported.jsonl": write_exported,
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    LOG.write_csv(tmp_path / "log.csv")
    return tmp_path / "log.csv"


def joined(log: Path, *items: Path, context: tuple[str, ...] = ()) -> Draft:
    look = with_items(look_at([log], "click", progress=False), items, "film", progress=False)
    return draft(look, context)


@pytest.mark.parametrize("name", WRITERS)
def test_items_of_every_kind_become_candidate_fields(name: str, log: Path, tmp_path: Path) -> None:
    """The spec is whole and reads the log joined with the items, without a line left out."""
    WRITERS[name](tmp_path / name)
    found = joined(log, tmp_path / name)
    spec = FeatureSpec.parse(found.text())
    assert spec == found.spec
    sides = {field.name: field.side for field in spec.fields}
    assert {each for each in sides if sides[each] == "candidate"} >= {
        "film", "genre", "length", "released",
    }  # fmt: skip
    assert sides["user"] == sides["time"] == "context"
    assert spec.timestamp == "time", "a time of an item is not the log's"
    assert found.look.whole
    assert found.guesses["genre"].sure
    assert found.guesses["film"].sure
    text = found.text()
    assert f"Values of items are from {name}, by film" in text
    path = tmp_path / "spec.toml"
    path.write_text(text)
    stored = [StoredFiles("item", [tmp_path / name], "film")]
    prepared = prepare(path, InputFiles([log], None, "auto", 1, 0.0, stored=stored))
    assert prepared.train_rows > ROWS // 2


def test_a_value_of_the_log_wins_and_a_row_without_an_item_is_left_out(
    log: Path, tmp_path: Path
) -> None:
    """As in training; both are told."""
    films = FILMS.with_columns(pl.lit("x").alias("place"), pl.lit(1).alias("click")).head(30)
    films.write_csv(tmp_path / "films.csv")
    found = joined(log, tmp_path / "films.csv")
    known = LOG.filter(pl.col("film") < 30)
    assert found.look.frame.height == known.height
    assert found.look.whole
    assert found.look.frame["place"].to_list() == list(map(str, known["place"]))
    assert found.click_rate == pytest.approx(known["click"].to_numpy().mean())
    [told] = [line for line in found.warnings() if "--items" in line]
    assert told.startswith(f"{ROWS - known.height} rows were left out: their film is in no file")


def test_the_last_of_several_entries_counts(log: Path, tmp_path: Path) -> None:
    """7, "7" and 7.0 are one id."""
    FILMS.write_csv(tmp_path / "a.csv")
    film, genre = pl.format("{}.0", pl.col("film")).alias("film"), pl.lit("noir").alias("genre")
    FILMS.with_columns(film, genre).write_csv(tmp_path / "b.csv")
    found = joined(log, tmp_path / "a.csv", tmp_path / "b.csv")
    assert set(found.look.frame["genre"]) == {"noir"}
    assert "genre" in found.unusable, "it is constant"


@pytest.mark.parametrize(
    ("items", "key", "problem"),
    [
        ("film,genre\n1,a\n", "flim", r"--id: there is no column 'flim' in the data.*'film'"),
        ("movie,genre\n1,a\n", "film", r"--id: there is no column 'film' in --items"),
        ("film,genre\n1,a\n", "click", "--id: 'click' is the label"),
        ("film,genre\n999,a\n", "film", "no row of the data has the 'film' of an item"),
        ("film;genre\n1;a\n", "film", "the delimiters of the data and of --items differ"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    items: str, key: str, problem: str, log: Path, tmp_path: Path
) -> None:
    """The error names the option and what is wrong."""
    (tmp_path / "films.csv").write_text(items)
    look = look_at([log], "click", progress=False)
    with pytest.raises(DataError, match=problem):
        with_items(look, [tmp_path / "films.csv"], key, progress=False)


def test_a_column_of_items_is_not_of_the_context(log: Path, tmp_path: Path) -> None:
    """Nor is their id."""
    FILMS.write_csv(tmp_path / "films.csv")
    for name in ("genre", "film"):
        with pytest.raises(DataError, match=f"'{name}' is named by --context, and is a column of"):
            joined(log, tmp_path / "films.csv", context=(name,))


@pytest.mark.parametrize("context", [(), ("place",), ("user",)])
def test_what_the_id_tells_stays_with_another_key(
    context: tuple[str, ...], log: Path, tmp_path: Path
) -> None:
    """A column that varies within an item's rows stays sure when a key is named."""
    FILMS.write_csv(tmp_path / "films.csv")
    LOG.with_columns(pl.Series("x", NUMBERS.integers(0, 9, ROWS))).write_csv(log)
    found = joined(log, tmp_path / "films.csv", context=context)
    assert found.guesses["x"].side == "context"
    assert found.guesses["x"].reason == "it varies within the rows of film"
    assert found.guesses["x"].sure
    assert found.guesses["genre"].side == "candidate"
    assert not any("guess" in line for line in found.warnings())


@pytest.mark.slow
def test_the_command_joins(log: Path, tmp_path: Path) -> None:
    """``--items`` and ``--id`` go together, and a file of items is never the result."""
    films, out = tmp_path / "films.csv", tmp_path / "spec.toml"
    FILMS.write_csv(films)
    words = ["spec", str(log), "--label", "click", "--out", str(out), "--items", str(films)]
    done = run("model", *words)
    assert done.returncode == 2
    assert "--items and --id go together" in " ".join(done.stderr.split())
    done = run("model", *words[:5], str(films), *words[6:], "--id", "film", "--replace")
    assert done.returncode == 1
    assert films.read_text() == FILMS.write_csv()
    done = run("model", *words, "--id", "film", "--context", "user")
    assert done.returncode == 0, done.stderr
    assert "genre" in {field.name for field in FeatureSpec.load(out).fields}
