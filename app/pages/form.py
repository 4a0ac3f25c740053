"""The form of a request: the fields of a bundle, their known values, and golden requests."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.bundle import Bundle, Example
from app.errors import NotFound
from app.features.layout import Slot
from app.features.spec import Categorical, Field, MultiCategorical, Numeric, Side
from app.features.vocabulary import Edges, Integers, Scale, SlotVocabulary, Texts

MOST_VALUES = 20
"""Values that are offered for what was typed."""
MOST_EXAMPLES, MOST_CANDIDATES, LEAST_CANDIDATES = 12, 12, 6
"""Golden requests to start from, and candidates of each."""
INTEGER_DIGITS = 20
DEVIATIONS = 3.0
"""Standard deviations about the mean that are shown of a scaled number."""


def form(bundle: Bundle, public: bool) -> dict[str, Any]:
    """Describe the fields and golden requests of a bundle.

    A ``public`` form has no values of context fields: they name people.
    """
    slots = {slot.field: slot for slot in bundle.vocabulary.layout.slots}
    return {
        "version": bundle.version,
        "network": bundle.manifest.network,
        "fields": [
            _described(field, bundle.vocabulary.slots[slots[field.name].name], public)
            for field in bundle.spec.fields
        ],
        "examples": [
            {
                "context": {} if public else each.context,
                "candidates": _candidates(each, bundle.examples),
            }
            for each in bundle.examples[: 1 if public else MOST_EXAMPLES]
        ],
    }


def _candidates(example: Example, others: Iterable[Example]) -> list[dict[str, Any]]:
    """The candidates of a request, and of others where it has too few to be ranked."""
    found = list(example.candidates[:MOST_CANDIDATES])
    for other in others:
        if len(found) >= LEAST_CANDIDATES:
            break
        found += [each for each in other.candidates[:1] if each not in found]
    return found


def _described(field: Field, vocabulary: SlotVocabulary, public: bool) -> dict[str, Any]:
    listed = isinstance(field, Categorical | MultiCategorical)
    found: dict[str, Any] = {
        "name": field.name,
        "side": field.side,
        "kind": type(field).__struct_config__.tag,
        "dtype": getattr(field, "dtype", None),
        "required": field.required,
        "parts": list(getattr(field, "parts", ())),
        "max_values": getattr(field, "max_values", None),
        "range": _range(field, vocabulary),
        "completes": listed and may_show(field.side, public),
    }
    if listed and isinstance(vocabulary, Integers | Texts):
        found["known"] = len(vocabulary.rows)
    return found


def _range(field: Field, vocabulary: SlotVocabulary) -> list[float] | None:
    """The numbers that training saw as usual; None where it does not follow from the buckets."""
    if not isinstance(field, Numeric):
        return None
    if isinstance(vocabulary, Scale):
        away = DEVIATIONS * vocabulary.std
        return [vocabulary.mean - away, vocabulary.mean + away]
    if isinstance(vocabulary, Edges) and len(vocabulary.edges):
        return [float(vocabulary.edges[0]), float(vocabulary.edges[-1])]
    if isinstance(vocabulary, Integers) and len(vocabulary.keys):
        return [_of_squared_log(int(vocabulary.keys[end])) for end in (0, -1)]
    return None


def _of_squared_log(key: int) -> float:
    """The number at the start of a bucket of the ``log_squared`` encoding."""
    return math.exp(math.sqrt(key)) if key > 2 else float(key)


def may_show(side: Side, public: bool) -> bool:
    """Tell whether known values of a side's fields may be shown: those of contexts name people."""
    return side == "candidate" or not public


def known_values(bundle: Bundle, name: str, prefix: str, public: bool) -> list[str]:
    """Return known values of a field that begin with a text, the most frequent first.

    It reads the bundle's arrays, which may be mapped.

    Raises:
        NotFound: the field has no list of values, or none that may be shown.
    """
    field = next((each for each in bundle.spec.fields if each.name == name), None)
    slot = next((each for each in bundle.vocabulary.layout.slots if each.field == name), None)
    vocabulary = bundle.vocabulary.slots[slot.name] if slot else None
    listed = isinstance(field, Categorical | MultiCategorical)
    if field is None or not listed or not isinstance(vocabulary, Integers | Texts):
        raise NotFound("there is no field of this name with a list of values")
    if not may_show(field.side, public):
        raise NotFound("values of context fields are shown on the admin port only")
    places = _beginning_with(vocabulary, prefix)
    rows = vocabulary.rows[places]
    if len(rows) > MOST_VALUES:
        lowest = np.argpartition(rows, MOST_VALUES)[:MOST_VALUES]
        places, rows = places[lowest], rows[lowest]
    texts = vocabulary.texts(places[np.argsort(rows)])
    return [text.decode("utf-8", "replace") for text in texts]


def _beginning_with(vocabulary: Integers | Texts, prefix: str) -> NDArray[np.int64]:
    if not prefix:
        return np.arange(len(vocabulary.rows))
    if isinstance(vocabulary, Texts):
        start = _first_text(vocabulary, prefix.encode())
        end = _first_text(vocabulary, prefix.encode() + b"\xff" * 4)
        return np.arange(start, end)
    negative, digits = prefix.startswith("-"), prefix.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        return np.arange(0)
    pieces = []
    for more in range(INTEGER_DIGITS - len(digits) + 1):
        low, high = int(digits) * 10**more, (int(digits) + 1) * 10**more - 1
        pieces.append(_between(vocabulary, *((-high, -low) if negative else (low, high))))
    return np.unique(np.concatenate(pieces)) if pieces else np.arange(0)


def _between(vocabulary: Integers, low: int, high: int) -> NDArray[np.int64]:
    """The places of the keys from ``low`` to ``high``."""
    small, large, bound = vocabulary.keys, vocabulary.large, 2**63
    found = []
    if low < bound:
        first = np.searchsorted(small, max(low, -bound))
        found.append(np.arange(first, np.searchsorted(small, min(high, bound - 1), "right")))
    if high >= bound and low < 2**64:
        first = np.searchsorted(large, np.uint64(max(low, bound)))
        last = np.searchsorted(large, np.uint64(min(high, 2**64 - 1)), "right")
        found.append(len(small) + np.arange(first, last))
    return np.concatenate(found) if found else np.arange(0)


def _first_text(vocabulary: Texts, wanted: bytes) -> int:
    """The first place whose key is not below ``wanted``, by bisection."""
    low, high = 0, len(vocabulary.rows)
    while low < high:
        middle = (low + high) // 2
        [text] = vocabulary.texts(np.array([middle]))
        if text < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def slot_names(bundle: Bundle, slot: Slot, indices: NDArray[np.int64]) -> list[str]:
    """Return the known values of table rows of a slot, empty where a row has none."""
    vocabulary = bundle.vocabulary.slots[slot.name]
    if not isinstance(vocabulary, Integers | Texts):
        return [""] * len(indices)
    order = np.argsort(vocabulary.rows)
    spots = np.searchsorted(vocabulary.rows, indices, sorter=order)
    places = order[np.minimum(spots, len(order) - 1)] if len(order) else np.zeros(0, np.int64)
    texts = vocabulary.texts(places)
    return [text.decode("utf-8", "replace") for text in texts]
