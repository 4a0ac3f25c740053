"""Vocabularies learned from training rows: known values by their counts, and bucket edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from app.features.vocabulary import Edges, Scale, Vocabulary
from model.data.value_counts import COUNT, KEY, count_values, fractions_of
from model.data.vocabulary_learning import mean_std, quantile_edges
from tests.support.frames import learned_of

OTHER = Categorical(name="other", side="candidate")


def counted(values: Sequence[float | None]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The distinct numbers and their counts."""
    spec = FeatureSpec(label="click", fields=(Numeric(name="n", side="context"), OTHER))
    columns = pl.DataFrame({"n": pl.Series(values, dtype=pl.Float64)})
    columns = columns.with_columns(pl.lit(None, pl.String).alias("other"))
    lines = count_values(spec, lambda name: columns[name])["numbers"]
    return fractions_of(lines.group_by(KEY).agg(pl.col(COUNT).sum()))


def learned(field: Field, values: Sequence[Any]) -> Vocabulary:
    """Learn the vocabulary of a field of the context side from one column."""
    frame = pl.DataFrame({field.name: values}, strict=False)
    spec = FeatureSpec(label="click", fields=(field, OTHER))
    frame = frame.with_columns(pl.lit(None, pl.String).alias("other"))
    whole = learned_of(spec, [frame])
    # However the rows are cut into pieces, they teach the same.
    pieces = learned_of(spec, [frame[i : i + 2] for i in range(0, len(values), 2)])
    assert list(map(repr, whole.slots.values())) == list(map(repr, pieces.slots.values()))
    assert whole.layout == pieces.layout
    return whole


def keys(field: Field, values: Sequence[Any], slot: str | None = None) -> dict[Any, int]:
    """The known keys of a slot and their rows."""
    found = learned(field, values).slots[slot or field.name]
    assert not isinstance(found, Edges | Scale)
    return found.lookup()


def categorical(**options: Any) -> Categorical:
    return Categorical(name="user", side="context", **options)


def test_min_count_is_the_least_count_that_is_known() -> None:
    """Values as frequent as ``min_count`` are known, rarer ones are not."""
    assert set(keys(categorical(min_count=3), list("aaabbcccc"))) == {"a", "c"}
    assert set(keys(categorical(min_count=1), list("aab"))) == {"a", "b"}


def test_forms_of_one_value_count_together() -> None:
    """The count is of the canonical value, however each row wrote it."""
    assert keys(categorical(dtype="integer", min_count=3), ["7", "7.0", "7.00", "8", "8"]) == {7: 3}


def test_missing_values_are_not_counted() -> None:
    """Neither null nor, by default, the empty text becomes a value."""
    column = [None, None, "", "", "a", "a"]
    assert set(keys(categorical(), column)) == {"a"}
    assert set(keys(categorical(empty_is_missing=False), column)) == {"", "a"}


def test_rows_follow_the_keys_order() -> None:
    """Known values have consecutive rows after missing and OOV, sorted by bytes or number."""
    assert list(keys(categorical(min_count=1), ["é", "b", "Z", "a"]).items()) == [
        ("Z", 3), ("a", 4), ("b", 5), ("é", 6),
    ]  # fmt: skip
    integers = keys(categorical(dtype="integer", min_count=1), ["10", "9", "-1"])
    assert list(integers.items()) == [(-1, 3), (9, 4), (10, 5)]


@pytest.mark.slow
@given(st.permutations(list("aaabbcdde")))
@settings(max_examples=20)
def test_order_of_rows_does_not_matter(rows: list[str]) -> None:
    """The same rows in any order teach the same."""
    assert keys(categorical(), rows) == {"a": 3, "b": 4, "d": 5}


def test_list_values_count_up_to_the_cut() -> None:
    """Each kept value of a list counts, a double one twice; what is cut off does not."""
    field = MultiCategorical(name="tags", side="context", max_values=2)
    column = ["a|a|z", "b|", "|b||y|z", "", None, "z"]
    assert set(keys(field, column)) == {"a", "b"}


def test_time_parts_are_known_if_seen_once() -> None:
    """A part needs one row; each part is a slot of its own, in local time."""
    field = Time(name="t", side="context", parts=("hour", "weekday"), timezone="Asia/Tokyo")
    column = [0, 3_600, 3_601, None]
    assert set(keys(field, column, "t.hour")) == {9, 10}
    assert set(keys(field, column, "t.weekday")) == {3}


def test_log_squared_keys_are_counted() -> None:
    """Numbers of one bucket count together: integer parts up to 2, floor(ln²) above."""
    field = Numeric(name="n", side="context", encoding="log_squared", min_count=2)
    column = [-1.0, -1.9, 1.0, 1.5, 2.0, 10.0, 10.1, 1e6, None]
    assert set(keys(field, column)) == {-1, 1, 5}


def test_given_edges_are_kept() -> None:
    """``edges`` are the spec's own, as float32, whatever the data."""
    field = Numeric(name="n", side="context", encoding="edges", edges=(0.1, 5.0))
    vocabulary = learned(field, [1.0])
    found = vocabulary.slots["n"]
    assert isinstance(found, Edges)
    assert found.edges.tolist() == [float(np.float32(0.1)), 5.0]
    assert vocabulary.layout.context[0].size == 2 + 3


def test_mean_and_deviation_are_of_the_rows() -> None:
    """Each row counts, missing ones apart; a scaled field has one row beside the reserved two."""
    field = Numeric(name="n", side="context", encoding="scaled")
    vocabulary = learned(field, [1.0, 1.0, 1.0, 5.0, None])
    found = vocabulary.slots["n"]
    assert isinstance(found, Scale)
    assert found.mean == 2.0
    assert found.std == float(np.float32(np.sqrt(3.0)))
    slot = vocabulary.layout.context[0]
    assert (slot.size, slot.scaled) == (3, True)
    assert (
        mean_std(np.array([1, 5], np.float32), np.array([3.0, 1.0])).tolist()
        == found.mean_std.tolist()
    )


@pytest.mark.parametrize("values", [[], [None, None]])
def test_nothing_to_scale_by(values: list[float | None]) -> None:
    """Without numbers the mean is 0 and the deviation 1; of one number the deviation is 1."""
    assert mean_std(*counted(values)).tolist() == [0.0, 1.0]
    assert mean_std(*counted([*values, 7.5])).tolist() == [7.5, 1.0]


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.randoms()
)
def test_mean_and_deviation_do_not_depend_on_the_order(values: list[float], random: Any) -> None:
    """However large the numbers, both are finite, and the rows' order is of no matter."""
    found = mean_std(*counted(values))
    assert np.isfinite(found).all()
    assert found[1] > 0
    random.shuffle(values)
    assert mean_std(*counted(values)).tolist() == found.tolist()


def test_a_column_without_values_has_reserved_rows_only() -> None:
    """Missing everywhere is not an error."""
    assert keys(categorical(), [None, None]) == {}
    numbers = learned(Numeric(name="n", side="context"), [None, None])
    assert numbers.layout.context[0].size == 2 + 1
    log_squared = Numeric(name="n", side="context", encoding="log_squared")
    assert keys(log_squared, [None, None]) == {}


def edges_of(values: Sequence[float | None], buckets: int) -> list[float]:
    return quantile_edges(*counted(values), buckets).tolist()


def test_quantiles_cut_into_equal_shares() -> None:
    """Edges are midpoints between neighbours, with equal numbers of rows between them."""
    assert edges_of([1.0, 2.0, 3.0, 4.0], 2) == [2.5]
    assert edges_of(list(map(float, range(100))), 4) == [24.5, 49.5, 74.5]


def test_quantiles_are_weighted() -> None:
    """A value counts once for each of its rows."""
    known = np.array([1, 2, 3], np.float32)
    assert quantile_edges(known, np.array([1.0, 1.0, 8.0]), 2).tolist() == []
    assert quantile_edges(known, np.array([8.0, 1.0, 1.0]), 2).tolist() == [1.5]


@pytest.mark.parametrize("values", [[], [None], [5.0] * 9, [5.0, None, 5.0]])
def test_nothing_to_cut(values: list[float | None]) -> None:
    """One distinct value, or none, has one bucket."""
    assert edges_of(values, 8) == []


def test_heavy_ties_have_one_edge() -> None:
    """A value that fills many quantiles is cut from its neighbours once."""
    assert edges_of([0.0] * 90 + [1.0] * 5 + [2.0] * 5, 20) == [0.5, 1.5]


def test_neighbouring_floats_are_told_apart() -> None:
    """Between adjacent float32 numbers the edge is the upper one."""
    one = float(np.float32(1))
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    assert edges_of([one, above], 2) == [above]
    assert edges_of([one, one + 1e-12], 2) == [], "both are one float32"


VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-5, 5).map(float)


@given(st.lists(VALUES, max_size=30), st.integers(2, 12))
def test_edges_rise_and_cut_between_values(values: list[float], buckets: int) -> None:
    """Whatever the values: at most buckets - 1 float32 edges, rising, none outside the values."""
    edges = edges_of(values, buckets)
    assert len(edges) < buckets
    assert edges == sorted(set(edges))
    assert all(math.isfinite(edge) and edge == float(np.float32(edge)) for edge in edges)
    used = np.searchsorted(np.array(edges), np.array(values), side="right")
    assert not values or set(used.tolist()) == set(range(len(edges) + 1)), "no bucket is empty"


def test_only_the_given_rows_teach() -> None:
    """Values of other rows have no part in the vocabulary: they are OOV, or have no edge."""
    fields = (
        categorical(min_count=1),
        Numeric(name="n", side="candidate", buckets=2),
    )
    spec = FeatureSpec(label="click", fields=fields)
    frame = pl.DataFrame({"user": ["a", "b", "c"], "n": [1.0, 2.0, 1000.0]})
    vocabulary = learned_of(spec, [frame[:2]])
    users, numbers = vocabulary.slots["user"], vocabulary.slots["n"]
    assert not isinstance(users, Edges)
    assert isinstance(numbers, Edges)
    assert users.lookup() == {"a": 3, "b": 4}
    assert numbers.edges.tolist() == [1.5]
