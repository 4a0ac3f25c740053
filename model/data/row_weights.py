"""The weights of rows, in the column that the spec names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.features.arrays import Floats
from app.features.canonical import kind_of
from app.features.spec import FeatureSpec, Numeric
from model.data.values import field_values

LARGEST = 1e9
"""A larger weight is a mistake: beside it no other row counts."""


def row_weights(spec: FeatureSpec, frame: pl.DataFrame) -> Floats:
    """Return the weights [R] of a frame; its :class:`Reader` has checked them."""
    values, codes = _values(spec, frame)
    return np.array(values, np.float32)[codes]


def weight_problems(
    spec: FeatureSpec, frame: pl.DataFrame
) -> tuple[Mapping[int, str], NDArray[np.int64]]:
    """Return what is wrong with distinct weights, by code, and the code of each row."""
    values, codes = _values(spec, frame)
    found = {code: problem for code, value in enumerate(values) if (problem := _problem(value))}
    return found, codes


def _values(spec: FeatureSpec, frame: pl.DataFrame) -> tuple[list[Any], NDArray[np.int64]]:
    assert spec.weight is not None
    like = Numeric(name=spec.weight, side="context", null_values=spec.null_values)
    values, codes = field_values(like, frame[spec.weight])
    return list(values), codes


def _problem(value: Any) -> str | None:
    if value is None:
        return "missing"
    if type(value) not in (int, float):
        return f"expected a number, got {kind_of(value)}"
    if not (math.isfinite(value) and 0 < value <= LARGEST):
        return f"expected a number above 0 and up to {LARGEST:g}"
    return None
