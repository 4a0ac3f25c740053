"""Places of fields in an encoded row: single-valued slots, the scaled last, lists, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.features.column_encoding import FieldEncoder
from app.features.field_encoders import ListEncoder
from app.features.fixed_encoder import own_encoder
from app.features.layout import RowShape
from app.features.number_encoders import ScaledEncoder


def group(encoder: FieldEncoder) -> int:
    """Return an encoder's group in a row: single-valued, scaled, list."""
    return 2 if isinstance(encoder, ListEncoder) else int(is_scaled(encoder))


def is_scaled(encoder: FieldEncoder) -> bool:
    """Return whether an encoder's second word is a number."""
    return isinstance(own_encoder(encoder), ScaledEncoder)


def row_shape(encoders: Sequence[FieldEncoder]) -> RowShape:
    """Return the sizes of a row of encoders that are sorted by their group."""
    values = sum(map(is_scaled, encoders))
    single = sum(e.width for e in encoders if not isinstance(e, ListEncoder)) - values
    lists, start = [], single
    for encoder in encoders:
        if isinstance(encoder, ListEncoder):
            lists.append((start, start + encoder.width))
            start += encoder.width
    return RowShape(start + values, single, tuple(lists), values)


def row_places(encoders: Sequence[FieldEncoder], shape: RowShape) -> Iterable[slice | list[int]]:
    """Yield the columns of each encoder's words."""
    index, value = 0, shape.indices
    for encoder in encoders:
        if is_scaled(encoder):
            yield [index, value]
            index, value = index + 1, value + 1
        else:
            yield slice(index, index + encoder.width)
            index += encoder.width
