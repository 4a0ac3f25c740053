"""The hot path of encoding: a function generated for each side that encodes one row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple, Protocol

from app.features.canonical import INTEGER_MAX, INTEGER_MIN
from app.features.column_encoding import FieldEncoder, Misses
from app.features.field_encoders import CategoricalEncoder
from app.features.fixed_encoder import FixedEncoder
from app.features.layout import RowShape
from app.features.number_encoders import BucketEncoder, LogSquaredEncoder, ScaledEncoder

Row = Mapping[str, Any]
"""Raw values by field; an absent field is missing."""
_MEMO_LIMIT = 65_536
"""Numbers whose row a log-squared field remembers."""


class EncodeRow(Protocol):
    """Encodes one row of a side into packed words."""

    def __call__(self, row: Any, misses: Misses | None = None, /) -> bytes:
        """Encode a row.

        Raises:
            ValueProblem: a value breaks a rule of its field.
        """
        ...


class _Code(NamedTuple):
    """The lines of one field, the data that they name, and the expressions of its words."""

    lines: Sequence[str]
    data: Mapping[str, Any]
    indices: str
    number: str | None = None


def compile_row(
    encoders: Sequence[FieldEncoder], shape: RowShape, members: Mapping[str, str] | None = None
) -> EncodeRow:
    """Generate the function that encodes one row of a side: straight-line code without a loop.

    A loop that calls an encoder for each of 39 fields costs more than scoring the row. So the
    code is generated once for a spec, as ``dataclasses`` does for ``__init__``: a few lines for
    each field, which look a value up in the field's own table where its type allows that and call
    the field's encoder otherwise. Field names are data of the function, never part of its code.

    A row is a mapping, or with ``members`` a struct of ``app.features.instances``, whose member
    for each field they name.
    """
    parts = [_code(place, encoder) for place, encoder in enumerate(encoders)]
    lines = ["def encode(row, misses=None):", "get = row.get" if members is None else ""]
    names: dict[str, Any] = {"pack": Struct(f"={shape.indices}i{shape.values}f").pack}
    for place, (encoder, part) in enumerate(zip(encoders, parts, strict=True)):
        names |= {f"name{place}": encoder.name, **part.data}
        value = f"get(name{place})" if members is None else f"row.{members[encoder.name]}"
        lines += [f"v = {value}", *part.lines]
    words = [part.indices for part in parts] + [part.number for part in parts if part.number]
    lines.append(f"return pack({', '.join(words)})")
    exec("\n ".join(lines), names)
    # Out of its own globals: in a reference cycle the tables would outlive their bundle.
    compiled: EncodeRow = names.pop("encode")
    return compiled


def _code(place: int, encoder: FieldEncoder) -> _Code:
    """Return the code that encodes ``v``, the value of the field at ``place``."""
    match encoder:
        case CategoricalEncoder():
            return _categorical(place, encoder)
        case BucketEncoder():
            return _bucket(place, encoder)
        case LogSquaredEncoder():
            return _log_squared(place, encoder)
        case FixedEncoder():
            return _fixed(place, encoder)
        case ScaledEncoder():
            line = f"x{place}, y{place} = encode{place}(v)"
            return _Code([line], {f"encode{place}": encoder.pair}, f"x{place}", f"y{place}")
    line = f"x{place} = encode{place}(v, misses)"
    return _Code([line], {f"encode{place}": encoder.one}, f"*x{place}")


def _fixed(i: int, encoder: FixedEncoder) -> _Code:
    """The words are there already."""
    index, *bits = encoder.words
    if not bits:
        return _Code([], {}, str(index))
    (number,) = Struct("=f").unpack(Struct("=i").pack(bits[0]))
    return _Code([], {f"y{i}": number}, str(index), f"y{i}")


def _categorical(i: int, encoder: CategoricalEncoder) -> _Code:
    """One look-up settles known and missing values, a type test most unknown ones."""
    lookup = encoder.lookup
    if lookup.dtype == "boolean":
        return _Code([f"x{i} = encode{i}(v, misses)"], {f"encode{i}": encoder.index}, f"x{i}")
    kind = "int" if lookup.dtype == "integer" else "str"
    unknown = f"v.__class__ is {kind}"
    if kind == "int":
        unknown += f" and {INTEGER_MIN} <= v <= {INTEGER_MAX}"
    elif encoder.required:
        unknown += " and v"
    data: dict[str, Any] = {f"known{i}": lookup.known.get, f"encode{i}": encoder.index}
    if encoder.nulls:
        # Of a required field the table has no row for them, and a cache may have dropped it.
        unknown += f" and v not in nulls{i}"
        data[f"nulls{i}"] = encoder.nulls.keys
    unsettled = f"encode{i}(v, misses)"
    if lookup.find is None:
        unsettled = f"{lookup.slot.oov} if misses is None and {unknown} else {unsettled}"
    lines = [
        f"x{i} = known{i}(v) if v.__class__ is {kind} or v is None else None",
        f"if x{i} is None:",
        f" x{i} = {unsettled}",
    ]
    return _Code(lines, data, f"x{i}")


def _bucket(i: int, encoder: BucketEncoder) -> _Code:
    """A float that is far from overflow is bisected in place."""
    if encoder.null_numbers:
        return _Code([f"x{i} = encode{i}(v)"], {f"encode{i}": encoder.index}, f"x{i}")
    line = (
        f"x{i} = {encoder.base} + bisect(edges{i}, v)"
        f" if v.__class__ is float and -3.4e38 < v < 3.4e38 else encode{i}(v)"
    )
    data = {"bisect": bisect_right, f"edges{i}": encoder.thresholds, f"encode{i}": encoder.index}
    return _Code([line], data, f"x{i}")


def _log_squared(i: int, encoder: LogSquaredEncoder) -> _Code:
    """Numbers repeat, so each is computed once and remembered, up to a limit."""
    lines = [
        f"x{i} = known{i}(v) if v.__class__ is int or v.__class__ is float or v is None else None",
        f"if x{i} is None:",
        f" x{i} = encode{i}(v)",
        f" if len(memo{i}) < {_MEMO_LIMIT}: memo{i}[v] = x{i}",
    ]
    memo = encoder.memo
    return _Code(
        lines, {f"memo{i}": memo, f"known{i}": memo.get, f"encode{i}": encoder.index}, f"x{i}"
    )
