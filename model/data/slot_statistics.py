"""Statistics of every slot of the training part, for comparison with what serving sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import SlotHistogram, SlotStatistics
from app.features.layout import RESERVED_ROWS, Slot
from app.features.vocabulary import Edges, SlotVocabulary, Vocabulary
from model.data.dataset import Dataset
from model.data.slot_counts import count_slots

FREQUENT = 50
"""Values that a histogram counts one by one; the others are its rest."""


def statistics(vocabulary: Vocabulary, data: Dataset) -> dict[str, SlotStatistics]:
    """Return the shares of missing and OOV values of every slot, and its histogram."""
    result = {}
    rows = max(1, len(data))
    for counts in count_slots(vocabulary.layout, data):
        slot = counts.slot
        result[slot.name] = SlotStatistics(
            round(int(counts.indices[0]) / rows, 6),
            round(counts.any_oov / rows, 6),
            slot.size,
            _histogram(slot, vocabulary.slots[slot.name], counts.indices),
        )
    return result


def _histogram(slot: Slot, values: SlotVocabulary, indices: NDArray[np.int64]) -> SlotHistogram:
    missing, oov, *known = indices.tolist()
    if isinstance(values, Edges):
        return SlotHistogram(missing, oov, buckets=tuple(known))
    counted = indices[RESERVED_ROWS:]
    order = np.argsort(-counted, kind="stable")[:FREQUENT]
    return SlotHistogram(
        missing,
        oov,
        frequent=tuple((slot.first + RESERVED_ROWS + order).tolist()),
        counts=tuple(counted[order].tolist()),
        rest=int(counted.sum() - counted[order].sum()),
    )
