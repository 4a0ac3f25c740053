"""Encoders of numeric fields: numbers → the index of a bucket, or an index and a scaled number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.canonical import (
    FLOAT32_BOUND,
    float32_thresholds,
    log_squared_key,
    log_squared_keys,
    number,
    scaled,
    scaled_column,
)
from app.features.column_encoding import Misses, one_by_one
from app.features.layout import Slot
from app.features.null_values import null_values_of
from app.features.spec import Numeric
from app.features.vocabulary import Scale

_NUMBER, _BITS = Struct("=f"), Struct("=i")


class _NumberEncoder:
    """The checks that all numeric fields share: missing, type, range."""

    width = 1

    def __init__(self, field: Numeric, slot: Slot) -> None:
        self.name = field.name
        self.required = field.required
        self.nulls = null_values_of(field)
        self.null_numbers = bool(self.nulls and self.nulls.keys)
        self.slot = slot

    def bucket(self, value: float) -> int:
        raise NotImplementedError

    def buckets(self, values: NDArray[np.float64]) -> Indices:
        raise NotImplementedError

    def index(self, value: Any) -> int:
        """Encode one value."""
        if value is None or value in self.nulls:
            if self.required:
                raise ValueProblem("required")
            return self.slot.missing
        return self.bucket(number(value))

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        return (self.index(value),)

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        plain = {int, float} if self.required else {int, float, type(None)}
        if self.null_numbers or not plain.issuperset(map(type, values)):
            return one_by_one(self, values, misses)
        try:
            numbers = np.array([0 if value is None else value for value in values], np.float64)
        except OverflowError:
            return one_by_one(self, values, misses)
        if not (np.abs(numbers) < FLOAT32_BOUND).all():
            return one_by_one(self, values, misses)
        return self.words(numbers, np.array([value is None for value in values], np.bool_))

    def words(self, values: NDArray[np.float64], missing: NDArray[np.bool_]) -> Indices:
        """Encode checked numbers; those that are ``missing`` may be anything."""
        buckets = self.buckets(values)
        buckets[missing] = self.slot.missing
        return buckets.reshape(-1, 1)


class BucketEncoder(_NumberEncoder):
    """One index: the bucket between two edges that holds float32(x)."""

    def __init__(self, field: Numeric, slot: Slot, edges: NDArray[np.float32]) -> None:
        super().__init__(field, slot)
        self._array = float32_thresholds(edges)
        self.thresholds: list[float] = self._array.tolist()
        self.base = slot.oov + 1

    def bucket(self, value: float) -> int:
        return self.base + bisect_right(self.thresholds, value)

    def buckets(self, values: NDArray[np.float64]) -> Indices:
        found = np.searchsorted(self._array, values, side="right")
        return (found + self.base).astype(np.int32)


class LogSquaredEncoder(_NumberEncoder):
    """One index: the vocabulary row of floor(ln(x)²) for x > 2, else of the integer part."""

    def __init__(self, field: Numeric, slot: Slot, lookup: dict[Any, int]) -> None:
        super().__init__(field, slot)
        self.known = lookup
        self.memo: dict[int | float | None, int] = {} if field.required else {None: slot.missing}

    def bucket(self, value: float) -> int:
        return self.known.get(log_squared_key(value), self.slot.oov)

    def buckets(self, values: NDArray[np.float64]) -> Indices:
        keys, inverse = np.unique(log_squared_keys(values), return_inverse=True)
        rows = [self.known.get(key, self.slot.oov) for key in keys.tolist()]
        return np.array(rows, np.int32)[inverse]


class ScaledEncoder(_NumberEncoder):
    """Two words: an index that says whether there is a number, and the scaled number's bits.

    A missing number is 1 times an embedding of its own.
    """

    width = 2

    def __init__(self, field: Numeric, slot: Slot, scale: Scale) -> None:
        super().__init__(field, slot)
        self._mean, self._std = scale.mean, scale.std
        self._present = slot.oov + 1

    def pair(self, value: Any) -> tuple[int, float]:
        """Return the index and the scaled number of one value."""
        if value is None or value in self.nulls:
            return self.index(value), 1.0
        return self._present, scaled(number(value), self._mean, self._std)

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        index, value = self.pair(value)
        return index, *_BITS.unpack(_NUMBER.pack(value))

    def words(self, values: NDArray[np.float64], missing: NDArray[np.bool_]) -> Indices:
        result = np.empty((len(values), 2), np.int32)
        result[:, 0] = np.where(missing, self.slot.missing, self._present)
        numbers = scaled_column(values, self._mean, self._std)
        numbers[missing] = 1.0
        result[:, 1] = numbers.view(np.int32)
        return result
