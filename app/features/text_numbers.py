"""Texts as pairs of 64-bit numbers, many at once: the texts themselves, up to 16 bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TEXT_BYTES = 16
"""Bytes of a text that its numbers hold."""
PADDING = bytes(TEXT_BYTES)
"""Stands behind the last text, so that every one can be read in full."""
SEPARATOR = "\0"
_MASKS = np.array([2 ** (8 * count) - 1 for count in range(9)], np.uint64)
_LENGTHS = np.arange(TEXT_BYTES + 1)
_LOW_MASKS, _HIGH_MASKS = _MASKS[_LENGTHS.clip(0, 8)], _MASKS[(_LENGTHS - 8).clip(0, 8)]
"""The bytes of a word that belong to a text, by its length."""

Words = NDArray[np.uint64]
Places = NDArray[np.intp]


class Texts(NamedTuple):
    """Texts as numbers: their first and their second eight bytes; the places of longer ones."""

    low: Words
    high: Words
    long: Places | None


def as_numbers(texts: Sequence[str]) -> Texts:
    """Return texts as numbers; two different ones of at most ``TEXT_BYTES`` bytes differ.

    Raises:
        TypeError: one of them is no text.
        ValueError: one of them has a null character, or half of a surrogate pair.
    """
    joined = SEPARATOR.join(texts).encode() + PADDING
    letters = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero(letters[: len(letters) - TEXT_BYTES + 1] == 0)
    if len(ends) != len(texts):
        raise ValueError("a null character in a text")
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    return numbers_at(joined, starts, ends - starts)


def numbers_at(content: bytes, starts: Places, lengths: Places) -> Texts:
    """Return the numbers of the texts that stand at places of ``content``, before ``PADDING``."""
    longest = int(lengths.max(initial=0))
    long = np.flatnonzero(lengths > TEXT_BYTES) if longest > TEXT_BYTES else None
    if long is not None:
        lengths = np.minimum(lengths, TEXT_BYTES)
    # The eight bytes from each byte on, as numbers; nothing is copied.
    eight: Words = np.ndarray(len(content) - 7, "<u8", content, strides=(1,))
    low = eight[starts]
    low &= _LOW_MASKS.take(lengths)
    if longest <= 8:
        return Texts(low, np.zeros_like(low), None)
    # Behind a text that ends earlier there may be fewer than 16 bytes: its mask is 0 then.
    high = eight[np.minimum(starts + 8, len(eight) - 1)]
    high &= _HIGH_MASKS.take(lengths)
    return Texts(low, high, long)
