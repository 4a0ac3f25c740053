"""The side of a column, by what varies within the rows of a user, a request or an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.features.spec import Side
from model.draft.names import is_candidate, is_context

DECIDED = 0.99
"""Share of a key's rows that must have one value of a column for the key to decide it."""
SHARE_OF_THE_REST = 0.1
"""A column of which one value has nearly all rows is decided only if the key leaves few others."""
ENOUGH_ROWS = 50
"""Rows whose key comes more than once, below which a key tells nothing."""


@dataclass(frozen=True, slots=True)
class Guess:
    """The side of a column, and the reason in a few words."""

    side: Side
    reason: str
    sure: bool
    """False where only a person can tell."""
    varies: bool = False
    """True where no key decides it, although one would tell."""


def guess_sides(
    codes: Mapping[str, NDArray[np.int64]],
    always_context: Sequence[str],
    context: Sequence[str],
    candidate: Sequence[str],
    fields: Sequence[str],
    item: str | None = None,
) -> dict[str, Guess]:
    """Return the side of each of the ``fields``.

    ``codes`` [R] are the values' numbers, of columns that are no fields too. ``context`` and
    ``candidate`` are columns that are known to be of a side, and keys: what they decide is of
    their side. Those ``always_context`` are moments. ``item`` is the one of ``candidate`` that is
    the id of items whose values are elsewhere.
    """
    keys: dict[Side, list[NDArray[np.int64]]] = {
        "context": _keys([codes[name] for name in context]),
        "candidate": _keys([codes[name] for name in candidate]),
    }
    named: dict[Side, str] = {
        "context": ", ".join(context),
        "candidate": ", ".join(candidate),
    }
    varying = {side: named[side] for side in keys if any(map(tells, keys[side]))}
    if item is not None and tells(codes[item]):
        # All that an item has is in its file, so what varies within its rows is the request's.
        varying = {"candidate": item}
    found: dict[str, Guess] = {}
    for name in fields:
        column = codes[name]
        if name in context or name in candidate:
            side: Side = "context" if name in context else "candidate"
            found[name] = Guess(side, f"given by --{side}", True)
        elif name in always_context:
            found[name] = Guess("context", "a moment is the request's", True)
        else:
            found[name] = _by_keys(name, column, keys, named, varying)
    return _both_sides(found)


def _by_keys(
    name: str,
    column: NDArray[np.int64],
    keys: Mapping[Side, list[NDArray[np.int64]]],
    named: Mapping[Side, str],
    varying: Mapping[Side, str],
) -> Guess:
    """Judge a column by what the keys decide, or by its name where they tell nothing.

    ``varying`` has the sides of the keys that tell, each with the names of its keys.
    """
    for side in keys:
        if any(decides(key, column) for key in keys[side]):
            return Guess(side, f"the same in all rows of {named[side]}", True)
    given = list(varying)
    if len(given) == 1:
        varies = f"it varies within the rows of {varying[given[0]]}"
        # A user's requests vary, and so do an item's places.
        if given[0] == "context" and is_context(name) and not is_candidate(name):
            return Guess("context", f"{varies}, but its name is a request's", False, True)
        if given[0] == "candidate" and is_candidate(name) and not is_context(name):
            return Guess("candidate", f"{varies}, but its name is a candidate's", False, True)
        return Guess("candidate" if given[0] == "context" else "context", varies, True, True)
    return _by_name(name, bool(given))


def _by_name(name: str, varies: bool) -> Guess:
    candidate, context = is_candidate(name), is_context(name)
    if candidate and not context:
        return Guess("candidate", "guessed by its name", False, varies)
    if context and not candidate:
        return Guess("context", "guessed by its name", False, varies)
    return Guess("context", "a guess", False, varies)


def _both_sides(found: dict[str, Guess]) -> dict[str, Guess]:
    """Give each side a column: the spec needs one."""
    for side, place in (("candidate", -1), ("context", 0)):
        if len(found) > 1 and all(guess.side != side for guess in found.values()):
            unsure = [name for name, guess in found.items() if not guess.sure] or list(found)
            chosen: Side = "candidate" if side == "candidate" else "context"
            found[unsure[place]] = Guess(chosen, "a guess: each side needs a field", False)
    return found


def _keys(columns: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return each column as a key, and all of them together."""
    if len(columns) < 2:
        return list(columns)
    together = columns[0]
    for column in columns[1:]:
        _, together = np.unique(together * (column.max() + 1) + column, return_inverse=True)
    return [*columns, together.astype(np.int64)]


def tells(key: NDArray[np.int64]) -> bool:
    """Tell whether enough rows share their key with others."""
    counts = np.bincount(key)
    return int(counts[counts > 1].sum()) >= ENOUGH_ROWS


def decides(key: NDArray[np.int64], column: NDArray[np.int64]) -> bool:
    """Tell whether all rows of a key have the same value of a column, but for few."""
    counts = np.bincount(key)
    shared = counts[key] > 1
    rows = int(shared.sum())
    if rows < ENOUGH_ROWS:
        return False
    key, column = key[shared], column[shared]
    width = int(column.max()) + 1
    pairs, of_pair = np.unique(key * width + column, return_counts=True)
    of_key = pairs // width
    first = np.flatnonzero(np.concatenate(([True], of_key[1:] != of_key[:-1])))
    agreeing = int(np.maximum.reduceat(of_pair, first).sum()) / rows
    usual = int(np.bincount(column).max()) / rows
    return agreeing >= DECIDED and 1 - agreeing <= SHARE_OF_THE_REST * (1 - usual)
