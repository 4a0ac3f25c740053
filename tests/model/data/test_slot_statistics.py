"""Statistics of the training part: shares, and histograms for comparison with serving."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from app.bundle.manifest import SlotHistogram
from app.features.encoder import Encoder
from app.features.spec import Categorical, FeatureSpec, MultiCategorical, Numeric
from app.features.vocabulary import Vocabulary
from model.data import slot_counts
from model.data.dataset import Dataset
from model.data.encode import encode
from model.data.slot_counts import always_present, count_slots
from model.data.slot_statistics import FREQUENT, statistics
from tests.support.frames import learned

SPEC = FeatureSpec(
    label="click",
    fields=(
        Categorical(name="user", side="context", min_count=2),
        Numeric(name="age", side="context", encoding="scaled"),
        MultiCategorical(name="tags", side="candidate", max_values=3, min_count=2),
        Numeric(name="price", side="candidate", encoding="edges", edges=(1.0, 2.0)),
    ),
)
FRAME = pl.DataFrame({
    "click": [0, 1, 0, 1],
    "user": ["a", "a", "b", None],
    "age": [1.0, 3.0, 2.0, None],
    "tags": ["x|x|z", "x|y", "y", ""],
    "price": [0.5, 2.5, 2.5, 2.0],
})  # fmt: skip


@pytest.fixture(name="encoded")
def encoded_rows() -> tuple[Vocabulary, Dataset]:
    """The frame's rows, and what they teach."""
    vocabulary = learned(SPEC, FRAME)
    return vocabulary, encode(SPEC, Encoder(SPEC, vocabulary), FRAME)


def test_shares_are_of_rows(encoded: tuple[Vocabulary, Dataset]) -> None:
    """Missing and OOV are shares of the rows; a list is OOV if any value of it is."""
    found = statistics(*encoded)
    assert {name: (s.missing, s.oov) for name, s in found.items()} == {
        "user": (0.25, 0.25), "age": (0.25, 0.0), "tags": (0.25, 0.25), "price": (0.0, 0.0),
    }  # fmt: skip
    assert found["user"].values == 3, "missing, OOV and a; the mean is no value"


def test_histograms_count_every_index(encoded: tuple[Vocabulary, Dataset]) -> None:
    """Buckets in their order; of other slots the values by falling count, a list's each."""
    found = {name: slot.histogram for name, slot in statistics(*encoded).items()}
    first = {slot.name: slot.first for slot in encoded[0].layout.slots}
    assert found == {
        "user": SlotHistogram(1, 1, frequent=(first["user"] + 2,), counts=(2,)),
        "age": SlotHistogram(1, 0, frequent=(first["age"] + 2,), counts=(3,)),
        "tags": SlotHistogram(1, 1, frequent=(first["tags"] + 2, first["tags"] + 3), counts=(3, 2)),
        "price": SlotHistogram(0, 0, buckets=(1, 0, 3)),
    }


def test_a_histogram_keeps_the_most_frequent_and_the_rest() -> None:
    """Fifty values are counted one by one, the others together."""
    spec = FeatureSpec(
        label="click",
        fields=(
            Categorical(name="user", side="context", dtype="integer", min_count=1),
            Categorical(name="item", side="candidate"),
        ),
    )
    users = [user for user in range(60) for _ in range(60 - user)]
    frame = pl.DataFrame({"click": [0] * len(users), "user": users, "item": ["i"] * len(users)})
    vocabulary = learned(spec, frame)
    data = encode(spec, Encoder(spec, vocabulary), frame)
    histogram = statistics(vocabulary, data)["user"].histogram
    assert histogram is not None
    assert histogram.counts == tuple(range(60, 60 - FREQUENT, -1))
    assert histogram.rest == sum(range(1, 60 - FREQUENT + 1))
    assert histogram.frequent is not None
    assert len(histogram.frequent) == FREQUENT


def test_no_rows_are_no_division_by_zero(encoded: tuple[Vocabulary, Dataset]) -> None:
    """Statistics of no rows are zero."""
    vocabulary, data = encoded
    found = statistics(vocabulary, data.take(slice(0, 0)))
    assert {(s.missing, s.oov) for s in found.values()} == {(0.0, 0.0)}


def test_rows_and_factors(
    encoded: tuple[Vocabulary, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list's values share its row, a scaled value counts by its number, in pieces or at once."""
    vocabulary, data = encoded
    whole = count_slots(vocabulary.layout, data)
    monkeypatch.setattr(slot_counts, "_COUNTED_AT_ONCE", 3)
    for one, other in zip(whole, count_slots(vocabulary.layout, data), strict=True):
        assert (one.slot, one.any_oov) == (other.slot, other.any_oov)
        assert np.array_equal(one.indices, other.indices)
        np.testing.assert_allclose(one.rows, other.rows, rtol=1e-12)
        np.testing.assert_allclose(one.factors, other.factors, rtol=1e-12)
    counts = {each.slot.name: each for each in whole}
    np.testing.assert_allclose(counts["tags"].rows, [1, 1 / 3, 2 / 3 + 1 / 2, 1 / 2 + 1])
    np.testing.assert_allclose(counts["tags"].factors, counts["tags"].rows)
    np.testing.assert_allclose(counts["age"].rows, [1, 0, 3])
    np.testing.assert_allclose(counts["age"].factors, [1, 0, 0], atol=1e-6)


def test_fields_that_are_always_present(encoded: tuple[Vocabulary, Dataset]) -> None:
    """A field counts as absent if any of its slots is missing in any row."""
    vocabulary, data = encoded
    assert always_present(vocabulary.layout, data) == ["price"]
    first_rows = data.take(slice(0, 3))
    assert always_present(vocabulary.layout, first_rows) == ["user", "age", "price", "tags"]
