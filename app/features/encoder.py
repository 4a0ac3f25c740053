"""Raw values → rows of indices: the same code for a request and for a training file.

A row of one side is a fixed number of words of 32 bits: an index for each single-valued slot,
then ``max_values`` for each list slot, padded with 0, and then a float32 number for each scaled
slot, so that whoever carries rows need not know of values. A request's few rows are encoded value
by value into packed bytes, a column of many values at once; both ask the same field encoders.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterable, Mapping, Sequence
from struct import Struct
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.canonical import (
    FLOAT32_BOUND,
    INTEGER_MAX,
    INTEGER_MIN,
    float32_thresholds,
    integer_key,
    kind_of,
    log_squared_key,
    log_squared_keys,
    number,
    scaled,
    scaled_column,
    seconds,
    string_key,
    time_parts,
)
from app.features.layout import PADDING, RowShape, Slot
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Side, Time
from app.features.vocabulary import Edges, Scale, Vocabulary

Row = Mapping[str, Any]
Misses = dict[tuple[str, Any], int]
"""Values that a table does not hold although the vocabulary may: slot and key, each with its place.

Until its row is known, the complement of the place (a negative number) stands for it. Whoever
passes none says that the tables hold everything: what they lack is OOV.
"""
_MEMO_LIMIT = 65_536
_INTEGER_OR_NONE = frozenset((int, type(None)))
_DIRECT = str, int, type(None)
_NUMBER, _BITS = Struct("=f"), Struct("=i")

Tables = Mapping[str, dict[Any, int]]
"""Key → row, by slot."""
NO_TABLES: Tables = MappingProxyType({})


class Fetched(NamedTuple):
    """The row of every miss, by its place; ``degraded``: some are OOV for want of an answer."""

    rows: Indices
    degraded: bool


class FieldEncoder(Protocol):
    """Encodes the values of one field into ``width`` words each: indices, unless it is scaled."""

    name: str
    width: int

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        """Encode a JSON value.

        Raises:
            ValueProblem: the value breaks a rule of the field.
        """
        ...

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        """Encode a column of JSON values into [N, width].

        Raises:
            ColumnProblem: at least one value breaks a rule; it names all of them.
        """
        ...


class ColumnProblem(ValueProblem):
    """Values of a column that break a rule: their rows and what is wrong with each."""

    def __init__(self, problems: Sequence[tuple[int, ValueProblem]]) -> None:
        row, first = problems[0]
        super().__init__(f"row {row}: {first.problem}")
        self.problems = tuple(problems)


def _one_by_one(
    encoder: FieldEncoder,
    values: Sequence[Any],
    misses: Misses | None,
    settled: Sequence[int | None] | None = None,
) -> Indices:
    """Encode value by value, except for ``settled`` ones, gathering problems with their rows."""
    result = np.empty((len(values), encoder.width), np.int32)
    problems: list[tuple[int, ValueProblem]] = []
    for row, value in enumerate(values):
        if settled is not None and (index := settled[row]) is not None:
            result[row] = index
            continue
        try:
            result[row] = encoder.one(value, misses)
        except ValueProblem as problem:
            problems.append((row, problem))
    if problems:
        raise ColumnProblem(problems)
    return result


class _Keys:
    """Value → row of one vocabulary slot, by the rules of its field.

    ``known`` also holds what counts as missing, so that one look-up settles most values.
    """

    def __init__(
        self, field: Categorical | MultiCategorical, slot: Slot, lookup: dict[Any, int]
    ) -> None:
        self.known: dict[Any, int] = lookup
        self.integer = field.dtype == "integer"
        self.empty_is_missing = field.empty_is_missing
        self.slot = slot

    def row(self, value: Any, misses: Misses | None) -> int:
        """Look a present value up, after checking it."""
        key = integer_key(value) if self.integer else string_key(value)
        row = self.known.get(key)
        if row is not None:
            return row
        if misses is None:
            return self.slot.oov
        return ~misses.setdefault((self.slot.name, key), len(misses))


class CategoricalEncoder:
    """One index: the value's row, or missing, or OOV."""

    width = 1

    def __init__(self, field: Categorical, slot: Slot, lookup: dict[Any, int]) -> None:
        self.name = field.name
        self.keys = _Keys(field, slot, lookup)
        self.integer = self.keys.integer
        self.absent: tuple[Any, ...] = (None, "") if field.empty_is_missing else (None,)
        self.required = field.required
        if not field.required:
            for value in self.absent:
                lookup[value] = slot.missing

    def index(self, value: Any, misses: Misses | None) -> int:
        """Encode a value that the table of known ones did not settle."""
        if value is None or (value == "" and self.keys.empty_is_missing):
            if self.required:
                raise ValueProblem("required")
            return self.keys.slot.missing
        return self.keys.row(value, misses)

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        return (self.index(value, misses),)

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        # To a table of integers, True and 1.0 are 1; no other type is equal to any text.
        if self.integer and not _INTEGER_OR_NONE.issuperset(map(type, values)):
            return _one_by_one(self, values, misses)
        known = self.keys.known.get
        try:
            found = np.fromiter(map(known, values), np.int32, len(values))
        except TypeError:
            # One of them is not there, and None is no number; or it is a list or an object.
            settled = [known(v) if isinstance(v, _DIRECT) else None for v in values]
            return _one_by_one(self, values, misses, settled)
        return found.reshape(-1, 1)


class ListEncoder:
    """``max_values`` indices: those of the first values of a list, then padding."""

    def __init__(self, field: MultiCategorical, slot: Slot, lookup: dict[Any, int]) -> None:
        self.name = field.name
        self.width = field.max_values
        self.keys = _Keys(field, slot, lookup)
        self.required = field.required
        self._missing = self._pad((slot.missing,))

    def _pad(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        return rows + (PADDING,) * (self.width - len(rows))

    def _value(self, value: Any, position: int, misses: Misses | None) -> int:
        if value is None:
            raise ValueProblem("null inside a list", position)
        try:
            return self.keys.row(value, misses)
        except ValueProblem as problem:
            raise ValueProblem(problem.problem, position) from None

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        if value is None:
            if self.required:
                raise ValueProblem("required")
            return self._missing
        if type(value) is not list:
            raise ValueProblem(f"expected a list, got {kind_of(value)}")
        drop_empty = self.keys.empty_is_missing
        rows: list[int] = []
        for position, item in enumerate(value):
            if drop_empty and item == "":
                continue
            rows.append(self._value(item, position, misses))
            # However long the list, what comes after the last place is not looked at.
            if len(rows) == self.width:
                break
        return self._pad(tuple(rows))

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        return _one_by_one(self, values, misses)


class _NumberEncoder:
    """Checks that numeric fields share: missing, type, range."""

    width = 1

    def __init__(self, field: Numeric, slot: Slot) -> None:
        self.name = field.name
        self.required = field.required
        self.slot = slot

    def bucket(self, value: float) -> int:
        raise NotImplementedError

    def buckets(self, values: NDArray[np.float64]) -> Indices:
        raise NotImplementedError

    def index(self, value: Any) -> int:
        """Encode one value."""
        if value is None:
            if self.required:
                raise ValueProblem("required")
            return self.slot.missing
        return self.bucket(number(value))

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        return (self.index(value),)

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        kinds = set(map(type, values))
        if not kinds <= {int, float, type(None)} or (self.required and type(None) in kinds):
            return _one_by_one(self, values, misses)
        try:
            numbers = np.array([0 if value is None else value for value in values], np.float64)
        except OverflowError:
            return _one_by_one(self, values, misses)
        if not (np.abs(numbers) < FLOAT32_BOUND).all():
            return _one_by_one(self, values, misses)
        return self.words(numbers, np.array([value is None for value in values], np.bool_))

    def words(self, values: NDArray[np.float64], missing: NDArray[np.bool_]) -> Indices:
        """Encode numbers of which some are ``missing``."""
        buckets = self.buckets(values)
        buckets[missing] = self.slot.missing
        return buckets.reshape(-1, 1)


class BucketEncoder(_NumberEncoder):
    """One index: the bucket between two edges that float32(x) falls into."""

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
    """One index: the vocabulary row of floor(ln(x)²), or of the integer part up to 2."""

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
    """An index, which only tells a number from none, and the bits of the scaled number.

    A missing number counts as 1 times an embedding of its own.
    """

    width = 2

    def __init__(self, field: Numeric, slot: Slot, scale: Scale) -> None:
        super().__init__(field, slot)
        self._mean, self._std = scale.mean, scale.std
        self._present = slot.oov + 1

    def pair(self, value: Any) -> tuple[int, float]:
        """Encode one value into its index and its number."""
        if value is None:
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


class TimeEncoder:
    """One index for each part of the local date and hour."""

    def __init__(
        self, field: Time, slots: Sequence[Slot], lookups: Sequence[dict[Any, int]]
    ) -> None:
        self.name = field.name
        self.width = len(slots)
        self.required = field.required
        self._parts = field.parts
        self._zone = ZoneInfo(field.timezone)
        self._format = field.format
        self._known = [(lookup, slot.oov) for lookup, slot in zip(lookups, slots, strict=True)]
        self._missing = tuple(slot.missing for slot in slots)

    def one(self, value: Any, misses: Misses | None = None) -> tuple[int, ...]:
        if value is None or value == "":
            if self.required:
                raise ValueProblem("required")
            return self._missing
        parts = time_parts(seconds(value, self._zone, self._format), self._zone, self._parts)
        return tuple(
            known.get(part, oov) for part, (known, oov) in zip(parts, self._known, strict=True)
        )

    def many(self, values: Sequence[Any], misses: Misses | None = None) -> Indices:
        return _one_by_one(self, values, misses)


def field_encoder(field: Field, vocabulary: Vocabulary, tables: Tables = NO_TABLES) -> FieldEncoder:
    """Build the encoder of one field from its part of the vocabulary, or from given tables."""
    by_name = {slot.name: slot for slot in vocabulary.layout.slots}
    slots = [by_name[name] for name in field.slot_names]
    parts = [vocabulary.slots[name] for name in field.slot_names]
    lookups = [
        tables[name] if name in tables else {} if isinstance(part, Edges | Scale) else part.lookup()
        for name, part in zip(field.slot_names, parts, strict=True)
    ]
    match field:
        case Categorical():
            return CategoricalEncoder(field, slots[0], lookups[0])
        case MultiCategorical():
            return ListEncoder(field, slots[0], lookups[0])
        case Time():
            return TimeEncoder(field, slots, lookups)
        case Numeric():
            (part,) = parts
            if isinstance(part, Edges):
                return BucketEncoder(field, slots[0], part.edges)
            if isinstance(part, Scale):
                return ScaledEncoder(field, slots[0], part)
            return LogSquaredEncoder(field, slots[0], lookups[0])


class SideEncoder:
    """Encodes the fields of one side into rows of words of 32 bits.

    Single-valued slots come first, in the order of the spec but for the scaled ones, which
    are the last of them; then each list slot's ``max_values`` places, then the scaled
    numbers: ``shape`` says where. ``places`` are the columns of each encoder's words.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        side: Side,
        vocabulary: Vocabulary,
        tables: Tables,
    ) -> None:
        encoders = [field_encoder(field, vocabulary, tables) for field in spec.side(side)]
        encoders.sort(key=_group)
        self.encoders: tuple[FieldEncoder, ...] = tuple(encoders)
        self.fields = frozenset(encoder.name for encoder in encoders)
        self.shape = _shape(encoders)
        self.places = tuple(_places(encoders, self.shape))
        self.row: EncodeRow = _compile_row(encoders, self.shape)

    def problems(self, row: Row) -> Iterable[tuple[str, ValueProblem]]:
        """Yield every field of a row whose value breaks a rule, and how."""
        for encoder in self.encoders:
            try:
                encoder.one(row.get(encoder.name))
            except ValueProblem as problem:
                yield encoder.name, problem

    def columns(
        self, columns: Mapping[str, Sequence[Any]], rows: int, misses: Misses | None = None
    ) -> Indices:
        """Encode columns of ``rows`` values each into [rows, width]; absent ones are missing.

        Raises:
            FieldProblems: values that break a rule, by field.
        """
        steps = self.column_steps(columns, rows, misses)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                result: Indices = done.value
                return result

    def column_steps(
        self, columns: Mapping[str, Sequence[Any]], rows: int, misses: Misses | None = None
    ) -> Generator[None, None, Indices]:
        """Like :meth:`columns`, pausing after each field; the result is the return value."""
        result = np.empty((rows, self.shape.width), np.int32)
        problems: dict[str, ColumnProblem] = {}
        for encoder, places in zip(self.encoders, self.places, strict=True):
            try:
                values = columns.get(encoder.name)
                result[:, places] = (
                    encoder.one(None) if values is None else encoder.many(values, misses)
                )
            except ColumnProblem as problem:
                problems[encoder.name] = problem
            except ValueProblem as problem:
                problems[encoder.name] = ColumnProblem([(0, problem)])
            yield
        if problems:
            raise FieldProblems(problems)
        return result


def _group(encoder: FieldEncoder) -> int:
    """Where in a row an encoder's indices come."""
    return 2 if isinstance(encoder, ListEncoder) else int(isinstance(encoder, ScaledEncoder))


def _shape(encoders: Sequence[FieldEncoder]) -> RowShape:
    values = sum(isinstance(e, ScaledEncoder) for e in encoders)
    single = sum(e.width for e in encoders if not isinstance(e, ListEncoder)) - values
    lists, start = [], single
    for encoder in encoders:
        if isinstance(encoder, ListEncoder):
            lists.append((start, start + encoder.width))
            start += encoder.width
    return RowShape(start + values, single, tuple(lists), values)


def _places(encoders: Sequence[FieldEncoder], shape: RowShape) -> Iterable[slice | list[int]]:
    """Yield the columns of each encoder's words."""
    index, value = 0, shape.indices
    for encoder in encoders:
        if isinstance(encoder, ScaledEncoder):
            yield [index, value]
            index, value = index + 1, value + 1
        else:
            yield slice(index, index + encoder.width)
            index += encoder.width


class FieldProblems(ValueProblem):
    """The problems of several columns, by field."""

    def __init__(self, fields: Mapping[str, ColumnProblem]) -> None:
        name, first = next(iter(fields.items()))
        super().__init__(f"field {name!r}, {first.problem}")
        self.fields = fields


class EncodeRow(Protocol):
    """Encodes one row of a side into its packed words."""

    def __call__(self, row: Row, misses: Misses | None = None, /) -> bytes:
        """Encode a row.

        Raises:
            ValueProblem: a value breaks a rule of its field.
        """
        ...


def _compile_row(encoders: Sequence[FieldEncoder], shape: RowShape) -> EncodeRow:
    """Build the function that encodes one row of a side: straight-line code, no loop.

    A loop over 39 fields with a call for each costs more than the scoring of the row. So,
    as ``dataclasses`` does for ``__init__``, the lines for this spec are generated once. A
    line asks the field's table directly where the value's type allows it and falls back on
    the field's encoder otherwise. Field names are only ever data, never part of the code.
    """
    lines = ["def encode(row, misses=None):", " get = row.get"]
    names: dict[str, Any] = {
        "pack": Struct(f"={shape.indices}i{shape.values}f").pack, "bisect": bisect_right,
    }  # fmt: skip
    items, numbers = [], []
    for i, encoder in enumerate(encoders):
        names[f"n{i}"] = encoder.name
        lines.append(f" v = get(n{i})")
        match encoder:
            case CategoricalEncoder():
                names[f"k{i}"], names[f"s{i}"] = encoder.keys.known.get, encoder.index
                direct = "int" if encoder.integer else "str"
                unseen = f"v.__class__ is {direct}"
                if encoder.integer:
                    unseen += f" and {INTEGER_MIN} <= v <= {INTEGER_MAX}"
                elif encoder.required:
                    unseen += " and v"
                lines += [
                    f" x{i} = k{i}(v) if v.__class__ is {direct} or v is None else None",
                    f" if x{i} is None:",
                    f"  x{i} = {encoder.keys.slot.oov} if misses is None and {unseen}"
                    f" else s{i}(v, misses)",
                ]
                items.append(f"x{i}")
            case BucketEncoder():
                names[f"t{i}"], names[f"s{i}"] = encoder.thresholds, encoder.index
                lines.append(
                    f" x{i} = {encoder.base} + bisect(t{i}, v)"
                    f" if v.__class__ is float and -3.4e38 < v < 3.4e38 else s{i}(v)"
                )
                items.append(f"x{i}")
            case ScaledEncoder():
                names[f"s{i}"] = encoder.pair
                lines.append(f" x{i}, y{i} = s{i}(v)")
                items.append(f"x{i}")
                numbers.append(f"y{i}")
            case LogSquaredEncoder():
                names[f"m{i}"], names[f"s{i}"] = encoder.memo, encoder.index
                names[f"l{i}"] = names[f"m{i}"].get
                lines += [
                    f" x{i} = l{i}(v) if v.__class__ is int or v.__class__ is float or v is None"
                    f" else None",
                    f" if x{i} is None:",
                    f"  x{i} = s{i}(v)",
                    f"  if len(m{i}) < {_MEMO_LIMIT}: m{i}[v] = x{i}",
                ]
                items.append(f"x{i}")
            case _:
                names[f"s{i}"] = encoder.one
                lines.append(f" x{i} = s{i}(v, misses)")
                items.append(f"*x{i}")
    lines.append(f" return pack({', '.join(items + numbers)})")
    exec("\n".join(lines), names)
    # Not left among its own globals: with a cycle, tables would outlive their bundle.
    compiled: EncodeRow = names.pop("encode")
    return compiled


def settle(packed: bytes | bytearray | memoryview, rows: Indices, shape: RowShape) -> bytes:
    """Put the rows of misses where the complements of their places stand."""
    words = np.frombuffer(packed, np.int32).copy()
    # A side without fields has rows without words.
    indices = words.reshape(-1, shape.width or 1)[:, : shape.indices]
    open_ones = indices < 0
    indices[open_ones] = rows[~indices[open_ones]]
    return words.tobytes()


class Encoder:
    """Both sides of a spec, over one vocabulary.

    ``tables`` stand in for parts of it and may be incomplete: what they
    lack is noted by those who pass ``misses``.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        vocabulary: Vocabulary,
        tables: Tables = NO_TABLES,
    ) -> None:
        self.context = SideEncoder(spec, "context", vocabulary, tables)
        self.candidate = SideEncoder(spec, "candidate", vocabulary, tables)
        self.fields = self.context.fields | self.candidate.fields
        self.shapes = self.context.shape, self.candidate.shape
