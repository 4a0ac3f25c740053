"""Arrays of numbers → the words of a field, without an object for each number."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Indices
from app.features.column_encoding import FieldEncoder, Misses
from app.features.field_encoders import CategoricalEncoder
from app.features.vocabulary import Integers

SPARE = 4
"""Places of a table for each known integer, at most: ids are dense as a rule."""


class DenseRows(NamedTuple):
    """The rows of the integers from ``low`` on; the last one is that of all others."""

    low: int
    rows: Indices

    @classmethod
    def of(cls, values: Integers, oov: int) -> DenseRows | None:
        """Return the rows of known integers; None if they lie too far apart for a table."""
        keys = values.keys
        if not len(keys) or len(values.large):
            return None
        low, size = int(keys[0]), int(keys[-1]) - int(keys[0]) + 1
        if size > SPARE * len(keys):
            return None
        rows = np.full(size + 1, oov, np.int32)
        rows[keys - low] = values.rows
        return cls(low, rows)

    def find(self, values: NDArray[Any]) -> Indices | None:
        """Return the row of each integer; None if the table cannot tell."""
        if values.dtype.kind == "u" and self.low < 0:
            return None
        # Numbers below the first wrap to ones behind the last.
        places = values.astype(np.uint64) - np.uint64(self.low % 2**64)
        last = np.uint64(len(self.rows) - 1)
        found: Indices = self.rows.take(np.minimum(places, last).view(np.int64))
        return found


def encode_array(
    encoder: FieldEncoder, dense: DenseRows | None, values: NDArray[Any], misses: Misses | None
) -> Indices:
    """Encode an array of numbers into [N, width], as ``many`` encodes the same numbers.

    Raises:
        ColumnProblem: at least one value breaks a rule; it names all of them.
    """
    if dense is not None and values.dtype.kind in "iu" and misses is None:
        found = dense.find(values)
        if found is not None:
            return found.reshape(-1, 1)
    return encoder.many(values.tolist(), misses)


def dense_rows(encoder: FieldEncoder, values: object) -> DenseRows | None:
    """Return the table of a field's integers, if all others are OOV and ``values`` has them."""
    if not (isinstance(encoder, CategoricalEncoder) and encoder.complete):
        return None
    if encoder.lookup.dtype != "integer" or not isinstance(values, Integers):
        return None
    return DenseRows.of(values, encoder.lookup.slot.oov)
