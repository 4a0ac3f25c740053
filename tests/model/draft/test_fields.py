"""A column becomes the field that its values say, or is left out with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features.spec import Categorical, MultiCategorical, Numeric, Time
from model.draft.column import Column
from model.draft.fields import Found, find

ROWS = 1_000
NUMBERS = np.random.default_rng(7)
LABEL = NUMBERS.integers(0, 2, ROWS).astype(np.uint8)


def found(values: list[Any], name: str = "x", dtype: Any = pl.String) -> Found:
    """What a column is found to be, its values repeated to a thousand rows."""
    repeated = [values[row % len(values)] for row in range(ROWS)]
    return find(Column(pl.Series(name, repeated, dtype)), LABEL)


@pytest.mark.parametrize(
    ("name", "values", "dtype", "min_count"),
    [
        ("user_id", [str(n) for n in range(40)], "integer", 1),
        ("user_id", [str(2**63 + n) for n in range(40)], "integer", 1),
        ("zip", ["00501", "10019"], "string", 1),
        ("gender", ["M", "F", ""], "string", 1),
        ("device", [f"d{n}" for n in range(300)], "string", 2),
        ("premium", ["true", "False"], "boolean", 1),
        ("hour", [f"{n:02d}" for n in range(24)], "string", 1),
        ("country", ["DE", "NA", "FR"], "string", 1),
        ("year", ["1994", "1995.0"], "integer", 1),
    ],
)
def test_names(name: str, values: list[str], dtype: str, min_count: int) -> None:
    """Values without an order are categorical, of the type that reads all of them."""
    field = found(values, name).field
    assert isinstance(field, Categorical)
    assert (field.dtype, field.min_count, field.null_values) == (dtype, min_count, None)


@pytest.mark.parametrize(
    ("name", "values", "nulls"),
    [
        ("price", [f"{n / 7:.2f}" for n in range(500)], None),
        ("price", [str(n * 10) for n in range(40)], None),
        ("I1", [str(int(n)) for n in NUMBERS.lognormal(1, 2, ROWS)], None),
        ("share", ["0.5", "1e-05", ".25", "7."], None),
        ("share", ["0.5", "NaN", "0.75", "NULL"], ("NULL", "NaN")),
    ],
)
def test_numbers(name: str, values: list[str], nulls: tuple[str, ...] | None) -> None:
    """Fractions, amounts by name, and counts that crowd at zero are numeric."""
    field = found(values, name).field
    assert isinstance(field, Numeric)
    assert (field.encoding, field.null_values) == ("quantile", nulls)


def test_null_texts_among_numbers_count_as_missing() -> None:
    """Their rows are told with the empty ones."""
    told = found(["0.5", "NA", "", "1.5"], "share")
    assert told.missing == 0.5


@pytest.mark.parametrize(
    ("name", "values", "text_format", "parts"),
    [
        ("t", ["2026-03-01T08:15:00Z", "2026-03-02 09:15:00+02:00"], None, ("hour", "weekday")),
        ("day", ["2026-03-01", "2026-03-02"], None, ("weekday",)),
        ("hour", ["14102100", "14102123"], "%y%m%d%H", ("hour",)),
        ("date", ["20141021", "20141022"], "%Y%m%d", ("weekday",)),
        ("time", ["881250949", "891717742"], None, ("hour", "weekday")),
        ("x", [f"201410{d:02d}" for d in range(1, 31)], "%Y%m%d", ("weekday",)),
        ("x", ["21/Oct/2014:13:55:36 +0200", "22/Oct/2014:11:55:36 +0200"],
         "%d/%b/%Y:%H:%M:%S %z", ("hour", "weekday")),
        ("x", ["31.12.2014 13:00", "01.01.2015 14:00"], "%d.%m.%Y %H:%M", ("hour", "weekday")),
        ("x", ["31/12/2014", "01/01/2015"], "%d/%m/%Y", ("weekday",)),
    ],
)  # fmt: skip
def test_times(
    name: str, values: list[str], text_format: str | None, parts: tuple[str, ...]
) -> None:
    """Moments are known by what they look like, digits by their name or their number."""
    field = found(values, name).field
    assert isinstance(field, Time)
    assert (field.format, field.parts) == (text_format, parts)


def test_small_integers_are_no_times() -> None:
    """Digits in the range of seconds need a name that says so."""
    assert isinstance(found(["881250949", "891717742"], "user").field, Categorical)
    assert isinstance(found(["14", "3"], "hour").field, Categorical)


@pytest.mark.parametrize(
    ("values", "separator", "dtype"),
    [
        (["Action|Comedy", "Drama", "Comedy", "Drama|Action"], "|", "string"),
        (["1;2", "3", "2;3;1", "1"], ";", "integer"),
        ([f"t{a} t{b} t{c}" for a in range(5) for b in range(5) for c in range(5)], " ", "string"),
    ],
)
def test_lists(values: list[str], separator: str, dtype: str) -> None:
    """Text that is made of few values again and again is a list of them."""
    field = found(values, "tags").field
    assert isinstance(field, MultiCategorical)
    assert (field.separator, field.dtype) == (separator, dtype)


def test_sentences_are_no_lists() -> None:
    """Titles have a space, but hardly a word comes twice."""
    titles = [f"The {n} of {n + 1}" for n in range(20)]
    assert isinstance(found(titles, "title").field, Categorical)


def test_long_lists_are_kept_whole() -> None:
    """As many values count as the longest list of the sample has."""
    field = found(["|".join(str(n) for n in range(40)), "1"], "tags").field
    assert isinstance(field, MultiCategorical)
    assert field.max_values == 40


@pytest.mark.parametrize(
    ("name", "series", "why"),
    [
        ("x", pl.Series(["a"] * ROWS), "constant"),
        ("x", pl.Series([None] * ROWS, dtype=pl.String), "it has no value"),
        ("session", pl.Series([f"s{n}" for n in range(ROWS)]), "unique in each row"),
        ("row", pl.Series([str(n) for n in range(ROWS)]), "unique in each row"),
        ("rating", pl.Series(LABEL.astype(str)), "it tells the label: AUC alone 1.000"),
        ("dwell", pl.Series([str(n) if n else "" for n in LABEL * NUMBERS.random(ROWS)]),
         "it tells the label: AUC alone"),
        ("at", pl.Series([str(881_250_949_000 + n) for n in range(ROWS)]), "milliseconds"),
        ("x", pl.Series([b'{"a": 1}', b"2"] * (ROWS // 2)), "several types"),
    ],
)  # fmt: skip
def test_what_is_left_out_says_why(name: str, series: pl.Series, why: str) -> None:
    """Columns without use, and those that tell the label, are no fields."""
    told = find(Column(series.alias(name)), LABEL)
    assert told.field is None
    assert why in told.note


def test_names_of_ids_are_not_left_out_for_being_long_lived() -> None:
    """A column of a key that is in every row once is left out; one with repeats is kept."""
    assert found([f"s{n}" for n in range(600)], "session").field is not None


@pytest.mark.parametrize(
    ("values", "dtype", "kind", "field_dtype"),
    [
        ([1, 2, 3], pl.Int32, Categorical, "integer"),
        ([True, False], pl.Boolean, Categorical, "boolean"),
        ([0.5, 1.5, 2.25], pl.Float32, Numeric, None),
        ([["a", "b"], ["c"]], pl.List(pl.String), MultiCategorical, "string"),
        ([[1, 2], [3]], pl.List(pl.Int64), MultiCategorical, "integer"),
    ],
)
def test_typed_columns(values: list[Any], dtype: Any, kind: type, field_dtype: str | None) -> None:
    """A Parquet column is what its type says."""
    field = found(values, "x", dtype).field
    assert isinstance(field, kind)
    assert getattr(field, "dtype", None) == field_dtype


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([b"1", b"2"], Categorical),
        ([b'"1"', b"2"], Categorical),
        ([b"0.5", b"null"], Numeric),
        ([b'"0.5"', b'"1.5"'], Categorical),
        ([b'["a","b"]', b"[]"], MultiCategorical),
        ([b"true", b"false"], Categorical),
    ],
)
def test_values_of_json(values: list[bytes], kind: type) -> None:
    """Numbers in quotes are text there, which a numeric field would refuse."""
    assert isinstance(found(values, "x", pl.Binary).field, kind)


def test_auc_alone_is_honest() -> None:
    """Noise tells nothing, however many values it has; a rate by value is found."""
    noise = found([f"v{n}" for n in range(500)])
    assert noise.auc is not None
    assert abs(noise.auc - 0.5) < 0.07
    rate = np.where(NUMBERS.random(ROWS) < 0.8, LABEL, 1 - LABEL)
    told = find(Column(pl.Series("x", rate.astype(str))), LABEL)
    assert told.auc is not None
    assert 0.75 < told.auc < 0.85
    assert told.field is not None
