"""Look-ups of many texts of several fields at once, without an object for each known text.

A look-up in a large dictionary waits for memory some four times, one after the other: its index,
its entry, the text, the row. Here all texts of a batch become numbers first, and each step is one
operation of numpy on all of them, so that the waits overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.field_encoders import CategoricalEncoder
from app.features.text_columns import TextColumns
from app.features.text_numbers import (
    SEPARATOR,
    TEXT_BYTES,
    Places,
    Texts,
    Words,
    as_numbers,
    numbers_at,
)

LOAD = 0.6
"""Texts of a table over its places. A place has one text, so of texts at random places a quarter
finds its place taken and goes into the next table. What the last one cannot take, one or two of a
hundred, is in the dictionaries alone."""
PART = 16_384
"""Texts that are put into a table at a time, because a service may be answering meanwhile."""
_EMPTY = 2**64 - 1
"""Both words of an empty place: no text, because UTF-8 has no byte 0xFF."""
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_TABLES = (
    np.uint64(0xD6E8FEB86659FD93),
    np.uint64(0xA0761D6478BD642F),
    np.uint64(0xE7037ED1A0B428DB),
)
"""Odd numbers without a pattern; the last ones make the places of a text in the tables."""
_HALF = np.uint64(32)


def _mixed(texts: Texts) -> Words:
    """Return a hash of each text."""
    mixed = texts.low * _MIX[0]
    mixed ^= texts.high * _MIX[1]
    mixed ^= mixed >> _HALF
    return mixed


class _Table(NamedTuple):
    """Places for the texts of all fields, of each field its own.

    ``keys`` has both words of a text as one complex number, so that one look fetches both; the
    row of an empty place is -1. A field has ``sizes`` places from ``first`` on.
    """

    factor: np.uint64
    first: NDArray[np.int64]
    sizes: Words
    keys: NDArray[np.complex128]
    rows: Indices

    @classmethod
    def of(cls, factor: np.uint64, counts: Sequence[int]) -> _Table:
        """Return an empty table for so many texts of each field."""
        sizes = np.array([int(count / LOAD) + 1 for count in counts], np.uint64)
        ends = np.cumsum(sizes).astype(np.int64)
        words = np.full((int(ends[-1]), 2), _EMPTY, np.uint64)
        return cls(
            factor,
            ends - sizes.astype(np.int64),
            sizes,
            words.view(np.complex128).ravel(),
            np.full(int(ends[-1]), -1, np.int32),
        )

    def put(self, field: int, texts: Texts, rows: Indices) -> NDArray[np.bool_]:
        """Give texts of a field the places that are free; return which have one now."""
        places = self.places(_mixed(texts), self.first[field], self.sizes[field])
        words = self.keys.view(np.uint64).reshape(-1, 2)
        free = np.flatnonzero(self.rows[places] < 0)
        # Of several texts that want a place the first has it: it is the most frequent one.
        wanted, chosen = np.unique(places[free], return_index=True)
        won = free[chosen]
        words[wanted, 0], words[wanted, 1] = texts.low[won], texts.high[won]
        self.rows[wanted] = rows[won]
        placed = np.zeros(len(rows), np.bool_)
        placed[won] = True
        return placed

    def places(self, mixed: Words, first: Any, sizes: Any) -> NDArray[np.int64]:
        """Return the one place of each text."""
        places = mixed * self.factor
        places >>= _HALF
        places *= sizes
        places >>= _HALF
        found = places.view(np.int64)
        found += first
        return found


class _Known(NamedTuple):
    """Texts of a field that a dictionary knows, the frequent ones first, and their rows."""

    texts: list[str]
    rows: Indices

    @classmethod
    def of(cls, encoder: CategoricalEncoder) -> _Known:
        """Return those of an encoder that can be numbers."""
        known = encoder.lookup.known
        texts = [text for text in known if text is not None and _fits(text)]
        rows = np.empty(len(texts), np.int32)
        for start in range(0, len(texts), PART):
            part = texts[start : start + PART]
            rows[start : start + PART] = [*map(known.__getitem__, part)]
        return cls(texts, rows)

    def put_into(self, table: _Table, field: int) -> _Known:
        """Put the texts into a table; return those for which it has no place."""
        left: list[int] = []
        for start in range(0, len(self.texts), PART):
            numbers = as_numbers(self.texts[start : start + PART])
            placed = table.put(field, numbers, self.rows[start : start + PART])
            left += (start + np.flatnonzero(~placed)).tolist()
        return _Known([self.texts[place] for place in left], self.rows[left])


class TextRows:
    """The table rows of texts of several fields, as the fields' own dictionaries have them."""

    def __init__(self, encoders: Sequence[CategoricalEncoder]) -> None:
        self.encoders = encoders
        left = [_Known.of(encoder) for encoder in encoders]
        self._tables: list[_Table] = []
        for factor in _TABLES:
            table = _Table.of(factor, [len(each.texts) for each in left])
            left = [each.put_into(table, field) for field, each in enumerate(left)]
            self._tables.append(table)
        # Where a dictionary holds all that a field's texts can mean, all others are OOV.
        self._oov = np.array(
            [each.lookup.slot.oov if each.complete else -1 for each in encoders],
            np.int32,
        )
        self._missing = np.array(
            [-1 if each.required else each.lookup.slot.missing for each in encoders], np.int32
        )

    def rows(
        self, values: Sequence[Any], fields: Places, problems: dict[int, ValueProblem]
    ) -> Indices:
        """Return the row of each value; ``fields`` has the number of its encoder.

        A value that breaks a rule has some row, and its place and problem are in ``problems``.
        """
        if not values:
            return np.empty(0, np.int32)
        try:
            rows = self._find(values, fields)
        except (TypeError, ValueError):
            rows = self._find_among_others(values, fields)
        self._settle(rows, values.__getitem__, fields, problems)
        return rows

    def rows_of_columns(
        self, columns: TextColumns, fields: Places, problems: dict[int, ValueProblem]
    ) -> Indices:
        """Return the rows of the values of columns, one column after the other, as :meth:`rows`."""
        starts = columns.starts.ravel()
        numbers = numbers_at(columns.content, starts, columns.ends.ravel() - starts)
        rows, count = self._find_numbers(numbers, fields), columns.starts.shape[1]
        self._settle(rows, lambda at: columns.text(*divmod(at, count)), fields, problems)
        return rows

    def _settle(
        self,
        rows: Indices,
        value_at: Callable[[int], Any],
        fields: Places,
        problems: dict[int, ValueProblem],
    ) -> None:
        """Let the fields' own encoders say the rows that are not known yet."""
        for place in np.flatnonzero(rows < 0).tolist():
            try:
                rows[place] = self.encoders[fields[place]].index(value_at(place), None)
            except ValueProblem as problem:
                problems[place] = problem

    def _find_among_others(self, values: Sequence[Any], fields: Places) -> Indices:
        """Return the rows of values of which some are no texts: absent, as a rule."""
        absent = [place for place, each in enumerate(values) if each is None]
        texts = ["" if each is None else each for each in values]
        try:
            rows = self._find(texts, fields)
        except (TypeError, ValueError):
            strange = [place for place, each in enumerate(texts) if not _is_plain(each)]
            for place in strange:
                texts[place] = ""
            rows = self._find(texts, fields)
            rows[strange] = -1
        rows[absent] = self._missing[fields[absent]]
        return rows

    def _find(self, texts: Sequence[str], fields: Places) -> Indices:
        """Return the row of each text; -1 where only the field's encoder knows it.

        Raises:
            TypeError, ValueError: as :func:`as_numbers`.
        """
        return self._find_numbers(as_numbers(texts), fields)

    def _find_numbers(self, numbers: Texts, fields: Places) -> Indices:
        mixed = _mixed(numbers)
        first = self._tables[0]
        places = first.places(mixed, first.first.take(fields), first.sizes.take(fields))
        rows: Indices = first.rows.take(places)
        left = np.flatnonzero(_differ(first, places, numbers.low, numbers.high))
        if len(left):
            self._find_left(left, numbers, mixed, fields, rows)
        if numbers.long is not None:
            rows[numbers.long] = -1
        return rows

    def _find_left(
        self,
        left: Places,
        numbers: Texts,
        mixed: Words,
        fields: Places,
        rows: Indices,
    ) -> None:
        """Look texts up that have no place in the first table, and set their ``rows``."""
        # The row of whatever has a text's place in the table before; -1 if nothing has it.
        others = rows.take(left)
        for table in self._tables[1:]:
            left = self._settle_unknown(left, others, fields, rows)
            if not len(left):
                return
            of = fields.take(left)
            places = table.places(mixed.take(left), table.first.take(of), table.sizes.take(of))
            found = table.rows.take(places)
            differ = _differ(table, places, numbers.low.take(left), numbers.high.take(left))
            rows[left] = found
            left, others = left[differ], found[differ]
        rows[self._settle_unknown(left, others, fields, rows)] = -1

    def _settle_unknown(
        self,
        left: Places,
        others: Indices,
        fields: Places,
        rows: Indices,
    ) -> Places:
        """Set the rows of texts whose place is free, so that they are unknown; return the rest."""
        free = others < 0
        if not free.any():
            return left
        unknown = left[free]
        rows[unknown] = self._oov.take(fields.take(unknown))
        return left[~free]


def _fits(text: str) -> bool:
    """Tell whether a table can hold a text."""
    if len(text) > TEXT_BYTES or SEPARATOR in text:
        return False
    return text.isascii() or (_is_plain(text) and len(text.encode()) <= TEXT_BYTES)


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a text that can be a number."""
    if value.__class__ is not str or SEPARATOR in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _differ(table: _Table, places: NDArray[np.int64], low: Words, high: Words) -> NDArray[np.bool_]:
    """Return which texts are not those at their places."""
    words = table.keys.take(places).view(np.uint64)
    different: NDArray[np.bool_] = words[::2] != low
    different |= words[1::2] != high
    return different
