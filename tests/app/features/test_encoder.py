"""One value gives one row by every way, and rows have the layout that the graph expects."""

from __future__ import annotations

from itertools import count, cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.features.column_encoding import Misses
from app.features.encoder import Encoder, FieldProblems, settle
from app.features.field_encoders import field_encoder
from app.features.layout import PADDING
from app.features.spec import Categorical, FeatureSpec, MultiCategorical, Numeric, Side, is_scaled
from app.features.vocabulary import Vocabulary
from model.data.encode import encode
from tests.support.encoding import (
    FIELDS,
    PRICE,
    SCALED,
    TAGS,
    USER,
    VALUE_ROW,
    encoded_columns,
    encoded_row,
    encoder_for,
    numbers,
    side_of,
    tags,
    user,
)
from tests.support.frames import learned, read
from tests.support.logs import Log, is_null, logs


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


_number = count()


def encoder_of(log: Log, rows: int) -> Encoder:
    """An encoder that learned the first rows of a log, as a Parquet file would hold them."""
    return Encoder(log.spec, vocabulary_of(log, rows))


def vocabulary_of(log: Log, rows: int) -> Vocabulary:
    """The vocabulary of the first rows of a log."""
    return learned(log.spec, log.parquet()[:rows])


def trained_rows(log: Log, encoder: Encoder, frame: pl.DataFrame) -> dict[Side, list[list[int]]]:
    """The rows that training encodes from a file's frame, by side."""
    data = encode(log.spec, encoder, frame)
    return {
        "context": data.context_rows.tolist(),
        "candidate": data.candidate_rows.tolist(),
    }


def served_rows(log: Log, encoder: Encoder) -> dict[Side, list[list[int]]]:
    """The rows that serving encodes one by one, by side."""
    numbers = range(log.rows)
    return {
        "context": [encoded_row(encoder.context, log.row(i)) for i in numbers],
        "candidate": [encoded_row(encoder.candidate, log.row(i)) for i in numbers],
    }


@pytest.mark.slow
@given(logs(), st.integers(1, 8))
@settings(max_examples=150)
def test_cell_parquet_and_json_give_one_index(files: Path, log: Log, rows: int) -> None:
    """Training on CSV, training on Parquet and serving JSON encode one thing alike."""
    text, typed = files / f"{next(_number)}.csv", files / f"{next(_number)}.parquet"
    text.write_bytes(log.csv())
    log.parquet().write_parquet(typed)
    cells = read(log.spec, [text])
    encoder = Encoder(log.spec, learned(log.spec, cells[:rows]))
    served = served_rows(log, encoder)
    assert trained_rows(log, encoder, cells) == served
    assert trained_rows(log, encoder, read(log.spec, [typed])) == served


@pytest.mark.slow
@given(logs(), st.integers(1, 8))
@settings(max_examples=60)
def test_row_alone_is_the_row_among_others(log: Log, rows: int) -> None:
    """A columnar request encodes each row as a request with this row alone does."""
    encoder = encoder_of(log, rows)
    columns = {name: [t.json for t in things] for name, things in log.columns.items()}
    served = served_rows(log, encoder)
    assert encoded_columns(encoder.context, columns, log.rows).tolist() == served["context"]
    assert encoded_columns(encoder.candidate, columns, log.rows).tolist() == served["candidate"]


@pytest.mark.slow
@given(logs(), st.integers(1, 8), st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_order_of_keys_never_matters(log: Log, rows: int, random: Any) -> None:
    """A row's keys may come in any order, beside keys that the spec does not know."""
    encoder = encoder_of(log, rows)
    for number in range(log.rows):
        items = [*log.row(number).items(), ("unknown", {"a": [1]})]
        random.shuffle(items)
        for side in (encoder.context, encoder.candidate):
            assert encoded_row(side, dict(items)) == encoded_row(side, log.row(number))


@pytest.mark.slow
@given(logs(), st.integers(1, 8))
@settings(max_examples=60)
def test_reserved_indices_are_no_values(log: Log, rows: int) -> None:
    """A missing value has its slot's first row, any other one a later row of the same slot."""
    vocabulary = vocabulary_of(log, rows)
    encoder = Encoder(log.spec, vocabulary)
    slots = {slot.name: slot for slot in vocabulary.layout.slots}
    for field, number in product(log.spec.fields, range(log.rows)):
        value = log.columns[field.name][number].json
        own = field_encoder(field, vocabulary).one(value)
        assert set(own) <= set(encoded_row(side_of(encoder, field), log.row(number)))
        empty = value == "" and isinstance(field, Categorical) and field.empty_is_missing
        missing = value is None or empty or is_null(field, value)
        own = own[:1] if is_scaled(field) else own
        for index, slot in zip(own, cycle(slots[name] for name in field.slot_names)):
            if index == PADDING:
                assert isinstance(field, MultiCategorical)
            elif missing:
                assert index == slot.missing
            else:
                assert slot.oov <= index < slot.first + slot.size


def test_every_problem_of_a_row_is_named() -> None:
    """All fields of a row that break a rule are told, by name."""
    side = encoder_for(USER, TAGS, PRICE, frame={"user": ["a"], "tags": [["a"]], "price": [1]})
    row = {"user": 1.5, "tags": ["a", None], "price": "3"}
    problems = {name: p.position for name, p in side.candidate.problems(row)}
    assert problems == {"tags": 1, "price": None}
    assert [name for name, _ in side.context.problems(row)] == ["user"]
    assert list(side.context.problems({"user": "a"})) == []


def test_every_problem_of_a_column_has_its_row() -> None:
    """Columns tell each row that breaks a rule, for each field."""
    side = encoder_for(TAGS, PRICE, frame={"tags": [["a"]], "price": [1]}).candidate
    columns = {"tags": [["a"], ["a", 2.5], 7], "price": ["x", 1, True]}
    with pytest.raises(FieldProblems, match="'price', row 0") as caught:
        encoded_columns(side, columns, 3)
    rows = {name: [row for row, _ in p.problems] for name, p in caught.value.fields.items()}
    assert rows == {"tags": [1, 2], "price": [0, 2]}
    assert caught.value.fields["tags"].problems[0][1].position == 1


@pytest.mark.parametrize("name", FIELDS)
def test_no_rows_are_no_rows(name: str) -> None:
    """A columnar list without rows has no indices, and no problem."""
    side = side_of(encoder_for(FIELDS[name]), FIELDS[name])
    assert encoded_columns(side, {FIELDS[name].name: []}, 0).shape == (0, side.shape.width)


def test_single_slots_come_before_lists() -> None:
    """A row holds single-valued slots in the order of the spec, then each list's places."""
    other = Categorical(name="other", side="candidate")
    frame = {"tags": [["a"]], "price": [1], "other": ["x"]}
    side = encoder_for(tags(max_values=2), PRICE, other, frame=frame).candidate
    assert [encoder.name for encoder in side.encoders] == ["price", "other", "tags"]
    assert side.shape == (4, 2, ((2, 4),), 0)


def test_scaled_slots_are_the_last_single_ones_and_their_numbers_the_last_words() -> None:
    """[price's bucket, other, scaled index, tags..., scaled number], whatever the spec's order."""
    scaled = Numeric(name="weight", side="candidate", encoding="scaled")
    other = Categorical(name="other", side="candidate", min_count=1)
    frame = {"weight": [1, 3], "tags": [["a"], []], "price": [1, 2], "other": ["x", "x"]}
    encoder = encoder_for(scaled, tags(max_values=2), PRICE, other, frame=frame)
    side = encoder.candidate
    assert [each.name for each in side.encoders] == ["price", "other", "weight", "tags"]
    assert side.shape == (6, 3, ((3, 5),), 1)
    row = encoded_row(side, {"weight": 4, "tags": ["a"], "price": 0, "other": "x"})
    assert numbers(row[5:]) == [2.0]
    assert row[3:5] == [6, PADDING], "the list's slot follows the scaled one's three rows"
    assert row[2] == VALUE_ROW


def test_settling_leaves_negative_numbers_alone() -> None:
    """A number below zero has a sign bit, which marks a miss among indices only."""
    other = Categorical(name="other", side="candidate", min_count=1)
    spec = encoder_for(SCALED, other, frame={"price": [1, 3], "other": ["x", "y"]})
    known = spec.candidate.row({"price": -5, "other": "x"})
    vocabulary = learned(
        FeatureSpec(label="click", fields=(SCALED, other, user())),
        pl.DataFrame({"price": [1, 3], "other": ["x", "y"], "user": [None, None]}, strict=False),
    )
    through = Encoder(
        FeatureSpec(label="click", fields=(SCALED, other, user())), vocabulary, {"other": {}}
    ).candidate
    misses: Misses = {}
    packed = through.row({"price": -5, "other": "x"}, misses)
    rows = np.array([vocabulary.slots["other"].lookup()[key] for _, key in misses], np.int32)
    assert packed != known
    assert settle(packed, rows, through.shape) == known
