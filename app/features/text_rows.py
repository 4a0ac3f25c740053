"""Look-ups of many texts of several fields at once, without an object for each known text.

A look-up in a large dictionary waits for memory some four times, one after the other: its index,
its entry, the text, the row. Here all texts of a batch become numbers first, and each step is one
operation of numpy on all of them, so that the waits overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import ValueProblem
from app.features.arrays import Indices
from app.features.field_encoders import CategoricalEncoder

TEXT_BYTES = 16
"""Bytes of a text that a table can hold; longer ones stay in the dictionaries alone."""
LOAD = 0.6
"""Texts of a table over its places. A place has one text, so of texts at random places a quarter
finds its place taken and goes into the next table. What the last one cannot take, one or two of a
hundred, is in the dictionaries alone."""
PART = 16_384
"""Texts that are put into a table at a time, because a service may be answering meanwhile."""
_SEPARATOR = "\0"
_PADDING = bytes(TEXT_BYTES)
_EMPTY = 2**64 - 1
"""Both words of an empty place: no text, because UTF-8 has no byte 0xFF."""
_MASKS = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)
_LENGTHS = np.arange(TEXT_BYTES + 1)
_LOW_MASKS, _HIGH_MASKS = _MASKS[_LENGTHS.clip(0, 8)], _MASKS[(_LENGTHS - 8).clip(0, 8)]
"""The bytes of a word that belong to a text, by its length."""
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_TABLES = (
    np.uint64(0xD6E8FEB86659FD93),
    np.uint64(0xA0761D6478BD642F),
    np.uint64(0xE7037ED1A0B428DB),
)
"""Odd numbers without a pattern; the last ones make the places of a text in the tables."""
_HALF = np.uint64(32)

Words = NDArray[np.uint64]


class Texts(NamedTuple):
    """Texts as numbers: their first and their second eight bytes; the places of longer ones."""

    low: Words
    high: Words
    long: NDArray[np.intp] | None


def as_numbers(texts: Sequence[str]) -> Texts:
    """Return texts as numbers; two different ones of at most ``TEXT_BYTES`` bytes differ.

    Raises:
        TypeError: one of them is no text.
        ValueError: one of them has a null character, or half of a surrogate pair.
    """
    joined = _SEPARATOR.join(texts).encode() + _PADDING
    letters = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero(letters[: len(letters) - TEXT_BYTES + 1] == 0)
    if len(ends) != len(texts):
        raise ValueError("a null character in a text")
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    long = np.flatnonzero(lengths > TEXT_BYTES) if longest > TEXT_BYTES else None
    if long is not None:
        np.minimum(lengths, TEXT_BYTES, out=lengths)
    # The eight bytes from each byte on, as numbers; nothing is copied.
    eight: Words = np.ndarray(len(joined) - 7, "<u8", joined, strides=(1,))
    low = eight[starts]
    low &= _LOW_MASKS.take(lengths)
    if longest <= 8:
        return Texts(low, np.zeros_like(low), None)
    # Behind a text that ends earlier there may be fewer than 16 bytes: its mask is 0 then.
    starts += 8
    high = eight[np.minimum(starts, len(eight) - 1)]
    high &= _HIGH_MASKS.take(lengths)
    return Texts(low, high, long)


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
            [
                lookup.slot.oov if lookup.find is None and not (each.required or each.nulls) else -1
                for each, lookup in ((each, each.lookup) for each in encoders)
            ],
            np.int32,
        )
        self._missing = np.array(
            [-1 if each.required else each.lookup.slot.missing for each in encoders], np.int32
        )

    def rows(
        self, values: Sequence[Any], fields: NDArray[np.intp], problems: dict[int, ValueProblem]
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
        for place in np.flatnonzero(rows < 0).tolist():
            try:
                rows[place] = self.encoders[fields[place]].index(values[place], None)
            except ValueProblem as problem:
                problems[place] = problem
        return rows

    def _find_among_others(self, values: Sequence[Any], fields: NDArray[np.intp]) -> Indices:
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

    def _find(self, texts: Sequence[str], fields: NDArray[np.intp]) -> Indices:
        """Return the row of each text; -1 where only the field's encoder knows it.

        Raises:
            TypeError, ValueError: as :func:`as_numbers`.
        """
        numbers = as_numbers(texts)
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
        left: NDArray[np.intp],
        numbers: Texts,
        mixed: Words,
        fields: NDArray[np.intp],
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
        left: NDArray[np.intp],
        others: Indices,
        fields: NDArray[np.intp],
        rows: Indices,
    ) -> NDArray[np.intp]:
        """Set the rows of texts whose place is free, so that they are unknown; return the rest."""
        free = others < 0
        if not free.any():
            return left
        unknown = left[free]
        rows[unknown] = self._oov.take(fields.take(unknown))
        return left[~free]


def _fits(text: str) -> bool:
    """Tell whether a table can hold a text."""
    if len(text) > TEXT_BYTES or _SEPARATOR in text:
        return False
    return text.isascii() or (_is_plain(text) and len(text.encode()) <= TEXT_BYTES)


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a text that can be a number."""
    if value.__class__ is not str or _SEPARATOR in value:
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
