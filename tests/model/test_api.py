"""Data frames in, bundles, scores and explanations out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from app.errors import CtrError
from model.api import Bundle, FrameError, train
from model.score_files import Offline
from tests.support.samples import CANDIDATE, CONTEXT, FIELDS, Sample, candidate_of

pytestmark = pytest.mark.slow


class ByColumns:
    """A frame that gives lists by column, as pandas' does: NaN where nothing is."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def to_dict(self, orient: str) -> dict[str, list[Any]]:
        assert orient == "list"
        columns = self._frame.to_dict(as_series=False)
        return {
            name: [math.nan if value is None else value for value in values]
            for name, values in columns.items()
        }


class WithoutPyarrow(ByColumns):
    """A frame that could give Arrow data if another package were there."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise ImportError("pyarrow is required")


class Arrow:
    """A frame of which nothing is known but that it gives Arrow data."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


@pytest.fixture(scope="module")
def frame(sample: Sample) -> pl.DataFrame:
    """The rows of the sample, as JSON has them."""
    return whole(sample.rows, FIELDS)


def whole(rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> pl.DataFrame:
    """A frame with a column for each field."""
    given = [{name: row.get(name) for name in fields} for row in rows]
    return pl.DataFrame(given, infer_schema_length=None)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def test_frames_score_as_files_do(
    bundle: Bundle, frame: pl.DataFrame, tmp_path: Path, tiny_bundle: Path
) -> None:
    """Every kind of frame gives the scores of ``predict`` over the same rows."""
    rows, out = tmp_path / "rows.parquet", tmp_path / "scores.parquet"
    frame[:200].write_parquet(rows)
    Offline.open(tiny_bundle).predict([rows], out, 0.0)
    expected = pl.read_parquet(out)
    assert frame[:200]["country"].null_count(), "texts with gaps"
    for kind in (pl.DataFrame, Arrow, ByColumns, WithoutPyarrow):
        given = kind(frame[:200])
        found = bundle.score(given)
        assert found["logit"].to_list() == pytest.approx(expected["logit"].to_list(), abs=1e-6)
        assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-6)
    assert bundle.score(frame[:0]).height == 0


def test_a_ranking_is_by_logit(bundle: Bundle, sample: Sample) -> None:
    """Candidates share the context, and keep their columns."""
    listed = whole([candidate_of(row) for row in sample.rows[:30]], CANDIDATE)
    context = {name: sample.rows[0].get(name) for name in CONTEXT}
    found = bundle.rank(context, listed)
    assert set(found.columns) == {*CANDIDATE, "logit", "score"}
    assert found["logit"].is_sorted(descending=True)
    assert found.height == 30


def test_a_row_is_explained(bundle: Bundle, sample: Sample) -> None:
    """The logit is that of the score, and what the fields add makes it up."""
    row = sample.rows[7]
    found = bundle.explain(row)
    expected = bundle.score(whole([row], FIELDS))["logit"][0]
    assert found.logit == pytest.approx(expected, abs=1e-5)
    assert found.baseline_logit + sum(found.shapley.values()) == pytest.approx(expected, abs=1e-4)


def test_a_frame_trains_as_a_file(sample: Sample, tmp_path: Path) -> None:
    """The bundle has the figures of its parts, and is found again in its directory."""
    frame = pl.read_csv(sample.data, infer_schema=False)
    small = {"hidden": (8,), "embedding_size": 4, "epochs": 1, "threads": 1}
    made = train(sample.spec, frame, out=tmp_path, network="lr", **small)
    assert made.opened.manifest.network == "lr"
    assert made.metrics["test"]["rows"] > 0
    assert Bundle.open(tmp_path).version == made.version


def test_wrong_input_is_named(bundle: Bundle, sample: Sample, tmp_path: Path) -> None:
    """Errors are those of the commands."""
    with pytest.raises(FrameError, match="got list"):
        bundle.score([1])  # type: ignore[arg-type]
    with pytest.raises(CtrError, match="price"):
        bundle.explain({"price": "x"})
    with pytest.raises(CtrError, match="column 'country' is absent"):
        train(sample.spec, pl.DataFrame({"user_id": [1]}), out=tmp_path)
    assert not list(tmp_path.iterdir())
