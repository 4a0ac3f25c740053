"""Columns of texts as they stand in JSON, without a text for each value.

To make the 15,000 texts of a long list costs more than to look them up. Most columns are lists of
plain ASCII texts, as a serialiser writes them: there the quotes alone tell the texts apart, and a
few passes of numpy over the bytes find all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.text_numbers import PADDING, Places

_QUOTE, _COMMA, _SPACE = b'", '
_GAPS = 2, 3
"""Steps from the quote behind a text to the one before the next: over a comma, or one and a space.
"""


class TextColumns(NamedTuple):
    """Columns of texts: of each text [F, N] where in ``content`` it starts and ends.

    The content is ASCII and ends with ``PADDING``.
    """

    names: tuple[str, ...]
    content: bytes
    starts: Places
    ends: Places

    def rows(self, start: int, stop: int) -> TextColumns:
        """Return the rows from one to another."""
        return self._replace(starts=self.starts[:, start:stop], ends=self.ends[:, start:stop])

    def fields(self, start: int, stop: int) -> TextColumns:
        """Return the columns from one to another."""
        return TextColumns(
            self.names[start:stop], self.content, self.starts[start:stop], self.ends[start:stop]
        )

    def text(self, field: int, row: int) -> str:
        """Return one text."""
        return self.content[self.starts[field, row] : self.ends[field, row]].decode()


def text_columns(parts: Mapping[str, bytes]) -> TextColumns | None:
    """Return columns of texts, all of one length above 0, out of valid JSON values by name.

    None if any of them is no such column, or is not written as this reads it: it has to be decoded.
    """
    content = b"".join([*parts.values(), PADDING])
    if not content.isascii() or b"\\" in content:
        return None
    letters = np.frombuffer(content, np.uint8)
    quotes = np.flatnonzero(letters == _QUOTE)
    if not len(quotes) or len(quotes) % (2 * len(parts)):
        return None
    count = len(quotes) // (2 * len(parts))
    before, behind = np.moveaxis(quotes.reshape(len(parts), count, 2), 2, 0)
    # A column begins with its bracket and a quote, and ends with a quote and its bracket.
    sizes = np.array([memoryview(part).nbytes for part in parts.values()])
    stops = sizes.cumsum()
    if (before[:, 0] != stops - sizes + 1).any() or (behind[:, -1] != stops - 2).any():
        return None
    if not _next_to_each_other(letters, before[:, 1:], behind[:, :-1]):
        return None
    return TextColumns(tuple(parts), content, before + 1, behind)


def _next_to_each_other(letters: NDArray[np.uint8], before: Places, behind: Places) -> bool:
    """Tell whether nothing but a comma, and perhaps a space, is between the texts of columns.

    So no number, null or list stands between two texts.
    """
    if not before.size:
        return True
    gap = int(before[0, 0] - behind[0, 0])
    if gap not in _GAPS or (before != behind + gap).any():
        return False
    if (letters.take(behind + 1) != _COMMA).any():
        return False
    return gap == _GAPS[0] or not (letters.take(behind + 2) != _SPACE).any()
