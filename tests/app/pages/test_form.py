"""The form of a request is that of the bundle, and offers the values that it knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.bundle import Bundle
from app.errors import NotFound
from app.features.vocabulary import Integers, Texts
from app.pages import form as forms
from app.pages.form import MOST_VALUES, form, known_values
from tests.support.samples import KNOWN_USER, LARGEST_USER


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, mapped=True)


def test_a_form_has_every_field_of_the_spec(bundle: Bundle) -> None:
    """Kinds, sides, sizes of vocabularies, and the range of numbers with buckets."""
    fields = {each["name"]: each for each in form(bundle, public=False)["fields"]}
    assert list(fields) == [field.name for field in bundle.spec.fields]
    assert fields["tags"] == {
        "name": "tags", "side": "candidate", "kind": "multi_categorical", "dtype": "string",
        "required": False, "parts": [], "max_values": 4, "range": None, "completes": True,
        "known": 6,
    }  # fmt: skip
    assert fields["placement"]["required"]
    assert fields["quality"]["range"] == [0.25, 0.75]
    low, high = fields["age"]["range"]
    assert 0 <= low < 10 < 70 < high < 90
    assert fields["time"]["parts"] == ["hour", "weekday"]
    assert not fields["time"]["completes"]


def test_examples_are_golden_requests_that_can_be_ranked(bundle: Bundle) -> None:
    """Each has its own context and candidates first."""
    shown_examples = form(bundle, public=False)["examples"]
    for shown, example in zip(shown_examples, bundle.examples, strict=False):
        assert shown["context"] == example.context
        assert shown["candidates"][:1] == example.candidates[:1]
        assert len(shown["candidates"]) > 1
        fields = {field.name for field in bundle.spec.side("candidate")}
        assert all(set(each) <= fields for each in shown["candidates"])


def test_a_public_form_knows_nobody(bundle: Bundle) -> None:
    """Known values of candidates alone, and a request to begin with that has no context."""
    shown = form(bundle, public=True)
    for field in shown["fields"]:
        listed = field["kind"] in ("categorical", "multi_categorical")
        assert field["completes"] == (listed and field["side"] == "candidate")
    assert [each["context"] for each in shown["examples"]] == [{}]
    assert known_values(bundle, "tags", "sp", public=True) == ["sport"]
    with pytest.raises(NotFound, match="admin port"):
        known_values(bundle, "user_id", "", public=True)


@pytest.mark.parametrize("name", ["time", "price", "nonsense", ""])
def test_fields_without_a_list_of_values_offer_none(bundle: Bundle, name: str) -> None:
    """Numbers, moments, and names that the spec does not have."""
    with pytest.raises(NotFound):
        known_values(bundle, name, "", public=False)


def all_values(bundle: Bundle, name: str) -> list[str]:
    """All values of a field, the most frequent first."""
    vocabulary = bundle.vocabulary.slots[name]
    assert isinstance(vocabulary, Integers | Texts)
    return [str(value) for value in vocabulary.lookup()]


@pytest.mark.parametrize("name", ["user_id", "item_id", "country", "tags"])
@pytest.mark.parametrize(
    "prefix", ["", "1", "12", "9", "[", "u", "é", "-1", "x", "\u0661", "--", " "]
)
def test_values_begin_with_what_is_typed(bundle: Bundle, name: str, prefix: str) -> None:
    """They are those of a search through all values, the most frequent first."""
    expected = [value for value in all_values(bundle, name) if value.startswith(prefix)]
    assert known_values(bundle, name, prefix, public=False) == expected[:MOST_VALUES]


def test_the_largest_integers_are_found(bundle: Bundle) -> None:
    """Keys beyond 2⁶³ too, by any beginning of theirs, and none is past the end of its range."""
    for wanted in (str(LARGEST_USER), str(KNOWN_USER)):
        for length in range(1, len(wanted) + 1):
            assert wanted in known_values(bundle, "user_id", wanted[:length], public=False)
    assert known_values(bundle, "user_id", "9" * 30, public=False) == []


@given(st.lists(st.text(max_size=4), unique=True, max_size=20), st.text(max_size=2))
def test_texts_are_found_by_their_beginnings(keys: list[str], prefix: str) -> None:
    """Whatever their letters are."""
    keys = sorted((key for key in keys if key.isprintable()), key=str.encode)
    texts = Texts.of(keys, np.arange(2, 2 + len(keys), dtype=np.int32))
    found = texts.texts(forms._beginning_with(texts, prefix))
    expected = [key.encode() for key in keys if key.startswith(prefix)]
    assert found == expected
