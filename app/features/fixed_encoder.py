"""The encoder of a field that has the same value in every request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.features.arrays import Indices
from app.features.column_encoding import FieldEncoder, Misses


class FixedEncoder:
    """Words of one value, whatever is encoded; ``own`` is the encoder that training uses."""

    def __init__(self, own: FieldEncoder, value: Any) -> None:
        """Encode the value once.

        Raises:
            ValueProblem: it breaks a rule of the field.
        """
        self.own = own
        self.name = own.name
        self.width = own.width
        self.words = own.one(value)

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        return self.words

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        return np.tile(np.array(self.words, np.int32), (len(values), 1))


def own_encoder(encoder: FieldEncoder) -> FieldEncoder:
    """Return the encoder that says of which kind a field is."""
    return encoder.own if isinstance(encoder, FixedEncoder) else encoder
