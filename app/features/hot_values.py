"""Vocabularies that are too large for memory: their hot values, in front of the mapped arrays.

The arrays of a bundle are mapped, so all processes share their pages. A look-up there costs
microseconds, one in memory a tenth of that, and most requests ask for few of the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.features.encoder import Encoder
from app.features.layout import Slot
from app.features.spec import Categorical, FeatureSpec, MultiCategorical
from app.features.vocabulary import Integers, Texts, Vocabulary

WHOLE_VALUES = 2_000_000
"""Values of a vocabulary up to which memory holds all of them, in some 400 MB."""
KEPT_VALUES = 1_000_000
"""Values of a larger vocabulary that memory holds, in at most 200 MB."""
KEPT_OF_SLOT = 2**16
"""Values of one slot that memory holds. By Zipf's law with an exponent of 1.1 these are 84 % of the
look-ups of ten million values; four times as many would be 89 %."""
GENERATION = 4_096
"""Values of a slot that are remembered by use before those without use are dropped."""


class HotValues:
    """Table rows of one slot's values: the hot ones in ``table``, all others by :meth:`find`.

    ``table`` holds the values that were the most frequent ones in the training part. It does not
    grow, so that processes that share its memory keep sharing it.
    """

    def __init__(self, slot: Slot, values: Integers | Texts, kept: int) -> None:
        self.table: dict[Any, int] = values.lookup(kept)
        self._find = values.finder()
        self._oov = slot.oov
        # Values by use: those of the last generation that are asked for again stay.
        self._young: dict[Any, int] = {}
        self._old: dict[Any, int] = {}

    def find(self, key: Any) -> int:
        """Return the row of a canonical value that ``table`` lacks; that of OOV if unknown."""
        row = self._young.get(key)
        if row is not None:
            return row
        row = self._old.get(key)
        if row is None:
            row = self._find(key)
            if row is None:
                # Callers may make up any number of unknown values: they are not remembered.
                return self._oov
        if len(self._young) >= GENERATION:
            self._old, self._young = self._young, {}
        self._young[key] = row
        return row


def hot_values(spec: FeatureSpec, vocabulary: Vocabulary) -> Mapping[str, HotValues]:
    """Return by name the slots of which memory holds only a part, none in a small vocabulary.

    ``KEPT_VALUES`` are shared out evenly; a slot that needs less than its share is whole and
    leaves the rest to the larger ones.
    """
    categorical = {
        field.name for field in spec.fields if isinstance(field, Categorical | MultiCategorical)
    }
    found: list[tuple[int, Slot, Integers | Texts]] = []
    for slot in vocabulary.layout.slots:
        values = vocabulary.slots[slot.name]
        if slot.shares is not None or slot.field not in categorical:
            continue
        if isinstance(values, Integers | Texts):
            found.append((len(values.rows), slot, values))
    if sum(size for size, _, _ in found) <= WHOLE_VALUES:
        return {}
    found.sort(key=lambda each: each[0])
    hot, left = {}, KEPT_VALUES
    for number, (size, slot, values) in enumerate(found):
        kept = min(size, KEPT_OF_SLOT, left // (len(found) - number))
        left -= kept
        if kept < size:
            hot[slot.name] = HotValues(slot, values, kept)
    return hot


def serving_encoder(spec: FeatureSpec, vocabulary: Vocabulary) -> Encoder:
    """Return an encoder that holds the whole vocabulary in memory, or its hot values if large."""
    hot = hot_values(spec, vocabulary)
    tables = {name: values.table for name, values in hot.items()}
    finds = {name: values.find for name, values in hot.items()}
    return Encoder(spec, vocabulary, tables, finds, in_bulk=True)
