"""Text → the separator of its lists, if it holds lists."""

from __future__ import annotations

from collections.abc import Sequence

from model.draft.column import Column, ListText

SEPARATORS = ("|", ";", ",", " ")
OFTEN = 0.01
"""Share of the rows that must have the separator."""
REUSED = {";": 1.0, ",": 0.7, " ": 0.3}
"""Most distinct tokens beside a distinct text: lists choose from few values, sentences do not. A
bar has no other use."""


def as_list(column: Column, nulls: frozenset[str]) -> ListText | None:
    """Return how text is split, None where it is single values."""
    places = [place for place in column.present if column.values[place] not in nulls]
    texts: list[str] = [column.values[place] for place in places]
    rows = int(sum(column.counts[place] for place in places))
    for separator in SEPARATORS:
        having = [p for p, text in zip(places, texts, strict=True) if separator in text]
        if sum(int(column.counts[place]) for place in having) < OFTEN * rows:
            continue
        found = _split(texts, separator)
        if separator == "|" or len(found.tokens) <= REUSED[separator] * len(texts):
            return found
    return None


def _split(texts: Sequence[str], separator: str) -> ListText:
    tokens: set[str] = set()
    longest = 1
    for text in texts:
        split = [token for token in text.split(separator) if token]
        longest = max(longest, len(split))
        tokens.update(split)
    return ListText(separator, tuple(sorted(tokens)), longest)
