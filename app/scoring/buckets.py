"""Batches of any size → batches of a few fixed sizes, for a device whose graphs have fixed sizes.

A bucket is such a size: so many rows and so many contexts. A batch goes into the buckets that are
predicted to score it soonest; what it leaves of a bucket is filled with the padding row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from app.features.arrays import Floats, Indices
from app.features.graph_inputs import CONTEXTS, ROWS, Batch, graph_inputs, words_of
from app.features.layout import PADDING, Layout, RowShape
from app.scoring.cost import CostModel

SMALLEST_ROWS = 64
"""Rows of the smallest bucket."""
STEP = 4
"""Rows of a bucket over those of the next smaller one. Each bucket has a session of its own, with
the libraries' work space of tens of MB on a GPU."""
RUN_SECONDS = 0.002
"""Predicted time of the largest run that the batcher gathers: a short request may wait for one."""


class Bucket(NamedTuple):
    """A fixed size: rows, and contexts: one of all rows, or as many as there are rows."""

    rows: int
    contexts: int


def buckets(largest: int) -> list[Bucket]:
    """Return all buckets up to so many rows, rising."""
    sizes = [min(SMALLEST_ROWS, largest)]
    while sizes[-1] < largest:
        sizes.append(min(largest, sizes[-1] * STEP))
    return [Bucket(rows, contexts) for rows in sizes for contexts in sorted({1, rows})]


def axis_sizes(layout: Layout, shapes: tuple[RowShape, RowShape], bucket: Bucket) -> dict[str, int]:
    """Return the size of each axis of the graph that has a name; lists have all their places."""
    sizes = {CONTEXTS: bucket.contexts, ROWS: bucket.rows}
    lists = iter([*shapes[0].lists, *shapes[1].lists])
    for each in graph_inputs(layout):
        for axis in each.axes:
            if isinstance(axis, str) and axis not in sizes:
                start, stop = next(lists)
                sizes[axis] = stop - start
    return sizes


def own_names(
    layout: Layout, sizes: Mapping[str, int], axes: Mapping[str, Sequence[int | str | None]]
) -> dict[str, int]:
    """Return the sizes by the names that a graph has for its axes, of each input.

    Those are ours, but for some that torch's exporter made up in bundles of earlier versions.
    """
    found: dict[str, int] = {}
    for each in graph_inputs(layout):
        for axis, name in zip(each.axes, axes[each.name], strict=True):
            if isinstance(axis, str) and isinstance(name, str):
                found[name] = sizes[axis]
    return found


class Padder:
    """Lays one batch at a time into the graph's inputs, ``arrays`` by name, of fixed sizes.

    The arrays have room for the largest bucket.
    """

    def __init__(
        self, arrays: Mapping[str, Indices | Floats], context: RowShape, candidate: RowShape
    ) -> None:
        self._owners = arrays["row_context"]
        context_words, candidate_words = (
            words_of("context", context),
            words_of("candidate", candidate),
        )
        self._context, self._candidate = (
            [(arrays[name], start, stop) for name, start, stop in words]
            for words in (context_words, candidate_words)
        )

    def fill(self, batch: Batch, bucket: Bucket) -> None:
        """Lay a batch into the first places of a bucket, and the padding row into all others.

        Padding rows belong to the first context, so that all indices are inside.
        """
        for parts, rows, end in (
            (self._context, batch.context, bucket.contexts),
            (self._candidate, batch.candidate, bucket.rows),
        ):
            for array, start, stop in parts:
                # The words of numbers are the bits of float32.
                array[: len(rows)] = rows[:, start:stop].view(array.dtype)
                array[len(rows) : end] = PADDING
        self._owners[: len(batch.row_context)] = batch.row_context
        self._owners[len(batch.row_context) : bucket.rows] = 0


class Part(NamedTuple):
    """So many rows of a batch, and the bucket that they go into; None is the CPU's session."""

    rows: int
    bucket: Bucket | None


class Plan:
    """Divides batches so that they are predicted to be scored soonest.

    ``seconds`` are the measured times of all buckets; ``on_cpu`` predicts the CPU's time for rows
    of one context, or of many.
    """

    def __init__(
        self, seconds: Mapping[Bucket, float], on_cpu: Callable[[int, bool], float]
    ) -> None:
        self._seconds = seconds
        self._on_cpu = on_cpu
        self._kinds = {
            one: sorted(each for each in seconds if each.contexts == (1 if one else each.rows))
            for one in (True, False)
        }
        self.largest = max(each.rows for each in seconds)
        self._known: dict[tuple[int, bool], tuple[float, Sequence[Part]]] = {}

    def parts(self, rows: int, one_context: bool) -> Sequence[Part]:
        """Return the parts of a batch, in the order of its rows."""
        full, rest = divmod(rows, self.largest)
        whole = [Part(self.largest, self._kinds[one_context][-1])] * full
        return [*whole, *self._soonest(rest, one_context)[1]] if rest else whole

    def device_parts(self, rows: int, one_context: bool) -> Sequence[Part]:
        """Return the parts of a batch of which none is the CPU's: the largest buckets first."""
        kind = self._kinds[one_context]
        full, rest = divmod(rows, self.largest)
        parts = [Part(self.largest, kind[-1])] * full
        if rest:
            parts.append(Part(rest, next(each for each in kind if each.rows >= rest)))
        return parts

    def first_on_device(self) -> int | None:
        """Return the rows of one context from which a batch, up to the largest, leaves the CPU.

        None if no such batch does.
        """
        for rows in range(1, self.largest + 1):
            if any(part.bucket is not None for part in self.parts(rows, True)):
                return rows
        return None

    def _soonest(self, rows: int, one: bool) -> tuple[float, Sequence[Part]]:
        """Return the least seconds for up to ``largest`` rows, and their parts."""
        if (known := self._known.get((rows, one))) is not None:
            return known
        choices: list[tuple[float, Sequence[Part]]] = [
            (self._on_cpu(rows, one), [Part(rows, None)])
        ]
        kind = self._kinds[one]
        fits = next(each for each in kind if each.rows >= rows)
        choices.append((self._seconds[fits], [Part(rows, fits)]))
        smaller = [each for each in kind if each.rows < rows]
        if smaller:
            seconds, parts = self._soonest(rows - smaller[-1].rows, one)
            first = Part(smaller[-1].rows, smaller[-1])
            choices.append((self._seconds[smaller[-1]] + seconds, [first, *parts]))
        found = min(choices, key=lambda choice: choice[0])
        self._known[rows, one] = found
        return found

    def gathered_rows(self, seconds: float = RUN_SECONDS) -> int:
        """Return the rows of the largest bucket whose run is predicted to take no longer.

        By the cost model, fitted to all buckets of one context. At least the smallest bucket's.
        """
        cost = CostModel(decay=1.0)
        for each in self._kinds[True]:
            cost.observe(each.rows, self._seconds[each])
        within = [each.rows for each in self._kinds[True] if cost.seconds(each.rows) <= seconds]
        return max(within, default=self._kinds[True][0].rows)


def fewer_than(rows: int) -> Callable[[int, bool], float]:
    """Return the prediction by which the CPU scores all batches of fewer rows, and no other."""
    return lambda count, one_context: 0.0 if count < rows else inf


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Return some rows of a batch, with the contexts that they have."""
    owners = batch.row_context[start:stop]
    if len(batch.context) == 1 or (
        start == 0 and stop == len(batch.candidate) >= len(batch.context)
    ):
        return Batch(batch.context, batch.candidate[start:stop], owners)
    used, places = np.unique(owners, return_inverse=True)
    return Batch(batch.context[used], batch.candidate[start:stop], places.astype(np.int32))
