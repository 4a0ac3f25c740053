"""The terms of a logit: first-order weights and pairs, by the graph that export wrote for them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Explainable
from app.errors import BundleError
from app.features.graph_inputs import Batch
from app.features.layout import Layout
from app.scoring.engine import Engine, run

BIAS, FIRST_ORDER, PAIRS = "bias", "first_order", "pairs"
"""Names of the graph's outputs."""
Numbers = NDArray[np.float64]


class Terms(NamedTuple):
    """Terms of N rows, in logits; slots are those of ``Layout.slots``."""

    bias: float
    first_order: Numbers
    """[N, S]: of each slot."""
    pairs: Numbers
    """[N, P]: of each pair of slots that ``TermsGraph.pairs`` names."""

    def total(self) -> Numbers:
        """Return the sum [N] of a row's terms."""
        total: Numbers = self.bias + self.first_order.sum(1) + self.pairs.sum(1)
        return total


class TermsGraph:
    """A session of ``explain.onnx``, on the CPU."""

    def __init__(
        self, engine: Engine, graph: Path, explainable: Explainable, layout: Layout
    ) -> None:
        """Load the graph; ``engine`` checks indices and cuts batches.

        Raises:
            BundleError: it cannot be loaded, or gives something else than it should.
        """
        self._engine = engine
        self._slots = len(layout.slots)
        self.pairs = pairs_of(explainable, layout)
        """The two slots of each pair, as places in ``Layout.slots``."""
        self._session = engine.load(graph)
        if {each.name for each in self._session.get_outputs()} != {BIAS, FIRST_ORDER, PAIRS}:
            raise BundleError(f"{graph.name} does not give {BIAS}, {FIRST_ORDER} and {PAIRS}")
        self._takes = {each.name for each in self._session.get_inputs()}

    def of(self, batch: Batch) -> Terms:
        """Return the terms of every row.

        Raises:
            EngineFailed: an index is outside the table, or the run failed.
            BundleError: the graph does not give a number for each slot and pair.
        """
        self._engine.check_bounds(batch)
        arrays = {
            name: array for name, array in self._engine.feed(batch).items() if name in self._takes
        }
        bias, first_order, pairs = run(self._session, [BIAS, FIRST_ORDER, PAIRS], arrays)
        rows = len(batch.candidate)
        if first_order.shape != (rows, self._slots) or pairs.shape != (rows, len(self.pairs)):
            raise BundleError("the graph of the terms is not that of the bundle's slots")
        return Terms(float(bias[0]), first_order.astype(np.float64), pairs.astype(np.float64))


def pairs_of(explainable: Explainable, layout: Layout) -> NDArray[np.int64]:
    """Return the two slots of each pair [P, 2], as places in ``Layout.slots``."""
    if explainable.pairs:
        found = [*combinations(range(len(layout.slots)), 2)]
    else:
        place: Mapping[str, int] = {slot.name: i for i, slot in enumerate(layout.slots)}
        found = [(place[left], place[right]) for left, right in explainable.crosses]
    return np.array(found, np.int64).reshape(-1, 2)
