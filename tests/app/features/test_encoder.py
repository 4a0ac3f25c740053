"""Raw values → indices: one result by every way, and reserved indices for nobody's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, cycle, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ValueProblem
from app.features.encoder import Encoder, FieldProblems, Misses, SideEncoder, field_encoder, settle
from app.features.layout import PADDING
from app.features.spec import (
    Categorical,
    FeatureSpec,
    Field,
    MultiCategorical,
    Numeric,
    Side,
    Time,
    is_scaled,
)
from app.features.vocabulary import Vocabulary
from model.data.encode import encode
from tests.support.frames import learned, read

SIDES: tuple[Side, ...] = ("context", "candidate")
RESERVED_LOOKALIKES = ["NA", "[PAD]", "null", "__OOV__", "None", "nan", "0", "1", "-1", "\x00"]


@dataclass(frozen=True)
class Thing:
    """One value as JSON, as the cell of a text file, and as a typed Parquet column holds it."""

    json: Any
    cell: str | None
    parquet: Any


MISSING = Thing(None, None, None)


@dataclass(frozen=True)
class Log:
    """Generated rows of a generated spec, and the Parquet type of each column."""

    spec: FeatureSpec
    columns: dict[str, list[Thing]]
    types: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def row(self, number: int) -> dict[str, Any]:
        """The row as a caller sends it; its missing values are absent or null."""
        values = {name: things[number].json for name, things in self.columns.items()}
        return {
            name: value
            for place, (name, value) in enumerate(values.items())
            if value is not None or (place + number) % 2
        }

    def csv(self) -> bytes:
        """A comma-separated file of the rows."""
        lines = [[*map(quote, self.columns), "click"]]
        for number in range(self.rows):
            lines.append([*(quote(t[number].cell) for t in self.columns.values()), "1"])
        return "".join(",".join(line) + "\n" for line in lines).encode()

    def parquet(self) -> pl.DataFrame:
        """A typed table of the rows."""
        series = [
            pl.Series(name, [thing.parquet for thing in things], self.types[name])
            for name, things in self.columns.items()
        ]
        return pl.DataFrame([*series, pl.Series("click", [1] * self.rows, pl.Int8)])


def quote(cell: str | None) -> str:
    """Quote a cell where it must be; no cell at all is missing."""
    if cell is None:
        return ""
    if cell == "" or set(cell) & set(',"\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


TEXTS = st.sampled_from(["a", "b", 'q"', '"', "x,y", "é", "e\u0301", " a", *RESERVED_LOOKALIKES])
TEXTS |= st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n|;"), max_size=6)
INT_TYPES = {
    pl.Int64: st.integers(-2, 4) | st.integers(-(2**63), 2**63 - 1),
    pl.UInt64: st.integers(0, 4) | st.integers(0, 2**64 - 1),
    pl.Float64: st.integers(-2, 4) | st.integers(-(2**53) + 1, 2**53 - 1),
}


@st.composite
def integer_things(draw: st.DrawFn, kind: Any) -> Thing:
    value = draw(INT_TYPES[kind])
    forms: list[Any] = [value, str(value), f"{value}.0"]
    if abs(value) < 2**53:
        forms.append(float(value))
    cell = draw(st.sampled_from([str(value), f"{value}.0"]))
    return Thing(draw(st.sampled_from(forms)), cell, value)


@st.composite
def categorical(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    field = Categorical(
        name=name, side=side, dtype=draw(st.sampled_from(["integer", "string"])),
        min_count=draw(st.integers(1, 2)), empty_is_missing=draw(st.booleans()),
    )  # fmt: skip
    if field.dtype == "integer":
        kind = draw(st.sampled_from(list(INT_TYPES)))
        return field, integer_things(kind), kind
    kind = draw(st.sampled_from([pl.String, pl.Categorical, pl.Int64]))
    if kind == pl.Int64:
        return field, INT_TYPES[kind].map(lambda v: Thing(v, str(v), v)), kind
    return field, TEXTS.map(lambda text: Thing(text, text, text)), kind


@st.composite
def multi_categorical(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    field = MultiCategorical(
        name=name, side=side, dtype=draw(st.sampled_from(["integer", "string"])),
        min_count=draw(st.integers(1, 2)), max_values=draw(st.integers(1, 3)),
        separator=draw(st.sampled_from(["|", ";;"])),
    )  # fmt: skip
    if field.dtype == "integer":
        kind = draw(st.sampled_from([pl.Int64, pl.UInt64]))
        items = integer_things(kind)
    else:
        kind = pl.String
        items = TEXTS.map(lambda text: Thing(text, text, text))

    def together(things: Sequence[Thing]) -> Thing:
        cell = field.separator.join(str(thing.cell) for thing in things) or field.separator
        return Thing([t.json for t in things], cell, [t.parquet for t in things])

    return field, st.lists(items, max_size=5).map(together), pl.List(kind)


EDGES = (-1.5, 0.0, 0.1, 7.0)


@st.composite
def numeric(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    encoding = draw(st.sampled_from(["quantile", "log_squared", "edges", "scaled"]))
    field = Numeric(
        name=name, side=side, encoding=encoding, buckets=draw(st.integers(2, 9)),
        min_count=draw(st.integers(1, 2)), edges=EDGES if encoding == "edges" else (),
    )  # fmt: skip
    kind = draw(st.sampled_from([pl.Float64, pl.Float32, pl.Int64]))
    if kind == pl.Int64:
        return field, INT_TYPES[kind].map(lambda v: Thing(v, str(v), v)), kind
    width = 32 if kind == pl.Float32 else 64
    plain = st.sampled_from([-1.5, -0.0, 0.0, 0.5, 2.0, 7.0])
    values = plain | st.floats(-100, 100, width=width) | st.floats(
        -float(2**127), float(2**127), width=width
    )  # fmt: skip
    return field, values.map(lambda v: Thing(v, repr(v), v)), kind


@st.composite
def time(draw: st.DrawFn, name: str, side: Side) -> tuple[Field, Any, Any]:
    text_format = draw(st.sampled_from([None, None, "%y%m%d%H"]))
    field = Time(
        name=name, side=side, parts=("hour", "weekday", "year"), format=text_format,
        timezone=draw(st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"])),
    )  # fmt: skip
    moments = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)) | st.sampled_from(
        [datetime(2024, 3, 31, 2, 30), datetime(2024, 10, 27, 2, 30), datetime(2024, 5, 5)]
    )
    if text_format is not None:
        texts = moments.map(lambda moment: moment.strftime("%y%m%d%H"))
        return field, texts.map(lambda text: Thing(text, text, text)), pl.String
    if draw(st.booleans()):
        seconds = st.integers(-(2**31), 2**31)
        return field, seconds.map(lambda v: Thing(v, str(v), v)), pl.Int64
    kind = draw(st.sampled_from([pl.Datetime("us"), pl.Datetime("ms")]))
    return field, moments.map(lambda m: Thing(m.isoformat(), m.isoformat(" "), m)), kind


NAMES = ["user", "élan/7", "get", 'quo"ted', "a,b", "pack", "x0", "None"]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """A spec with up to five fields, one at least on each side, and up to eight rows."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=5, unique=True))
    rows = draw(st.integers(1, 8))
    fields, columns, types = [], {}, {}
    for number, name in enumerate(names):
        side = SIDES[number] if number < 2 else draw(st.sampled_from(SIDES))
        kind = draw(st.sampled_from([categorical, multi_categorical, numeric, time]))
        field, things, types[name] = draw(kind(name, side))
        fields.append(field)
        column = st.lists(st.just(MISSING) | things | things, min_size=rows, max_size=rows)
        columns[name] = draw(column)
    return Log(FeatureSpec(label="click", fields=tuple(fields)), columns, types)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


_number = count()


def vocabulary_of(log: Log, files: Path, rows: int) -> Vocabulary:
    """The vocabulary of the first rows of a log, learned from its CSV file."""
    path = files / f"{next(_number)}.csv"
    path.write_bytes(log.csv())
    return learned(log.spec, read(log.spec, [path])[:rows])


def encoder_of(log: Log, files: Path, rows: int) -> Encoder:
    """An encoder that learned the first rows of a log."""
    return Encoder(log.spec, vocabulary_of(log, files, rows))


def trained_rows(log: Log, encoder: Encoder, path: Path) -> dict[Side, list[list[int]]]:
    """What training makes of a file: each side's indices, row by row."""
    data = encode(log.spec, encoder, read(log.spec, [path]))
    return {
        "context": data.context_rows.tolist(),
        "candidate": data.candidate_rows.tolist(),
    }


def served_row(side: SideEncoder, row: Mapping[str, Any]) -> list[int]:
    """What serving makes of one row."""
    return np.frombuffer(side.row(row), np.int32).tolist()


def side_of(encoder: Encoder, field: Field) -> SideEncoder:
    """The encoder of a field's side."""
    return encoder.context if field.side == "context" else encoder.candidate


def served_rows(log: Log, encoder: Encoder) -> dict[Side, list[list[int]]]:
    """What serving makes of a log's rows, one by one."""
    numbers = range(log.rows)
    return {
        "context": [served_row(encoder.context, log.row(i)) for i in numbers],
        "candidate": [served_row(encoder.candidate, log.row(i)) for i in numbers],
    }


@given(logs(), st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_cell_parquet_and_json_give_one_index(files: Path, log: Log, learned: int) -> None:
    """Training on CSV, training on Parquet and serving JSON encode one thing alike."""
    encoder = encoder_of(log, files, learned)
    text, typed = files / f"{next(_number)}.csv", files / f"{next(_number)}.parquet"
    text.write_bytes(log.csv())
    log.parquet().write_parquet(typed)
    served = served_rows(log, encoder)
    assert trained_rows(log, encoder, text) == served
    assert trained_rows(log, encoder, typed) == served


@given(logs(), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_row_alone_is_the_row_among_others(files: Path, log: Log, learned: int) -> None:
    """A columnar request encodes each row as a request with this row alone does."""
    encoder = encoder_of(log, files, learned)
    columns = {name: [t.json for t in things] for name, things in log.columns.items()}
    served = served_rows(log, encoder)
    assert encoder.context.columns(columns, log.rows).tolist() == served["context"]
    assert encoder.candidate.columns(columns, log.rows).tolist() == served["candidate"]


@given(logs(), st.integers(1, 8), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_order_of_keys_never_matters(files: Path, log: Log, learned: int, random: Any) -> None:
    """A row's keys may come in any order, beside keys that the spec does not know."""
    encoder = encoder_of(log, files, learned)
    for number in range(log.rows):
        items = [*log.row(number).items(), ("unknown", {"a": [1]})]
        random.shuffle(items)
        for side in (encoder.context, encoder.candidate):
            assert served_row(side, dict(items)) == served_row(side, log.row(number))


@given(logs(), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_reserved_indices_are_no_values(files: Path, log: Log, learned: int) -> None:
    """A missing value has its slot's first row, any other one a later row of the same slot."""
    vocabulary = vocabulary_of(log, files, learned)
    encoder = Encoder(log.spec, vocabulary)
    slots = {slot.name: slot for slot in vocabulary.layout.slots}
    for field, number in product(log.spec.fields, range(log.rows)):
        value = log.columns[field.name][number].json
        own = field_encoder(field, vocabulary).one(value)
        assert set(own) <= set(served_row(side_of(encoder, field), log.row(number)))
        empty = value == "" and isinstance(field, Categorical) and field.empty_is_missing
        missing = value is None or empty
        own = own[:1] if is_scaled(field) else own
        for index, slot in zip(own, cycle(slots[name] for name in field.slot_names)):
            if index == PADDING:
                assert isinstance(field, MultiCategorical)
            elif missing:
                assert index == slot.missing
            else:
                assert slot.oov <= index < slot.first + slot.size


def user(**keys: Any) -> Categorical:
    return Categorical(name="user", side="context", min_count=1, **keys)


def tags(**keys: Any) -> MultiCategorical:
    return MultiCategorical(name="tags", side="candidate", min_count=1, **keys)


PRICE = Numeric(name="price", side="candidate", encoding="edges", edges=(1.0, 2.0))
USER, TAGS = user(), tags()


def encoder_for(*fields: Field, frame: Mapping[str, Any] | None = None) -> Encoder:
    """An encoder of these fields that learned a frame's values; the other side has a field."""
    present = {field.side for field in fields}
    fillers = [Categorical(name=f"~{side}", side=side) for side in SIDES if side not in present]
    spec = FeatureSpec(label="click", fields=(*fields, *fillers))
    columns = {field.name: [None] for field in spec.fields} if frame is None else dict(frame)
    rows = len(next(iter(columns.values())))
    for field in fillers:
        columns[field.name] = [None] * rows
    return Encoder(spec, learned(spec, pl.DataFrame(columns, strict=False)))


def indices(encoder: Encoder, field: Field, value: Any) -> list[int]:
    """The indices of the row that has only this value; it is its side's only field."""
    return served_row(side_of(encoder, field), {field.name: value})


MISSING_ROW, OOV_ROW = 1, 2
"""Those of the first field of a spec."""


@pytest.mark.parametrize("text", [*RESERVED_LOOKALIKES, "missing", "OOV", "<unk>", " "])
def test_text_never_hits_a_reserved_index(text: str) -> None:
    """Text that other systems reserve is OOV until it was learned, and then a value."""
    assert indices(encoder_for(USER), USER, text) == [OOV_ROW]
    learned = encoder_for(USER, frame={"user": [text, "other"]})
    assert indices(learned, USER, text)[0] > OOV_ROW
    assert indices(learned, USER, None) == [MISSING_ROW]
    as_list = encoder_for(TAGS, frame={"tags": [[text]]})
    assert indices(as_list, TAGS, [text])[0] > OOV_ROW


def test_empty_text_is_missing_unless_it_is_a_value() -> None:
    """``empty_is_missing = false`` makes the empty text a value like any other."""
    assert indices(encoder_for(USER), USER, "") == [MISSING_ROW]
    field = user(empty_is_missing=False)
    assert indices(encoder_for(field), field, "") == [OOV_ROW]
    learned = encoder_for(field, frame={"user": ["", "a"]})
    assert indices(learned, field, "")[0] > OOV_ROW
    assert indices(learned, field, None) == [MISSING_ROW]


@pytest.mark.parametrize("dtype", ["integer", "string"])
def test_one_number_in_four_forms(dtype: Any) -> None:
    """1, "1", 1.0 and "1.0" are one value of an integer field; a string field keeps its text."""
    field = user(dtype=dtype)
    encoder = encoder_for(field, frame={"user": ["1", "2"]})
    known = indices(encoder, field, 1)
    assert known[0] > OOV_ROW
    assert indices(encoder, field, "1") == known
    if dtype == "integer":
        assert indices(encoder, field, 1.0) == indices(encoder, field, "1.0") == known
    else:
        assert indices(encoder, field, "1.0") == [OOV_ROW]


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**53 + 1, -(2**63)])
def test_large_integers_are_exact(value: int) -> None:
    """Neighbours of a large integer are other values, in every form."""
    field = user(dtype="integer")
    encoder = encoder_for(field, frame={"user": [str(value)]})
    assert indices(encoder, field, value) == indices(encoder, field, str(value)) == [3]
    near = value + 1 if value < 0 else value - 1
    assert indices(encoder, field, near) == indices(encoder, field, str(near)) == [OOV_ROW]


FIELDS: dict[str, Field] = {
    "integer": user(dtype="integer"),
    "string": USER,
    "list": TAGS,
    "list of integers": tags(dtype="integer"),
    "edges": PRICE,
    "quantile": Numeric(name="price", side="candidate"),
    "log_squared": Numeric(name="price", side="candidate", encoding="log_squared", min_count=1),
    "scaled": Numeric(name="price", side="candidate", encoding="scaled"),
    "time": Time(name="when", side="context", parts=("hour",)),
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS.keys())
@pytest.mark.parametrize("value", [True, False, {}, {"a": [1, {}]}, [[]], [{}], [True], ({},)])
def test_wrong_types_are_problems(field: Field, value: Any) -> None:
    """A boolean is never 1, and what cannot be hashed is a problem, not a crash."""
    frame = {field.name: [["1"]] if isinstance(field, MultiCategorical) else [1]}
    side = side_of(encoder_for(field, frame=frame), field)
    side.row({})
    with pytest.raises(ValueProblem):
        side.row({field.name: value})
    with pytest.raises(FieldProblems):
        side.columns({field.name: [None, value]}, 2)


def test_bool_stays_refused_after_its_number_was_seen() -> None:
    """A cache of numbers does not answer for ``true``, which equals 1 to a dict."""
    field = FIELDS["log_squared"]
    side = encoder_for(field, frame={"price": [1, 0]}).candidate
    for value in (1, 0, 1.0, 0.0):
        side.row({"price": value})
    for value in (True, False):
        with pytest.raises(ValueProblem, match="boolean"):
            side.row({"price": value})


@pytest.mark.parametrize("name", ["edges", "quantile", "log_squared", "scaled"])
@pytest.mark.parametrize(
    "value", ["1", "", float("nan"), float("inf"), -float("inf"), 3.5e38, 10**400]
)
def test_what_is_no_number_is_a_problem(name: str, value: Any) -> None:
    """Numeric fields take finite JSON numbers only, alone and in columns."""
    field = FIELDS[name]
    side = encoder_for(field, frame={"price": [1, 2]}).candidate
    with pytest.raises(ValueProblem):
        side.row({"price": value})
    with pytest.raises(FieldProblems):
        side.columns({"price": [1, value]}, 2)


def test_bucket_edges_are_inclusive_below() -> None:
    """Bucket b holds edges[b-1] <= x < edges[b], of float32(x)."""
    encoder = encoder_for(PRICE, frame={"price": [0.0]})
    values = [0.99, 1.0, 1, 1.0 - 1e-9, 1.9999, 2, 2.0, 1e30]
    assert [indices(encoder, PRICE, v)[0] - 3 for v in values] == [0, 1, 1, 1, 1, 2, 2, 2]


def test_numbers_are_float32_before_they_meet_an_edge() -> None:
    """0.1 is not below the float32 edge 0.1: both are the same float32."""
    field = Numeric(name="price", side="candidate", encoding="edges", edges=(0.1,))
    encoder = encoder_for(field, frame={"price": [0.0]})
    below = float(np.nextafter(np.float32(0.1), np.float32(0)))
    values = [0.1, float(np.float32(0.1)), 0.1 - 1e-12, below]
    assert [indices(encoder, field, v)[0] - 3 for v in values] == [1, 1, 1, 0]
    assert encoder.candidate.columns({"price": values}, 4).ravel().tolist() == [4, 4, 4, 3]


def test_lists_are_cut_on_one_side_in_training_and_serving() -> None:
    """The first ``max_values`` are kept, and only these are learned."""
    field = tags(max_values=2)
    encoder = encoder_for(field, frame={"tags": ["a|b|c", "|b||a|c"]})
    a, b = indices(encoder, field, ["a"])[0], indices(encoder, field, ["b"])[0]
    assert indices(encoder, field, ["a", "b", "c"]) == [a, b]
    assert indices(encoder, field, ["", "b", "", "a", "c"]) == [b, a]
    assert indices(encoder, field, ["c"]) == [OOV_ROW, PADDING]


def test_duplicates_stay() -> None:
    """A value that is there twice counts twice."""
    field = tags(max_values=3)
    encoder = encoder_for(field, frame={"tags": [["a"]]})
    assert indices(encoder, field, ["a", "a"]) == [3, 3, PADDING]


def test_empty_list_is_not_a_missing_list() -> None:
    """An empty list is padding only; a missing one has the missing row."""
    field = tags(max_values=3)
    encoder = encoder_for(field)
    assert indices(encoder, field, []) == indices(encoder, field, [""]) == [PADDING] * 3
    assert indices(encoder, field, None) == [MISSING_ROW, PADDING, PADDING]
    assert served_row(encoder.candidate, {}) == [MISSING_ROW, PADDING, PADDING]


@pytest.mark.parametrize("value", ["a|b", "", 3, {"a": 1}])
def test_a_list_is_a_list(value: Any) -> None:
    """JSON holds lists as lists; text is not split."""
    with pytest.raises(ValueProblem, match="expected a list"):
        encoder_for(TAGS).candidate.row({"tags": value})


@pytest.mark.parametrize(
    ("value", "position"),
    [([None], 0), (["a", None], 1), (["", "a", 1.5], 2), (["a", {}], 1)],
)
def test_problem_in_a_list_has_its_position(value: Any, position: int) -> None:
    """The position is that in the caller's list."""
    with pytest.raises(ValueProblem) as caught:
        encoder_for(TAGS).candidate.row({"tags": value})
    assert caught.value.position == position


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
        side.columns(columns, 3)
    rows = {name: [row for row, _ in p.problems] for name, p in caught.value.fields.items()}
    assert rows == {"tags": [1, 2], "price": [0, 2]}
    assert caught.value.fields["tags"].problems[0][1].position == 1


@pytest.mark.parametrize("name", FIELDS)
def test_required_values_must_be_there(name: str) -> None:
    """The absence of a required value is a problem: absent, null, or (of text) empty."""
    field = msgspec.structs.replace(FIELDS[name], required=True)
    side = side_of(encoder_for(field), field)
    absent = [None, ""] if isinstance(field, Categorical | Time) else [None]
    for value in absent:
        with pytest.raises(ValueProblem, match="required"):
            side.row({field.name: value})
        with pytest.raises(FieldProblems, match="required"):
            side.columns({field.name: [value]}, 1)
    for nothing in ({}, {"other": 1}):
        with pytest.raises(ValueProblem, match="required"):
            side.row(nothing)
        with pytest.raises(FieldProblems, match="required"):
            side.columns(nothing, 1)


@pytest.mark.parametrize("name", FIELDS)
def test_no_rows_are_no_rows(name: str) -> None:
    """A columnar list without rows has no indices, and no problem."""
    side = side_of(encoder_for(FIELDS[name]), FIELDS[name])
    assert side.columns({FIELDS[name].name: []}, 0).shape == (0, side.shape.width)


def test_single_slots_come_before_lists() -> None:
    """A row holds single-valued slots in the order of the spec, then each list's places."""
    other = Categorical(name="other", side="candidate")
    frame = {"tags": [["a"]], "price": [1], "other": ["x"]}
    side = encoder_for(tags(max_values=2), PRICE, other, frame=frame).candidate
    assert [encoder.name for encoder in side.encoders] == ["price", "other", "tags"]
    assert side.shape == (4, 2, ((2, 4),), 0)


SCALED = FIELDS["scaled"]
VALUE_ROW = 3
"""The row of a scaled field's numbers, after missing and OOV."""


def numbers(words: Sequence[int]) -> list[float]:
    """What words say as float32 numbers."""
    found: list[float] = np.array(words, np.int32).view(np.float32).tolist()
    return found


@pytest.mark.parametrize(
    ("value", "scaled"),
    [(3.0, 1.0), (1, -1.0), (2, 0.0), (4.5, 2.5), (11.5, 9.5), (12.5, 10.0), (1e30, 10.0),
     (-1e38, -10.0)],
)  # fmt: skip
def test_scaled_numbers_are_deviations_within_a_bound(value: float, scaled: float) -> None:
    """Of 1 and 3 the mean is 2 and the deviation 1; beyond ten deviations all count as ten."""
    side = encoder_for(SCALED, frame={"price": [1, 3, None]}).candidate
    index, bits = served_row(side, {"price": value})
    assert (index, numbers([bits])) == (VALUE_ROW, [scaled])
    assert side.columns({"price": [value]}, 1).tolist() == [[index, bits]]


def test_a_missing_scaled_number_is_once_a_row_of_its_own() -> None:
    """It is neither zero nor the mean: its row is missing's, and counts once."""
    side = encoder_for(SCALED, frame={"price": [1, 3]}).candidate
    index, bits = served_row(side, {})
    assert (index, numbers([bits])) == (MISSING_ROW, [1.0])
    assert side.columns({"price": [None, 3]}, 2)[0].tolist() == [index, bits]
    assert side.columns({}, 2).tolist() == [[index, bits]] * 2


def test_scaled_numbers_are_float32_first() -> None:
    """Two numbers of one float32 are one feature."""
    side = encoder_for(SCALED, frame={"price": [0.0, 0.3]}).candidate
    assert side.row({"price": 0.1}) == side.row({"price": float(np.float32(0.1))})


@pytest.mark.parametrize("value", [0.0, -0.0, -1e-46, 0, 1e-46])
def test_a_scaled_zero_has_no_sign(value: float) -> None:
    """What is zero as a float32 has one form, alone and in a column."""
    side = encoder_for(SCALED, frame={"price": [-1.0, 1.0]}).candidate
    row = served_row(side, {"price": value})
    assert row == served_row(side, {"price": 0})
    assert side.columns({"price": [value]}, 1).tolist() == [list(row)]


def test_scaled_slots_are_the_last_single_ones_and_their_numbers_the_last_words() -> None:
    """[price's bucket, other, scaled index, tags..., scaled number], whatever the spec's order."""
    scaled = Numeric(name="weight", side="candidate", encoding="scaled")
    other = Categorical(name="other", side="candidate", min_count=1)
    frame = {"weight": [1, 3], "tags": [["a"], []], "price": [1, 2], "other": ["x", "x"]}
    encoder = encoder_for(scaled, tags(max_values=2), PRICE, other, frame=frame)
    side = encoder.candidate
    assert [each.name for each in side.encoders] == ["price", "other", "weight", "tags"]
    assert side.shape == (6, 3, ((3, 5),), 1)
    row = served_row(side, {"weight": 4, "tags": ["a"], "price": 0, "other": "x"})
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
