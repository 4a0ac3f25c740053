"""Large vocabularies: memory holds the hot values, and every value keeps its row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ValueProblem
from app.features import hot_values
from app.features.encoder import Encoder
from app.features.hot_values import HotValues, serving_encoder
from app.features.spec import Categorical, FeatureSpec, MultiCategorical, Time
from app.features.vocabulary import Texts, Vocabulary
from tests.support.encoding import encoded_columns, encoded_row
from tests.support.frames import learned
from tests.support.logs import Log, logs

SPEC = FeatureSpec(
    label="click",
    fields=(
        Categorical(name="user", side="context", min_count=1),
        Categorical(name="number", side="context", dtype="integer", min_count=1, required=True),
        MultiCategorical(name="tags", side="candidate", min_count=1),
        Categorical(name="item", side="candidate", min_count=1),
        Time(name="when", side="context", parts=("hour",)),
    ),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every vocabulary as a large one, of which memory holds a few values."""
    monkeypatch.setattr(hot_values, "WHOLE_VALUES", 0)
    monkeypatch.setattr(hot_values, "KEPT_VALUES", 8)
    monkeypatch.setattr(hot_values, "KEPT_OF_SLOT", 4)
    monkeypatch.setattr(hot_values, "GENERATION", 3)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    """A mapped vocabulary in which the values of lower numbers are the more frequent ones."""
    users = [f"u{number}" for number in range(30) for _ in range(30 - number)]
    rows = len(users)
    frame = pl.DataFrame({
        "user": users,
        "number": [str(2**63 - 15 + int(user[1:])) for user in users],
        "tags": [f"t{n % 9}|t{n % 4}" for n in range(rows)],
        "item": ["i0", "i1", ""] * (rows // 3),
        "when": [3_600 * n for n in range(rows)],
    })  # fmt: skip
    learned(SPEC, frame).save(tmp_path)
    return Vocabulary.load(tmp_path, SPEC, mapped=True)


def raised(work: Any) -> str | None:
    """Return the problem that encoding finds, if any."""
    try:
        work()
    except ValueProblem as problem:
        return str(problem)
    return None


@pytest.mark.slow
@given(logs(), st.integers(1, 8))
@settings(max_examples=150)
def test_any_log_is_encoded_as_with_the_whole_vocabulary(log: Log, rows: int) -> None:
    """Row by row, a value has the row that a table of all values gives it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_values, "WHOLE_VALUES", 0)
        patch.setattr(hot_values, "KEPT_VALUES", 2)
        patch.setattr(hot_values, "GENERATION", 2)
        vocabulary = learned(log.spec, log.parquet()[:rows])
        hot, whole = serving_encoder(log.spec, vocabulary), Encoder(log.spec, vocabulary)
        for number in [*range(log.rows), *range(log.rows)]:
            for one, other in ((hot.context, whole.context), (hot.candidate, whole.candidate)):
                row = log.row(number)
                assert encoded_row(one, row) == encoded_row(other, row)


VALUES: dict[str, Sequence[Any]] = {
    "user": [*(f"u{n}" for n in range(30)), "u30", "", None, "\x00", "ü" * 999, 7, 2**70, True, []],
    "number": [*range(2**63 - 15, 2**63 + 16), 0, -1, 2**64 - 1, 2**64, "9", 5.0, None, "x", {}],
    "tags": [[], ["t0", "t8", "new"], [f"t{n}" for n in range(9)], None, ["", "t3"], [None], "t1"],
    "item": ["i0", "i1", "i2", "", None],
    "when": [0, 3_600, None],
}


@pytest.mark.usefixtures("small")
def test_rows_and_columns_are_those_of_the_whole_vocabulary(vocabulary: Vocabulary) -> None:
    """Hot, cold, unknown, missing and wrong values, by both ways, more than once."""
    hot, whole = serving_encoder(SPEC, vocabulary), Encoder(SPEC, vocabulary)
    base = {"user": "u0", "number": 2**63, "tags": ["t0"], "item": "i0", "when": 0}
    for _ in range(3):
        for name, values in VALUES.items():
            side = "context" if name in hot.context.fields else "candidate"
            one, other = getattr(hot, side), getattr(whole, side)
            for value in values:
                row = base | {name: value}
                problem = raised(lambda row=row, other=other: other.row(row))
                assert raised(lambda row=row, one=one: one.row(row)) == problem
                if problem is None:
                    assert encoded_row(one, row) == encoded_row(other, row)
                columns = {field: [row[field]] * 2 for field in one.fields}
                problem = raised(lambda c=columns, other=other: encoded_columns(other, c, 2))
                assert raised(lambda c=columns, one=one: encoded_columns(one, c, 2)) == problem
                if problem is None:
                    assert (
                        encoded_columns(one, columns, 2) == encoded_columns(other, columns, 2)
                    ).all()


@pytest.mark.usefixtures("small")
def test_the_most_frequent_values_are_in_memory(vocabulary: Vocabulary) -> None:
    """Each large slot gets its share; a slot that needs less is whole."""
    found = hot_values.hot_values(SPEC, vocabulary)
    assert {name: list(hot.table) for name, hot in found.items()} == {
        "user": ["u0", "u1"],
        "number": [2**63 - 15, 2**63 - 14],
        "tags": list(found["tags"].table),
    }
    assert len(found["tags"].table) == 2


def test_a_small_vocabulary_is_whole(vocabulary: Vocabulary) -> None:
    """Nothing changes for it: every known value is in its table."""
    assert hot_values.hot_values(SPEC, vocabulary) == {}
    encoder = serving_encoder(SPEC, vocabulary)
    assert [each.lookup.find for each in encoder.context.encoders[:2]] == [None, None]


@pytest.mark.usefixtures("small")
def test_memory_is_bounded(vocabulary: Vocabulary) -> None:
    """Values by use are dropped once newer ones have come, values in use stay, unknown ones never
    enter."""
    slot = next(slot for slot in vocabulary.layout.slots if slot.name == "user")
    part = vocabulary.slots["user"]
    assert isinstance(part, Texts)
    hot, asked = HotValues(slot, part, 4), [f"u{number}" for number in range(4, 30)]

    sought = []
    find = hot._find

    def counting(key: str) -> int | None:
        sought.append(key)
        return find(key)

    hot._find = counting
    for user in asked:
        assert hot.find(user) == find(user)
        assert hot.find("u4") == find("u4")
        assert hot.find(f"unknown {user}") == slot.oov
    assert len(hot._young) + len(hot._old) <= 6
    assert len(hot.table) == 4
    known = [key for key in sought if not key.startswith("unknown")]
    # u4 is in use all the time, so it was looked up on disk only once.
    assert known == asked
