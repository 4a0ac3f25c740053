"""A list that attends to a field has that field's values, rows and tables, and none of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from app.errors import BundleError, SpecError, ValueProblem
from app.features.arrangement import arrange
from app.features.column_encoding import Misses
from app.features.encoder import Encoder
from app.features.hot_values import hot_values
from app.features.layout import PADDING
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical
from app.features.vocabulary import Vocabulary
from app.remote.redis_layout import published_slots
from tests.support.encoding import encoded_columns, encoded_row
from tests.support.frames import learned

USER = Categorical(name="user", side="context", min_count=1)
ITEM = Categorical(name="item", side="candidate", min_count=2, null_values=("none",))
HISTORY = MultiCategorical(name="history", side="context", attends="item", max_values=4)
SPEC = FeatureSpec(label="click", fields=(USER, HISTORY, ITEM))
FRAME = pl.DataFrame({
    "user": ["u", "u", "v", "v", "w", "w"],
    "item": ["a", "a", "a", "b", "b", "rare"],
    "history": [None, "only|here", "a|only", "a|b", "", "b|b|a|rare|b"],
})  # fmt: skip


@pytest.fixture
def vocabulary() -> Vocabulary:
    return learned(SPEC, FRAME)


def spec_text(lines: str, side: str = "context", item: str = "") -> str:
    return (
        'label = "click"\n[[fields]]\nname = "user"\nkind = "categorical"\nside = "context"\n'
        '[[fields]]\nname = "tags"\nkind = "multi_categorical"\nside = "candidate"\n'
        f'[[fields]]\nname = "item"\nkind = "categorical"\nside = "candidate"\n{item}'
        f'[[fields]]\nname = "history"\nkind = "multi_categorical"\nside = "{side}"\n{lines}'
    )


def test_a_list_may_attend() -> None:
    """It names a field of the candidate, and has its type."""
    *_, history = FeatureSpec.parse(spec_text('attends = "item"\n')).fields
    assert isinstance(history, MultiCategorical)
    assert history.attends == "item"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (spec_text('attends = "itme"\n'), "`attends`: there is no field 'itme'; did you mean"),
        (spec_text('attends = "user"\n'), "`attends`: 'user' has side = \"context\""),
        (spec_text('attends = "tags"\n'), "`attends`: 'tags' is of kind \"multi_categorical\""),
        (spec_text('attends = "history"\n'), "'history' is of kind \"multi_categorical\""),
        (spec_text('attends = "item"\n', "candidate"), '`attends` is for lists with side = "cont'),
        (
            spec_text('attends = "item"\n', item='dtype = "integer"\n'),
            '\'item\' has dtype = "integer" and this field "string"; they must be the same',
        ),
        (spec_text('attends = "item"\n', item='serve = "x"\n'), "`attends`: 'item' has `serve`"),
        (spec_text('attends = "item"\nmin_count = 3\n'), "`min_count` is that of the field which"),
        (spec_text('ages = "user"\n'), "`ages` is for lists with `attends`"),
        (
            spec_text('attends = "item"\nages = "age"\n'),
            "`ages`: there is no field 'age'",
        ),
        (
            spec_text('attends = "item"\nages = "user"\n'),
            "`ages`: 'user' is of kind \"categorical\"",
        ),
        (
            spec_text('attends = "item"\nages = "tags"\n'),
            "`ages`: 'tags' has side = \"candidate\"",
        ),
        (
            spec_text('attends = "item"\nages = "history"\n'),
            "`ages`: 'history' attends to a field itself",
        ),
        (spec_text('attends = ""\n'), "`attends` must be text that is not empty"),
        (spec_text("attends = 3\n"), "`attends` must be text"),
        (spec_text('attend = "item"\n'), "unknown key 'attend'; did you mean 'attends'"),
    ],
)
def test_what_cannot_be_attended_to_is_told(text: str, message: str) -> None:
    """The message names the list, the key, and what is wrong with the field that it names."""
    with pytest.raises(SpecError) as caught:
        FeatureSpec.parse(text)
    assert "field 'history': " + message in str(caught.value) or (
        "field 'history'" in str(caught.value) and message in str(caught.value)
    )


def test_attends_belongs_to_lists() -> None:
    """Of a single value it is told which kind of field has it."""
    with pytest.raises(SpecError, match=r"'attends'; fields of kind 'multi_categorical' have it"):
        FeatureSpec.parse(spec_text("", item='attends = "tags"\n'))


def test_a_field_with_an_error_of_its_own_is_not_told_twice() -> None:
    """A list that attends to a field which cannot be read is not judged."""
    with pytest.raises(SpecError) as caught:
        FeatureSpec.parse(spec_text('attends = "item"\n', item="min_count = 0\n"))
    assert "attends" not in str(caught.value)


def test_the_values_are_those_of_the_other_field(vocabulary: Vocabulary) -> None:
    """Values that only histories have, and rare ones, are OOV; rows are the same."""
    layout = vocabulary.layout
    (item,), (history,) = layout.candidate, layout.context_lists
    assert (history.first, history.size, history.shares) == (item.first, item.size, "item")
    assert history.mean is not None
    assert history.mean != item.mean
    assert layout.table_rows == 1 + (2 + 3) + (2 + 2) + 3
    assert vocabulary.slots["history"] is vocabulary.slots["item"]
    encoder = Encoder(SPEC, vocabulary)
    a, b = (encoded_row(encoder.candidate, {"item": value})[0] for value in "ab")
    row = encoded_row(encoder.context, {"history": ["b", "rare", "a", "only"]})
    assert row[1:] == [b, item.oov, a, item.oov]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, []),
        ([], []),
        (["a"], ["a"]),
        (["", "a", ""], ["a"]),
        (["none", "a"], ["a"]),
        (["a", "b", "a", "b", "a", 7.5], ["a", "b", "a", "b"]),
    ],
)
def test_what_a_history_becomes(
    vocabulary: Vocabulary, given: list[Any] | None, expected: list[str]
) -> None:
    """An absent history is empty; values after the last place are not looked at; what is missing
    in the other field's table is no event.
    """
    spec = FeatureSpec(
        label="click",
        fields=(USER, msgspec.structs.replace(HISTORY, null_values=("none",)), ITEM),
    )
    encoder = Encoder(spec, vocabulary)
    rows = [encoded_row(encoder.candidate, {"item": value})[0] for value in expected]
    expected_row = rows + [PADDING] * (4 - len(rows))
    assert encoded_row(encoder.context, {"history": given})[1:] == expected_row
    columns = encoded_columns(encoder.context, {"history": [given, ["b"]]}, 2)
    assert columns[0].tolist()[1:] == expected_row


def test_problems_name_the_place(vocabulary: Vocabulary) -> None:
    """A null and a wrong type inside a history are told as in any list."""
    encoder = Encoder(SPEC, vocabulary)
    for value in (["a", None], ["a", 1.5]):
        with pytest.raises(ValueProblem):
            encoder.context.row({"history": value})
    required = msgspec.structs.replace(HISTORY, required=True)
    spec = FeatureSpec(label="click", fields=(USER, required, ITEM))
    with pytest.raises(ValueProblem, match="required"):
        Encoder(spec, vocabulary).context.row({})


def test_it_comes_back_from_disk(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """The shared arrays are there once, and one object after loading."""
    vocabulary.save(tmp_path)
    assert len([*tmp_path.glob("*.npy")]) == 2 * 3
    loaded = Vocabulary.load(tmp_path, SPEC, mapped=True)
    assert loaded.layout == vocabulary.layout
    assert loaded.slots["history"] is loaded.slots["item"]


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [(2, "first", 3), (2, "size", 9), (2, "shares", "user"), (2, "shares", "history")],
)
def test_a_damaged_layout_is_refused(
    vocabulary: Vocabulary, tmp_path: Path, place: int, key: str, value: Any
) -> None:
    """Shared rows are those of a slot with rows of its own, or the bundle is damaged."""
    vocabulary.save(tmp_path)
    path = tmp_path / "layout.json"
    records = msgspec.json.decode(path.read_bytes())
    assert records[place]["name"] == "history"
    records[place][key] = value
    path.write_bytes(msgspec.json.encode(records))
    with pytest.raises(BundleError):
        Vocabulary.load(tmp_path, SPEC)


def test_a_spec_that_shares_nothing_refuses_shared_rows(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Spec and vocabulary agree on what is shared."""
    vocabulary.save(tmp_path)
    own = msgspec.structs.replace(HISTORY, attends=None)
    with pytest.raises(BundleError, match="slots are not those of the feature spec"):
        Vocabulary.load(tmp_path, FeatureSpec(label="click", fields=(USER, own, ITEM)))


def test_redis_and_memory_hold_the_values_once(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No keys, no table and no share of the memory of its own; a miss is asked of the other."""
    assert set(published_slots(SPEC, vocabulary, "0" * 64)) == {"user", "item"}
    monkeypatch.setattr("app.features.hot_values.WHOLE_VALUES", 0)
    monkeypatch.setattr("app.features.hot_values.KEPT_VALUES", 2)
    hot = hot_values(SPEC, vocabulary)
    assert set(hot) == {"user", "item"}
    tables: dict[str, dict[Any, int]] = {"user": {}, "item": {}}
    encoder = Encoder(SPEC, vocabulary, tables)
    misses: Misses = {}
    encoder.context.row({"user": "u", "history": ["b", "new", "b"]}, misses)
    assert list(misses) == [("user", "u"), ("item", "b"), ("item", "new")]
    finds = {name: values.find for name, values in hot.items()}
    memory = Encoder(SPEC, vocabulary, {name: {} for name in hot}, finds)
    row = {"user": "u", "history": ["b", "new", "b"]}
    assert encoded_row(memory.context, row) == encoded_row(Encoder(SPEC, vocabulary).context, row)


def test_ages_are_a_list_of_their_own() -> None:
    """With values of its own; where it is absent it is empty, as the past items are."""
    ages = MultiCategorical(name="ages", side="context", dtype="integer", min_count=1, max_values=2)
    history = msgspec.structs.replace(HISTORY, ages="ages")
    spec = FeatureSpec(label="click", fields=(USER, history, ages, ITEM))
    words = learned(spec, FRAME.with_columns(ages=pl.Series(["1", "2|1", "", None, "3", "1"])))
    slot = words.layout.context_lists[1]
    assert (slot.shares, slot.ages_of, slot.size) == (None, "history", 2 + 3)
    encoder = Encoder(spec, words)
    assert encoded_row(encoder.context, {})[1:] == [PADDING] * 6
    assert encoded_row(encoder.context, {"ages": [1, 9]})[5:] == [slot.first + 2, slot.oov]


def test_lists_before_their_field_share_it_too() -> None:
    """The order of the spec does not matter."""
    fields: tuple[Field, ...] = (HISTORY, ITEM, USER)
    layout = arrange(FeatureSpec(label="click", fields=fields), {"item": 3, "user": 1})
    assert layout.context_lists[0].first == layout.candidate[0].first == 1
    assert layout.shared == {"item"}
    assert layout.encoded_rows == 1 + 5 + 3
