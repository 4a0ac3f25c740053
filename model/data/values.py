"""Columns of frames → the values that JSON would hold for them, each distinct one once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.features.arrangement import arrange
from app.features.canonical import NUMBER_TEXT
from app.features.column_encoding import ColumnProblem, FieldEncoder
from app.features.null_values import null_values_of
from app.features.spec import FeatureSpec, Field, MultiCategorical, Numeric, is_scaled
from app.features.vocabulary import Edges, Integers, Scale, SlotVocabulary, Vocabulary
from model.data.json_lines import is_json, values_of
from model.data.moments import as_json


def problems_of(encoder: FieldEncoder, values: Sequence[Any]) -> dict[int, str]:
    """Return the problem of each value that breaks a rule, by its place."""
    try:
        encoder.many(values)
    except ColumnProblem as column:
        return {code: problem.problem for code, problem in column.problems}
    return {}


def distinct(column: pl.Series) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values of a column and, for every row, the place of its value."""
    values = column.unique(maintain_order=True).to_frame("v").with_row_index("code")
    codes = column.to_frame("v").join(
        values, on="v", how="left", nulls_equal=True, maintain_order="left"
    )["code"]
    found = values["v"].to_list()
    return values_of(found) if is_json(column) else found, codes.to_numpy().astype(np.int64)


def field_values(spec_field: Field, column: pl.Series) -> tuple[list[Any], NDArray[np.int64]]:
    """Like :func:`distinct`, the values turned into what JSON would hold for them."""
    textual = column.dtype == pl.String
    values, codes = distinct(as_json(spec_field, column))
    nulls = null_values_of(spec_field)
    if textual and isinstance(spec_field, MultiCategorical | Numeric):
        # Before a list's text is split: a null value may hold the separator.
        values = [None if value in nulls else _cell(spec_field, value) for value in values]
    if nulls:
        values = [None if value in nulls else value for value in values]
    return values, codes


def _cell(spec_field: Field, text: str | None) -> Any:
    """Return the JSON value that means the same as a cell of a text file.

    Text of a numeric field that is not a number stays text, which the encoder refuses.
    """
    if text is None:
        return None
    if isinstance(spec_field, MultiCategorical):
        return [token for token in text.split(spec_field.separator) if token] if text else None
    if isinstance(spec_field, Numeric):
        if not text:
            return None
        return float(text) if NUMBER_TEXT.fullmatch(text) else text
    return text


def json_rows(spec: FeatureSpec, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return each row as the JSON object that a caller would send; missing values are left out."""
    rows: list[dict[str, Any]] = [{} for _ in range(frame.height)]
    for field in spec.fields:
        values, codes = field_values(field, frame[field.name])
        for row, code in zip(rows, codes.tolist(), strict=True):
            if values[code] is not None:
                row[field.name] = values[code]
    return rows


def unlearned(spec: FeatureSpec) -> Vocabulary:
    """Return a vocabulary without values, which is enough to check values by the spec's rules."""
    layout = arrange(spec, {name: 0 for f in spec.fields for name in f.slot_names})
    nothing = np.zeros(0, np.int32)
    slots: dict[str, SlotVocabulary] = {}
    for spec_field in spec.fields:
        for name in spec_field.slot_names:
            if is_scaled(spec_field):
                slots[name] = Scale(np.array([0, 1], np.float32))
            elif isinstance(spec_field, Numeric) and spec_field.encoding != "log_squared":
                slots[name] = Edges(np.zeros(0, np.float32))
            else:
                slots[name] = Integers.of([], nothing)
    return Vocabulary(layout, slots)
