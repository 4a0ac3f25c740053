"""Vocabularies, bucket edges and scales, learned from the values of the training part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.features.canonical import KEYS, log_squared_keys, seconds, time_parts
from app.features.layout import RESERVED_ROWS
from app.features.null_values import null_values_of
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from app.features.vocabulary import (
    Edges,
    Integers,
    Scale,
    SlotVocabulary,
    Texts,
    Vocabulary,
    arrange,
)
from model.data.values import field_values

Counts = Counter[Any]
Weighed = tuple[Sequence[Any], NDArray[np.int64]]
"""Values, and in how many rows each is."""


FieldColumns = Callable[[str], Iterable[pl.Series]]
"""Gives the raw values of a field by its name, in pieces of any length and as often as asked."""


def learn_vocabulary(
    spec: FeatureSpec, columns: FieldColumns, reused: Mapping[str, SlotVocabulary] | None = None
) -> Vocabulary:
    """Learn every slot's values from the ``columns`` of the training part, and nothing else.

    Values rarer than the field's ``min_count`` are left out: they are OOV. The more frequent a
    value, the earlier its row: what is looked up most lies close together, in the table and in
    the service's memory. The same rows in any order give the same vocabulary. Buckets and
    scales that are ``reused``, by the field's name, are taken as they are. In memory are the
    distinct values of the categorical fields, and of one numeric field at a time.
    """
    known: dict[str, Counts] = {}
    fixed: dict[str, Edges | Scale] = {}
    for field in spec.fields:
        before = (reused or {}).get(field.name)
        if isinstance(before, Edges | Scale):
            fixed[field.name] = before
        elif isinstance(field, Numeric) and field.encoding != "log_squared":
            fixed[field.name] = _of_numbers(field, _weighed(field, columns))
        else:
            least = 1 if isinstance(field, Time) else field.min_count
            counts: dict[str, Counts] = {name: Counter() for name in field.slot_names}
            for values, weights in _weighed(field, columns):
                _count(field, values, weights, counts)
            for name, found in counts.items():
                known[name] = Counter({key: n for key, n in found.items() if n >= least})
    sizes = {name: len(found) for name, found in known.items()}
    for name, part in fixed.items():
        sizes[name] = len(part.edges) + 1 if isinstance(part, Edges) else 1
    layout = arrange(spec, sizes)
    slots: dict[str, SlotVocabulary] = {}
    for slot in layout.slots:
        if slot.name in fixed:
            slots[slot.name] = fixed[slot.name]
        else:
            slots[slot.name] = _pack(known.pop(slot.name), slot.first + RESERVED_ROWS)
    return Vocabulary(layout, slots)


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


def _weighed(field: Field, columns: FieldColumns) -> Iterator[Weighed]:
    """Yield each piece's distinct values and the number of rows that have each."""
    for column in columns(field.name):
        values, codes = field_values(field, column)
        yield values, np.bincount(codes, minlength=len(values))


def _pack(counts: Counts, first: int) -> Integers | Texts:
    """Give keys consecutive rows from ``first`` on, by falling count and then by key."""
    texts = isinstance(next(iter(counts), None), str)
    keys = sorted(counts, key=str.encode) if texts else sorted(counts)
    order = np.argsort([-counts[key] for key in keys], kind="stable")
    rows = np.empty(len(keys), np.int32)
    rows[order] = np.arange(first, first + len(keys))
    return Texts.of(keys, rows) if texts else Integers.of(keys, rows)


def _count(
    field: Field, values: Sequence[Any], weights: NDArray[np.int64], counts: dict[str, Counts]
) -> None:
    """Add the canonical keys of each of the field's slots to their counts."""
    weighed = list(zip(values, weights.tolist(), strict=True))
    match field:
        case Categorical():
            key = KEYS[field.dtype]
            for value, weight in weighed:
                if not (value is None or (value == "" and field.empty_is_missing)):
                    counts[field.name][key(value)] += weight
        case MultiCategorical():
            key, nulls = KEYS[field.dtype], null_values_of(field)
            for value, weight in weighed:
                present = [
                    item
                    for item in value or ()
                    if not (item == "" and field.empty_is_missing) and item not in nulls
                ]
                for item in present[: field.max_values]:
                    counts[field.name][key(item)] += weight
        case Numeric():
            known = [(value, weight) for value, weight in weighed if value is not None]
            numbers = np.array([value for value, _ in known], np.float64)
            for found, (_, weight) in zip(log_squared_keys(numbers).tolist(), known, strict=True):
                counts[field.name][found] += weight
        case Time():
            zone = ZoneInfo(field.timezone)
            for value, weight in weighed:
                if value is None or value == "":
                    continue
                parts = time_parts(seconds(value, zone, field.format), zone, field.parts)
                for name, part in zip(field.slot_names, parts, strict=True):
                    counts[name][part] += weight


def _of_numbers(field: Numeric, pieces: Iterable[Weighed]) -> Edges | Scale:
    match field.encoding:
        case "edges":
            return Edges(np.array(field.edges, np.float32))
        case "scaled":
            return Scale(mean_std(*distinct_numbers(pieces)))
        case _:
            return Edges(quantile_edges(*distinct_numbers(pieces), field.buckets))


def distinct_numbers(
    pieces: Iterable[Weighed],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the distinct float32 numbers, ascending, and in how many rows each is."""
    known, count = np.zeros(0, np.float32), np.zeros(0)
    waiting: list[tuple[NDArray[np.float32], NDArray[np.float64]]] = []
    for values, weights in pieces:
        present = [(v, w) for v, w in zip(values, weights.tolist(), strict=True) if v is not None]
        numbers = np.array([v for v, _ in present], np.float64).astype(np.float32)
        waiting.append((numbers, np.array([w for _, w in present], np.float64)))
        # Not at every piece, and never many more than there are distinct ones.
        if sum(len(numbers) for numbers, _ in waiting) > len(known):
            known, count = _merged([(known, count), *waiting])
            waiting = []
    return _merged([(known, count), *waiting])


def _merged(
    pieces: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    known, place = np.unique(np.concatenate([n for n, _ in pieces]), return_inverse=True)
    count = np.concatenate([c for _, c in pieces])
    # Whole numbers, so that their order is of no matter to the sums.
    return known, np.bincount(place, weights=count, minlength=len(known)).astype(np.float64)


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
