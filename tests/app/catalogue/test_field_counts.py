"""What the spec makes no use of is counted, and named once."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.catalogue.field_counts import MOST_NAMES, FieldCounts
from app.features.encoder import Encoder


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    opened = Bundle.open(tiny_bundle)
    return Encoder(opened.spec, opened.vocabulary)


def test_unknown_fields_are_counted_and_a_near_name_is_told(encoder: Encoder) -> None:
    """The most frequent ones first; the id's own field is none of them."""
    counts = FieldCounts(encoder.candidate, "sku")
    for number in range(4):
        counts.add({"sku": number, "item_id": number, "pric": 2} | ({"x": 1} if number else {}))
    assert list(counts.lines()) == [
        "fields that the spec does not have are kept, and no score depends on them:"
        " 'pric' (4 lines; did you mean 'price'?), 'x' (3 lines)"
    ]


def test_a_name_beside_the_field_itself_is_no_mistake(encoder: Encoder) -> None:
    """Where lines have ``price``, ``prices`` is another one."""
    counts = FieldCounts(encoder.candidate)
    counts.add({"price": 1, "prices": 2})
    [told] = counts.lines()
    assert told.endswith("'prices' (1 lines)")


def test_known_fields_alone_tell_nothing(encoder: Encoder) -> None:
    """Of the side that is asked for."""
    for side in (encoder.candidate, encoder.context):
        counts = FieldCounts(side)
        counts.add(dict.fromkeys(side.fields, 1))
        assert list(counts.lines()) == []


def test_names_are_bounded(encoder: Encoder) -> None:
    """Values with a name for each line do not fill the memory."""
    counts = FieldCounts(encoder.candidate)
    for number in range(MOST_NAMES + 50):
        counts.add({f"x{number}": 1, "y": 1})
    [told] = counts.lines()
    assert f"'y' ({MOST_NAMES + 50:,} lines)" in told
    assert told.endswith(f" and {MOST_NAMES - 5:,} more")
