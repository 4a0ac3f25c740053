"""Raw values → rows of indices: the same code for a request and for a training file.

A row of one side is a fixed number of 32-bit words: an index for each single-valued slot, then
``max_values`` indices for each list slot, padded with 0, then a float32 number for each scaled
slot. Code that carries rows sees words alone and need not know which are numbers.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from app.errors import ValueProblem
from app.features.arrays import Column, Indices, Packed
from app.features.column_encoding import ColumnProblem, FieldEncoder, Misses
from app.features.field_encoders import (
    NO_FINDS,
    NO_TABLES,
    CategoricalEncoder,
    Finds,
    Tables,
    field_encoder,
)
from app.features.fixed_encoder import FixedEncoder
from app.features.instances import instance_type, member_names
from app.features.layout import RowShape
from app.features.number_arrays import DenseRows, dense_rows, encode_array
from app.features.row_compiler import EncodeRow, Row, compile_row
from app.features.row_places import group, row_places, row_shape
from app.features.spec import FeatureSpec, MultiCategorical, Side, served_value
from app.features.text_columns import TextColumns
from app.features.text_numbers import Places
from app.features.text_rows import TextRows
from app.features.vocabulary import Integers, Texts, Vocabulary

MANY_TEXTS = 2**15
"""Known texts of a spec from which on those of many rows are looked up together: the dictionaries
of fewer fit into a processor's caches."""
TEXTS_OF_STEP = 4_096
"""Texts of columns that are looked up in one step, if they are of more than one column."""


class Encoder:
    """The encoders of both sides of a spec, over one vocabulary.

    ``tables`` replace parts of it and may be incomplete: a caller that passes ``misses`` gets the
    values that they lack; otherwise ``finds`` look them up. With ``in_bulk``, for tables that do
    not change, the texts of many rows are looked up together where they are many.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        vocabulary: Vocabulary,
        tables: Tables = NO_TABLES,
        finds: Finds = NO_FINDS,
        in_bulk: bool = False,
        training: bool = False,
    ) -> None:
        """``training`` encodes the values of fields that have one value in serving."""
        self.spec = spec
        held = _shared_tables(vocabulary, tables)
        self.context = SideEncoder(spec, "context", vocabulary, held, finds, training)
        self.candidate = SideEncoder(spec, "candidate", vocabulary, held, finds, training)
        encoders = *self.context.encoders, *self.candidate.encoders
        self.instance = instance_type(encoders)
        """The struct with the fields of both sides, if their names allow one."""
        members = member_names(encoders)
        self.context_of = compile_row(self.context.encoders, self.context.shape, members)
        self.candidate_of = compile_row(self.candidate.encoders, self.candidate.shape, members)
        self.fields = self.context.fields | self.candidate.fields
        self.lists = frozenset(
            field.name for field in spec.fields if isinstance(field, MultiCategorical)
        )
        """The fields that hold lists."""
        self.shapes = self.context.shape, self.candidate.shape
        self.texts = _text_rows(encoders) if in_bulk else None
        """The texts of both sides, where they are looked up together."""
        for side in (self.context, self.candidate):
            side.look_up_together(self.texts)
            if in_bulk:
                side.look_up_in_arrays(vocabulary, tables)


def _shared_tables(vocabulary: Vocabulary, tables: Tables) -> Tables:
    """Add the tables of slots whose rows others share, so that there is one of each."""
    lookups = {name: vocabulary.slots[name] for name in vocabulary.layout.shared - tables.keys()}
    return {
        **tables,
        **{
            name: part.lookup()
            for name, part in lookups.items()
            if isinstance(part, Integers | Texts)
        },
    }


def _text_rows(encoders: Sequence[FieldEncoder]) -> TextRows | None:
    """Return the look-ups of all fields of text, if they have many values."""
    texts = [
        each
        for each in encoders
        if isinstance(each, CategoricalEncoder) and each.lookup.dtype == "string"
    ]
    if not texts or sum(len(each.lookup.known) for each in texts) < MANY_TEXTS:
        return None
    return TextRows(texts)


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
        training: bool,
    ) -> None:
        encoders: list[FieldEncoder] = []
        for field in spec.side(side):
            encoder, served = field_encoder(field, vocabulary, tables, finds), served_value(field)
            fixed = served is not None and not training
            encoders.append(FixedEncoder(encoder, served) if fixed else encoder)
        encoders.sort(key=group)
        self.encoders: tuple[FieldEncoder, ...] = tuple(encoders)
        self.fields = frozenset(encoder.name for encoder in encoders)
        self.dynamic = frozenset(field.name for field in spec.side(side) if field.dynamic)
        """Fields whose values come with a request."""
        self.shape = row_shape(encoders)
        self.places = tuple(row_places(encoders, self.shape))
        self.stored_words = np.ones(self.shape.width, np.bool_)
        """Marks the words of a row [width] that are not of dynamic fields."""
        for encoder, place in zip(encoders, self.places, strict=True):
            self.stored_words[place] = encoder.name not in self.dynamic
        self.row: EncodeRow = compile_row(encoders, self.shape)
        self.texts: TextRows | None = None
        self.text_fields: Mapping[str, int] = {}
        """The fields whose texts are looked up together, with their numbers among ``texts``."""
        self._dense: dict[str, DenseRows] = {}
        self._word_of = {
            encoder.name: place.start
            for encoder, place in zip(encoders, self.places, strict=True)
            if isinstance(place, slice)
        }

    def look_up_together(self, texts: TextRows | None) -> None:
        """Have the texts of many rows looked up together, where that is given."""
        self.texts = texts
        if texts is not None:
            self.text_fields = {
                each.name: number
                for number, each in enumerate(texts.encoders)
                if each.name in self.fields
            }

    def look_up_in_arrays(self, vocabulary: Vocabulary, tables: Tables) -> None:
        """Have arrays of integers looked up in tables, where a field's lie close together."""
        for each in self.encoders:
            if each.name in vocabulary.slots and each.name not in tables:
                table = dense_rows(each, vocabulary.slots[each.name])
                if table is not None:
                    self._dense[each.name] = table

    def stored(self, values: Row) -> Row:
        """Return stored values without those of dynamic fields."""
        if self.dynamic.isdisjoint(values):
            return values
        return {name: value for name, value in values.items() if name not in self.dynamic}

    def problems(self, row: Row) -> Iterable[tuple[str, ValueProblem]]:
        """Yield each field of a row whose value breaks a rule, with the problem."""
        for encoder in self.encoders:
            try:
                encoder.one(row.get(encoder.name))
            except ValueProblem as problem:
                yield encoder.name, problem

    def column_steps(
        self,
        columns: Mapping[str, Column],
        rows: int,
        misses: Misses | None = None,
        texts: Sequence[TextColumns] = (),
    ) -> Generator[None, None, Indices]:
        """Encode columns of ``rows`` values each, pausing after each field.

        ``texts`` are further columns, of ``text_fields``. Returns the words [rows, width]. A field
        without a column is missing in every row.

        Raises:
            FieldProblems: values break a rule of their field.
        """
        result = np.empty((rows, self.shape.width), np.int32)
        elsewhere = {name for each in texts for name in each.names}
        given = {
            encoder.name: columns.get(encoder.name)
            for encoder in self.encoders
            if encoder.name not in elsewhere
        }
        yield from self.replace_steps(result, given, misses, texts)
        return result

    def replace_steps(
        self,
        rows: Indices,
        columns: Mapping[str, Column | None],
        misses: Misses | None = None,
        texts: Sequence[TextColumns] = (),
    ) -> Generator[None, None, None]:
        """Encode columns into the words of their fields in ``rows``, pausing after each field.

        A column that is None is missing in every row; fields that are not named keep their words.
        ``texts`` are further columns, of ``text_fields``.

        Raises:
            FieldProblems: values break a rule of their field.
        """
        problems: dict[str, ColumnProblem] = {}
        together: Container[str] = ()
        if self.texts is not None and misses is None:
            given = {
                name: values
                for name, values in columns.items()
                if values is not None and not isinstance(values, np.ndarray) and len(values)
            }
            together = yield from self._replace_texts(self.texts, rows, given, texts, problems)
        for encoder, places in zip(self.encoders, self.places, strict=True):
            if encoder.name not in columns or encoder.name in together:
                continue
            try:
                values = columns[encoder.name]
                if values is None:
                    rows[:, places] = encoder.one(None)
                elif isinstance(values, np.ndarray):
                    dense = self._dense.get(encoder.name)
                    rows[:, places] = encode_array(encoder, dense, values, misses)
                else:
                    rows[:, places] = encoder.many(values, misses)
            except ColumnProblem as problem:
                problems[encoder.name] = problem
            except ValueProblem as problem:
                problems[encoder.name] = ColumnProblem([(0, problem)])
            yield
        if problems:
            raise FieldProblems(
                {e.name: problems[e.name] for e in self.encoders if e.name in problems}
            )

    def _replace_texts(
        self,
        look_ups: TextRows,
        rows: Indices,
        columns: Mapping[str, Sequence[Any]],
        texts: Sequence[TextColumns],
        problems: dict[str, ColumnProblem],
    ) -> Generator[None, None, Container[str]]:
        """Encode the columns of texts into their words, some columns in each step.

        Returns the fields of ``columns`` among them; adds the problems of values.
        """
        count = len(rows)
        step = max(1, TEXTS_OF_STEP // max(count, 1))
        for each in texts:
            for start in range(0, len(each.names), step):
                part = each.fields(start, start + step)
                wrong: dict[int, ValueProblem] = {}
                numbers = self._text_numbers(part.names, count)
                found = look_ups.rows_of_columns(part, numbers, wrong)
                self._put_texts(rows, part.names, found, wrong, problems)
                yield
        fields = [name for name in self.text_fields if name in columns]
        for start in range(0, len(fields), step):
            chosen = fields[start : start + step]
            values = list(chain.from_iterable(columns[name] for name in chosen))
            wrong = {}
            found = look_ups.rows(values, self._text_numbers(chosen, count), wrong)
            self._put_texts(rows, chosen, found, wrong, problems)
            yield
        return fields

    def _text_numbers(self, names: Sequence[str], count: int) -> Places:
        """Return the number of the field of each text of columns with so many of them."""
        return np.repeat([self.text_fields[name] for name in names], count)

    def _put_texts(
        self,
        rows: Indices,
        names: Sequence[str],
        found: Indices,
        wrong: Mapping[int, ValueProblem],
        problems: dict[str, ColumnProblem],
    ) -> None:
        """Put the table rows that were found for columns into their words; add their problems."""
        count = len(rows)
        rows[:, [self._word_of[name] for name in names]] = found.reshape(len(names), count).T
        by_field: dict[str, list[tuple[int, ValueProblem]]] = {}
        for place, problem in wrong.items():
            by_field.setdefault(names[place // count], []).append((place % count, problem))
        problems |= {name: ColumnProblem(each) for name, each in by_field.items()}


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
