"""Frequent values of text fields that look like nulls are named; nothing is changed."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from app.features.encoder import Encoder
from app.features.spec import Categorical, FeatureSpec, MultiCategorical
from model.data.encode import encode
from model.data.null_texts import null_hint, null_warnings
from tests.support.frames import learned

SPEC = FeatureSpec(
    label="click",
    fields=(
        Categorical(name="country", side="context", min_count=1),
        Categorical(name="item", side="candidate", dtype="integer", min_count=1),
        MultiCategorical(name="tags", side="candidate", min_count=1),
    ),
)


def warnings(spec: FeatureSpec = SPEC, **columns: Any) -> list[str]:
    """The warnings about a training part with these columns, of a hundred rows."""
    plain: dict[str, Any] = {"country": ["DE"] * 100, "item": [1] * 100, "tags": [["a"]] * 100}
    frame = pl.DataFrame({**plain, **columns, "click": [1] * 100})
    vocabulary = learned(spec, frame)
    return list(null_warnings(spec, vocabulary, encode(spec, Encoder(spec, vocabulary), frame)))


@pytest.mark.parametrize("text", ["\\N", "NULL", "NA", "nan", "None", "."])
def test_a_frequent_null_text_is_named_with_its_share(text: str) -> None:
    """One warning a field, with what to do; the value is trained as it is."""
    assert warnings(country=["DE"] * 88 + [text] * 12) == [
        f"field 'country': frequent values look like nulls: {text!r} (12.0%) of the training rows;"
        " if they mean that the value is missing, name them in `null_values`"
    ]


def test_lists_count_by_rows() -> None:
    """A row counts once, however often its list has the text."""
    [line] = warnings(tags=[["a", "NA", "NA"]] * 5 + [["b"]] * 94 + [["NULL"]])
    assert "'tags'" in line
    assert "'NULL' (1.0%), 'NA' (5.0%)" in line


def test_rare_texts_and_other_texts_are_not_named() -> None:
    """A Namibian now and then is no null, and neither is text that only begins like one."""
    assert warnings(country=["DE"] * 50 + ["NAM"] * 50) == []
    assert warnings() == []
    thousand = {"country": ["DE"] * 1000, "item": [1] * 1000, "tags": [["a"]] * 1000}
    frame = pl.DataFrame({**thousand, "click": [1] * 1000})
    frame = frame.with_columns(country=pl.Series(["NA"] * 9 + ["DE"] * 991))
    vocabulary = learned(SPEC, frame)
    data = encode(SPEC, Encoder(SPEC, vocabulary), frame)
    assert list(null_warnings(SPEC, vocabulary, data)) == []


def test_named_null_values_are_not_doubted() -> None:
    """Texts that the spec names are missing values, and no longer values of their own."""
    spec = FeatureSpec(label="click", fields=SPEC.fields, null_values=("NA",))
    assert warnings(spec, country=["NA"] * 50 + ["DE"] * 50) == []


def test_a_value_that_breaks_a_rule_may_be_a_null() -> None:
    """Bad lines of integer and numeric fields say so; other text is left alone."""
    assert null_hint("NA") == (
        "; if 'NA' means that the value is missing, name it in `null_values`"
    )
    assert "'\\\\N'" in null_hint(["1", "\\N"])
    for value in ("cheap", "", None, 1, [], ["a"]):
        assert null_hint(value) == ""
