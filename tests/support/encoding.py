"""Encoders for tests: of a few fields, over the vocabulary that a small frame gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
import pytest

from app.features import encoder as encoders
from app.features import text_rows
from app.features.arrays import Indices
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, SideEncoder
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Side, Time
from tests.support.frames import learned

SIDES: tuple[Side, ...] = ("context", "candidate")


def user(**keys: Any) -> Categorical:
    return Categorical(name="user", side="context", min_count=1, **keys)


def tags(**keys: Any) -> MultiCategorical:
    return MultiCategorical(name="tags", side="candidate", min_count=1, **keys)


PRICE = Numeric(name="price", side="candidate", encoding="edges", edges=(1.0, 2.0))
USER, TAGS = user(), tags()
FIELDS: dict[str, Field] = {
    "integer": user(dtype="integer"),
    "string": USER,
    "list": TAGS,
    "list of integers": tags(dtype="integer"),
    "edges": PRICE,
    "quantile": Numeric(name="price", side="candidate"),
    "log_squared": Numeric(name="price", side="candidate", encoding="log_squared", min_count=1),
    "scaled": Numeric(name="price", side="candidate", encoding="scaled"),
    "time": Time(name="when", side="context", parts=("hour",)),
}
MISSING_ROW, OOV_ROW = 1, 2
"""Rows of the first field of a spec."""
SCALED = FIELDS["scaled"]
VALUE_ROW = 3
"""The row of a scaled field's numbers, after missing and OOV."""


def encoder_for(*fields: Field, frame: Mapping[str, Any] | None = None) -> Encoder:
    """Return an encoder of these fields that learned a frame's values.

    A side that would have none gets a field.
    """
    present = {field.side for field in fields}
    fillers = [Categorical(name=f"~{side}", side=side) for side in SIDES if side not in present]
    spec = FeatureSpec(label="click", fields=(*fields, *fillers))
    columns = {field.name: [None] for field in spec.fields} if frame is None else dict(frame)
    rows = len(next(iter(columns.values())))
    for field in fillers:
        columns[field.name] = [None] * rows
    return Encoder(spec, learned(spec, pl.DataFrame(columns, strict=False)))


@contextmanager
def in_bulk(load: float = 0.6) -> Iterator[None]:
    """Look texts up together however few there are, in tables of this load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "MANY_TEXTS", 0)
        patch.setattr(text_rows, "LOAD", load)
        yield


def side_of(encoder: Encoder, field: Field) -> SideEncoder:
    """Return the encoder of a field's side."""
    return encoder.context if field.side == "context" else encoder.candidate


def encoded_row(side: SideEncoder, row: Mapping[str, Any]) -> list[int]:
    """Encode one row as a request does; return its words."""
    return np.frombuffer(side.row(row), np.int32).tolist()


def encoded_columns(
    side: SideEncoder, columns: Mapping[str, Sequence[Any]], rows: int, misses: Misses | None = None
) -> Indices:
    """Encode columns as a columnar request does; return the words [rows, width]."""
    steps = side.column_steps(columns, rows, misses)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: Indices = done.value
            return found


def indices(encoder: Encoder, field: Field, value: Any) -> list[int]:
    """Encode a row of this value alone, whose field is the only one of its side."""
    return encoded_row(side_of(encoder, field), {field.name: value})


def numbers(words: Sequence[int]) -> list[float]:
    """Read words as float32 numbers."""
    found: list[float] = np.array(words, np.int32).view(np.float32).tolist()
    return found
