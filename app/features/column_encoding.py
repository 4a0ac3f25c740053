"""Columns of one field → words: what every field encoder does, and the problems of its values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from app.errors import ValueProblem
from app.features.arrays import Indices

Misses = dict[tuple[str, Any], int]
"""Values that a table lacks although the vocabulary may hold them: (slot, key) → place.

Until the row of a miss is known, the complement of its place, a negative number, stands for it in
the encoded row. Without a ``Misses`` a ``Find`` looks a value up that its slot's table lacks; a
table without one is complete, and the value is OOV.
"""


class FieldEncoder(Protocol):
    """Encodes the values of one field into ``width`` words each.

    The words are indices; of a scaled field the second is the number's bits.
    """

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
    """A column with values that break a rule: the row and the problem of each."""

    def __init__(self, problems: Sequence[tuple[int, ValueProblem]]) -> None:
        row, first = problems[0]
        super().__init__(f"row {row}: {first.problem}")
        self.problems = tuple(problems)


def one_by_one(encoder: FieldEncoder, values: Sequence[Any], misses: Misses | None) -> Indices:
    """Encode a column value by value and collect the problems with their rows."""
    result = np.empty((len(values), encoder.width), np.int32)
    settle(encoder, values, range(len(values)), result, misses)
    return result


def settle(
    encoder: FieldEncoder,
    values: Sequence[Any],
    rows: Iterable[int],
    result: Indices,
    misses: Misses | None,
) -> None:
    """Encode the values of some rows of a column into ``result`` [N, width].

    Raises:
        ColumnProblem: at least one of these values breaks a rule.
    """
    problems: list[tuple[int, ValueProblem]] = []
    for row in rows:
        try:
            result[row] = encoder.one(values[row], misses)
        except ValueProblem as problem:
            problems.append((row, problem))
    if problems:
        raise ColumnProblem(problems)
