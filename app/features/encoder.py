"""Raw values → rows of indices: the same code for a request and for a training file.

A row of one side is a fixed number of 32-bit words: an index for each single-valued slot, then
``max_values`` indices for each list slot, padded with 0, then a float32 number for each scaled
slot. Code that carries rows sees words alone and need not know which are numbers.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.errors import ValueProblem
from app.features.arrays import Indices, Packed
from app.features.column_encoding import ColumnProblem, FieldEncoder, Misses
from app.features.field_encoders import (
    NO_FINDS,
    NO_TABLES,
    Finds,
    ListEncoder,
    Tables,
    field_encoder,
)
from app.features.instances import instance_type, member_names
from app.features.layout import RowShape
from app.features.number_encoders import ScaledEncoder
from app.features.row_compiler import EncodeRow, Row, compile_row
from app.features.spec import FeatureSpec, Side
from app.features.vocabulary import Vocabulary


class Encoder:
    """The encoders of both sides of a spec, over one vocabulary.

    ``tables`` replace parts of it and may be incomplete: a caller that passes ``misses`` gets the
    values that they lack; otherwise ``finds`` look them up.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        vocabulary: Vocabulary,
        tables: Tables = NO_TABLES,
        finds: Finds = NO_FINDS,
    ) -> None:
        self.context = SideEncoder(spec, "context", vocabulary, tables, finds)
        self.candidate = SideEncoder(spec, "candidate", vocabulary, tables, finds)
        encoders = *self.context.encoders, *self.candidate.encoders
        self.instance = instance_type(encoders)
        """The struct with the fields of both sides, if their names allow one."""
        members = member_names(encoders)
        self.context_of = compile_row(self.context.encoders, self.context.shape, members)
        self.candidate_of = compile_row(self.candidate.encoders, self.candidate.shape, members)
        self.fields = self.context.fields | self.candidate.fields
        self.shapes = self.context.shape, self.candidate.shape


class FieldProblems(ValueProblem):
    """The problems of several columns, by field; the message names the first."""

    def __init__(self, fields: Mapping[str, ColumnProblem]) -> None:
        name, first = next(iter(fields.items()))
        super().__init__(f"field {name!r}, {first.problem}")
        self.fields = fields


class SideEncoder:
    """Encodes the fields of one side into rows of 32-bit words.

    Single-valued slots come first, in the order of the spec, the scaled ones last among them;
    then the ``max_values`` places of each list slot; then the scaled numbers. ``shape`` has the
    sizes, ``places`` the columns of each encoder's words.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        side: Side,
        vocabulary: Vocabulary,
        tables: Tables,
        finds: Finds,
    ) -> None:
        encoders = [field_encoder(field, vocabulary, tables, finds) for field in spec.side(side)]
        encoders.sort(key=_group)
        self.encoders: tuple[FieldEncoder, ...] = tuple(encoders)
        self.fields = frozenset(encoder.name for encoder in encoders)
        self.shape = _shape(encoders)
        self.places = tuple(_places(encoders, self.shape))
        self.row: EncodeRow = compile_row(encoders, self.shape)

    def problems(self, row: Row) -> Iterable[tuple[str, ValueProblem]]:
        """Yield each field of a row whose value breaks a rule, with the problem."""
        for encoder in self.encoders:
            try:
                encoder.one(row.get(encoder.name))
            except ValueProblem as problem:
                yield encoder.name, problem

    def column_steps(
        self, columns: Mapping[str, Sequence[Any]], rows: int, misses: Misses | None = None
    ) -> Generator[None, None, Indices]:
        """Encode columns of ``rows`` values each, pausing after each field.

        Returns the words [rows, width]. A field without a column is missing in every row.

        Raises:
            FieldProblems: values break a rule of their field.
        """
        result = np.empty((rows, self.shape.width), np.int32)
        given = {encoder.name: columns.get(encoder.name) for encoder in self.encoders}
        yield from self.replace_steps(result, given, misses)
        return result

    def replace_steps(
        self,
        rows: Indices,
        columns: Mapping[str, Sequence[Any] | None],
        misses: Misses | None = None,
    ) -> Generator[None, None, None]:
        """Encode columns into the words of their fields in ``rows``, pausing after each field.

        A column that is None is missing in every row; fields that are not named keep their words.

        Raises:
            FieldProblems: values break a rule of their field.
        """
        problems: dict[str, ColumnProblem] = {}
        for encoder, places in zip(self.encoders, self.places, strict=True):
            if encoder.name not in columns:
                continue
            try:
                values = columns[encoder.name]
                rows[:, places] = (
                    encoder.one(None) if values is None else encoder.many(values, misses)
                )
            except ColumnProblem as problem:
                problems[encoder.name] = problem
            except ValueProblem as problem:
                problems[encoder.name] = ColumnProblem([(0, problem)])
            yield
        if problems:
            raise FieldProblems(problems)


def _group(encoder: FieldEncoder) -> int:
    """Return an encoder's group in a row: single-valued, scaled, list."""
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


class Fetched(NamedTuple):
    """The row of each miss, by its place; ``degraded``: for lack of an answer some are OOV."""

    rows: Indices
    degraded: bool


def settle(packed: Packed, rows: Indices, shape: RowShape) -> bytes:
    """Replace the complement of each miss's place by the row that was fetched for it."""
    words = np.frombuffer(packed, np.int32).copy()
    # A side without fields has rows without words.
    indices = words.reshape(-1, shape.width or 1)[:, : shape.indices]
    open_ones = indices < 0
    indices[open_ones] = rows[~indices[open_ones]]
    return words.tobytes()
