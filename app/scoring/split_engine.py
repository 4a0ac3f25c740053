"""Encoded rows → item parts, once for each item; item parts → scores, for each request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.bundle.manifest import ItemParts
from app.errors import BundleError
from app.features.arrays import Floats, Indices
from app.features.graph_inputs import FIRST_CUT, Batch, Scores, cut, part_name
from app.features.layout import RowShape
from app.scoring.engine import Engine, run, scores_of


class SplitEngine:
    """The two sessions of a split graph, on the CPU.

    They are those of the graph that ``engine`` runs, and give its scores. ``widths`` are the
    numbers of an item in each array of its part; the last array holds the vectors of the first
    cut, where the network ``has_first_cut``.
    """

    def __init__(
        self,
        engine: Engine,
        graphs: tuple[Path, Path],
        parts: ItemParts,
        context: RowShape,
        candidate: RowShape,
    ) -> None:
        """Load the graphs.

        Raises:
            BundleError: a graph cannot be loaded, or has other inputs or outputs than it should.
        """
        self.tolerance, self.precision = engine.tolerance, engine.precision
        self.has_first_cut = parts.first_cut is not None
        self.widths = (*parts.widths, *([parts.first_cut] if parts.first_cut else []))
        self.part_arrays = len(parts.widths)
        """Arrays that scoring takes: the first of the item part."""
        self._engine = engine
        self._shapes = context, candidate
        self._takes = parts.takes
        self._names = [part_name(number) for number in range(len(parts.widths))]
        self._gives = [*self._names, *([FIRST_CUT] if self.has_first_cut else [])]
        self._candidate, self._combine = map(engine.load, graphs)
        self._needs = {each.name for each in self._candidate.get_inputs()}
        rows = {each.name: each.shape[1:] for each in self._combine.get_inputs()}
        given = {each.name for each in self._candidate.get_outputs()}
        if not (rows.keys() >= {*self._names, *self._takes} and given == set(self._gives)):
            raise BundleError("the split graphs are not those that the manifest describes")
        self._rows = [rows[name] for name in self._names]
        inputs: dict[str, Indices | Floats] = {}
        cut(inputs, "context", np.zeros((1, context.width), np.int32), context)
        self._unread = [name for name in inputs if name not in rows]
        """Inputs of a context that no score depends on: a side of lists has no single values."""

    def item_parts(self, rows: Indices) -> list[Floats]:
        """Return the item part of encoded rows [N, width]: arrays [N, numbers].

        Raises:
            EngineFailed: an index is outside the table, or the run failed.
        """
        shapes = self._shapes
        none = np.zeros((1, shapes[0].width), np.int32)
        self._engine.check_bounds(Batch(none, rows, np.zeros(len(rows), np.int32)))
        arrays: dict[str, Indices | Floats] = {}
        cut(arrays, "candidate", rows, shapes[1])
        arrays = {name: array for name, array in arrays.items() if name in self._needs}
        found = run(self._candidate, self._gives, arrays)
        pairs = zip(found, self.widths, strict=True)
        return [np.reshape(array, (len(rows), width)) for array, width in pairs]

    def score(self, batch: Batch, parts: Sequence[Floats]) -> Scores:
        """Score a batch whose candidates have these item parts.

        Raises:
            EngineFailed: as ``Engine.score``.
        """
        self._engine.check_bounds(batch)
        return scores_of(self._combine, self._feed(batch, parts), len(batch.candidate))

    def vector(self, context: Indices) -> Floats:
        """Return the vector of a context's row [1, width] in the first cut.

        Its inner product with an item's vector orders items.
        """
        rows = np.zeros((0, self._shapes[1].width), np.int32)
        batch = Batch(context, rows, np.zeros(0, np.int32))
        none = [np.zeros((0, width), np.float32) for width in self.widths]
        vectors, *_ = run(self._combine, [FIRST_CUT], self._feed(batch, none))
        vector: Floats = vectors[0]
        return vector

    def _feed(self, batch: Batch, parts: Sequence[Floats]) -> dict[str, Indices | Floats]:
        context, candidate = self._shapes
        arrays: dict[str, Indices | Floats] = {}
        if self._takes:
            cut(arrays, "candidate", batch.candidate, candidate)
            arrays = {name: arrays[name] for name in self._takes}
        cut(arrays, "context", batch.context, context)
        for name in self._unread:
            del arrays[name]
        arrays["row_context"] = batch.row_context
        for name, part, row in zip(self._names, parts, self._rows, strict=False):
            arrays[name] = part.reshape(len(part), *row)
        return arrays


class ThroughParts:
    """Scores whole rows through their item parts: what a catalogue's items go through, at once."""

    def __init__(self, split: SplitEngine) -> None:
        self.tolerance = split.tolerance
        self._split = split

    def score(self, batch: Batch) -> Scores:
        """Score every row.

        Raises:
            EngineFailed: as ``Engine.score``.
        """
        return self._split.score(batch, self._split.item_parts(batch.candidate))
