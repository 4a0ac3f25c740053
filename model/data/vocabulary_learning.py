"""Vocabularies, bucket edges and scales, learned from the counts of the training part's values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.features.arrangement import arrange
from app.features.layout import RESERVED_ROWS
from app.features.spec import FeatureSpec, Numeric, attended
from app.features.vocabulary import (
    Edges,
    Integers,
    Scale,
    SlotVocabulary,
    Texts,
    Vocabulary,
    text_index,
)
from model.data.value_counts import COUNT, KEY, LARGE, MergedCounts, fractions_of, has_fractions

_PACKED_AT_ONCE = 2**17


def learn_vocabulary(
    spec: FeatureSpec, counts: MergedCounts, reused: Mapping[str, SlotVocabulary] | None = None
) -> Vocabulary:
    """Learn every slot's values from their counts, and nothing else.

    Values rarer than the field's ``min_count`` are not among the counts: they are OOV. The more
    frequent a value, the earlier its row: what is looked up most lies close together, in the table
    and in the service's memory. The same rows in any order give the same vocabulary. Buckets and
    scales that are ``reused``, by the field's name, are taken as they are. Beside the vocabulary
    the counts of one slot at a time are in memory. A list that attends to a field has that field's
    values, whatever its own are.
    """
    slots: dict[str, SlotVocabulary] = {}
    place = 0
    for field in spec.fields:
        before = (reused or {}).get(field.name)
        if isinstance(before, Edges | Scale):
            slots[field.name] = before
        elif isinstance(field, Numeric) and has_fractions(field):
            slots[field.name] = _of_numbers(field, counts, place)
        elif attended(field) is None:
            for number, name in enumerate(field.slot_names, place):
                slots[name] = _pack(counts, number)
        place += len(field.slot_names)
    sizes = {
        name: len(each.edges) + 1
        if isinstance(each, Edges)
        else 1
        if isinstance(each, Scale)
        else len(each.rows)
        for name, each in slots.items()
    }
    layout = arrange(spec, sizes)
    for slot in layout.slots:
        found = slots[slot.source]
        if slot.shares is None and isinstance(found, Integers | Texts):
            # Rows were counted from 0 until the sizes of the slots before were known.
            found.rows[:] += slot.first + RESERVED_ROWS
    return Vocabulary(layout, {slot.name: slots[slot.source] for slot in layout.slots})


def reused_numbers(spec: FeatureSpec, before: Bundle) -> dict[str, SlotVocabulary]:
    """Return the buckets and scales that a warm start keeps from a bundle, by the field's name.

    The weight of a bucket has its meaning from the bucket's edges. A field that the spec describes
    otherwise than the bundle learns its own.
    """
    fields = {field.name: field for field in before.spec.fields}
    return {
        field.name: vocabulary
        for field in spec.fields
        if fields.get(field.name) == field
        and isinstance(vocabulary := before.vocabulary.slots.get(field.name), Edges | Scale)
    }


def _pack(counts: MergedCounts, slot: int) -> Integers | Texts:
    """Give keys consecutive rows from 0 on, by falling count and then by key."""
    texts = counts.lines("texts", slot)
    if texts.height:
        # By bytes, as polars compares texts.
        sorted_texts = texts.sort(KEY)
        return _texts(sorted_texts[KEY], _rows(sorted_texts[COUNT]))
    numbers = counts.lines("numbers", slot).sort(LARGE, KEY)
    keys, large = numbers[KEY].to_numpy(), numbers[LARGE].to_numpy()
    return Integers(keys[~large].copy(), keys[large].view(np.uint64), _rows(numbers[COUNT]))


def _rows(counts: pl.Series) -> NDArray[np.int32]:
    order = np.argsort(-counts.to_numpy(), kind="stable")
    rows = np.empty(len(order), np.int32)
    rows[order] = np.arange(len(order))
    return rows


def _texts(keys: pl.Series, rows: NDArray[np.int32]) -> Texts:
    """Pack sorted keys as :meth:`Texts.of` does, which needs each of them as an object."""
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(keys.str.len_bytes().to_numpy(), out=offsets[1:])
    blob = np.empty(int(offsets[-1]), np.uint8)
    place = 0
    for piece in _pieces(keys):
        content = b"".join(piece)
        blob[place : place + len(content)] = np.frombuffer(content, np.uint8)
        place += len(content)
    every = (key for piece in _pieces(keys) for key in piece)
    return Texts(blob, offsets, rows, text_index(every, len(keys)))


def _pieces(keys: pl.Series) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _PACKED_AT_ONCE):
        yield keys.slice(start, _PACKED_AT_ONCE).cast(pl.Binary).to_list()


def _of_numbers(field: Numeric, counts: MergedCounts, slot: int) -> Edges | Scale:
    if field.encoding == "edges":
        return Edges(np.array(field.edges, np.float32))
    known, n = fractions_of(counts.lines("numbers", slot))
    if field.encoding == "scaled":
        return Scale(mean_std(known, n))
    return Edges(quantile_edges(known, n, field.buckets))


def mean_std(known: NDArray[np.float32], count: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the mean and the standard deviation of counted numbers, as float32 [2].

    The deviation is 1 where it would be zero: of a single value, or of none.
    """
    if not len(known):
        return np.array([0, 1], np.float32)
    number = known.astype(np.float64)
    mean = np.average(number, weights=count)
    std = np.float32(np.sqrt(np.average((number - mean) ** 2, weights=count)))
    return np.array([mean, std if std > 0 else 1], np.float32)


def quantile_edges(
    known: NDArray[np.float32], count: NDArray[np.float64], buckets: int
) -> NDArray[np.float32]:
    """Return at most ``buckets`` - 1 edges that cut counted ascending numbers into equal shares.

    An edge is the float32 midpoint between two distinct neighbours, so no training value
    lies on one unless its neighbour is the next float32.
    """
    if not len(known):
        return np.zeros(0, np.float32)
    reached = np.cumsum(count)
    targets = reached[-1] * np.arange(1, buckets) / buckets
    below = np.unique(np.searchsorted(reached, targets))
    below = below[below < len(known) - 1]
    low, high = known[below].astype(np.float64), known[below + 1].astype(np.float64)
    middle = ((low + high) / 2).astype(np.float32)
    edges: NDArray[np.float32] = np.where(middle > known[below], middle, known[below + 1])
    return edges
