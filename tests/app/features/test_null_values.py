"""Values that a spec's ``null_values`` make missing, in every kind of field and in every form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from app.errors import ValueProblem
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, FieldProblems
from app.features.field_encoders import field_encoder
from app.features.layout import PADDING
from app.features.null_values import null_values_of
from app.features.spec import FeatureSpec, Field, MultiCategorical, Numeric, Time
from tests.support.encoding import (
    FIELDS,
    MISSING_ROW,
    OOV_ROW,
    encoded_columns,
    encoded_row,
    encoder_for,
    indices,
    side_of,
    tags,
    user,
)
from tests.support.frames import learned

FORMS: list[tuple[Field, list[str], list[Any], list[Any]]] = [
    (user(), ["NA"], ["NA"], ["na", " NA", "N", "1"]),
    (user(), ["-1"], ["-1", -1], ["-1.0", "1", 1]),
    (user(dtype="integer"), ["\\N", "-1"], ["\\N", -1, "-1", -1.0, "-1.0", "-1."], [1, "0", -2]),
    (user(dtype="integer"), ["1e+05"], ["1e+05", 100_000, "100000"], [1, 10]),
    (user(dtype="boolean"), ["unknown"], ["unknown"], [True, "false"]),
    (FIELDS["edges"], ["NaN", "-999.9"], ["NaN", -999.9, -999.9000244140625], [-999, 0, 1.5]),
    (FIELDS["quantile"], ["-1"], ["-1", -1, -1.0], [1, -1.5]),
    (FIELDS["log_squared"], [".", "0"], [".", 0, 0.0, -0.0], [1, 2.5]),
    (FIELDS["scaled"], ["NULL", "-1"], ["NULL", -1], [0, 7.5]),
    (FIELDS["time"], ["0", "NULL"], [0, "0", "1970-01-01T00:00:00Z", 0.5, "NULL"], [3600, "1"]),
    (Time(name="when", side="context", parts=("hour",), format="%Y%m%d"),
     ["00000000"], ["00000000"], ["20141021", 20141021]),
]  # fmt: skip


def with_nulls(field: Field, *texts: str, required: bool = False) -> Any:
    return msgspec.structs.replace(field, null_values=texts, required=required)


@pytest.mark.parametrize(("plain", "texts", "nulls", "others"), FORMS, ids=repr)
def test_a_null_value_is_missing_in_every_form(
    plain: Field, texts: list[str], nulls: list[Any], others: list[Any]
) -> None:
    """Every form that the field's rules take for a null value is missing, and nothing else is."""
    field = with_nulls(plain, *texts)
    side = side_of(encoder_for(field), field)
    missing = encoded_row(side, {})
    for value in nulls:
        assert encoded_row(side, {field.name: value}) == missing, value
        assert encoded_columns(side, {field.name: [value]}, 1).tolist() == [missing], value
        with pytest.raises((ValueProblem, AssertionError)):
            # Without null_values it is a value of its own, or an error.
            assert encoded_row(side_of(encoder_for(plain), plain), {field.name: value}) == missing
    for value in others:
        assert encoded_row(side, {field.name: value}) != missing, value
    assert encoded_columns(side, {field.name: [*nulls, *others]}, len(nulls + others)).tolist() == [
        encoded_row(side, {field.name: value}) for value in [*nulls, *others]
    ]


@pytest.mark.parametrize(("plain", "texts", "nulls", "others"), FORMS, ids=repr)
def test_a_null_value_of_a_required_field_is_a_problem(
    plain: Field, texts: list[str], nulls: list[Any], others: list[Any]
) -> None:
    """It is as absent as null: alone, in a column, and where the value was seen before."""
    field = with_nulls(plain, *texts, required=True)
    side = side_of(encoder_for(field, frame={field.name: [None, None]}), field)
    for value in nulls:
        with pytest.raises(ValueProblem, match="required"):
            side.row({field.name: value})
        with pytest.raises(FieldProblems, match="required"):
            encoded_columns(side, {field.name: [value]}, 1)
    for value in others:
        assert side.row({field.name: value})


def test_null_values_in_lists_are_dropped() -> None:
    """As empty texts are; a list of nothing else is missing, as the text of a file's cell is."""
    field = with_nulls(tags(max_values=2), "\\N", "NA")
    encoder = encoder_for(field, frame={"tags": ["NA|a|\\N|b", "\\N"]})
    a, b = OOV_ROW + 1, OOV_ROW + 2
    assert indices(encoder, field, ["NA", "a", "NA", "b", "c"]) == [a, b]
    missing = [MISSING_ROW, PADDING]
    for value in ("\\N", ["\\N"], ["NA", "", "\\N"], None):
        assert indices(encoder, field, value) == missing
    assert indices(encoder, field, []) == indices(encoder, field, [""]) == [PADDING] * 2
    with pytest.raises(ValueProblem, match="expected a list"):
        indices(encoder, field, "a")


def test_null_values_of_a_required_list() -> None:
    """A list of null values alone is as absent as null."""
    field = with_nulls(tags(), "NA", required=True)
    side = encoder_for(field, frame={"tags": [["a"]]}).candidate
    assert side.row({"tags": ["a", "NA"]})
    for value in ("NA", ["NA"]):
        with pytest.raises(ValueProblem, match="required"):
            side.row({"tags": value})


def test_null_values_are_never_asked_for() -> None:
    """Where a table is incomplete a null value is no miss, dropped from a cache or not."""
    for plain, value in ((user(), "NA"), (tags(), ["NA"]), (user(dtype="boolean"), "NA")):
        field = with_nulls(plain, "NA")
        tables: dict[str, dict[Any, int]] = {field.name: {}}
        spec = FeatureSpec(label="click", fields=(field,))
        encoder = Encoder(spec, learned(spec, pl.DataFrame({field.name: [None]})), tables)
        side = side_of(encoder, field)
        for _ in range(2):
            misses: Misses = {}
            words = np.frombuffer(side.row({field.name: value}, misses), np.int32)
            assert words[0] == MISSING_ROW
            assert encoded_columns(side, {field.name: [value]}, 1, misses)[0, 0] == MISSING_ROW
            assert misses == {}
            tables[field.name].clear()


def test_null_values_are_not_learned() -> None:
    """Training counts them as missing: they take no row of the table."""
    field = with_nulls(user(), "NA")
    encoder = encoder_for(field, frame={"user": ["NA", "NA", "a"]})
    assert indices(encoder, field, "a") == [OOV_ROW + 1]
    assert indices(encoder, field, "NA") == [MISSING_ROW]


@pytest.mark.parametrize("name", FIELDS)
def test_no_other_type_is_a_null_value(name: str) -> None:
    """A boolean is not 1 or 0, and what cannot be hashed or read is left to the field's rules."""
    nulls = null_values_of(with_nulls(FIELDS[name], "0", "1", "True", "[]"))
    for value in (True, False, [], {}, (), float("nan"), float("inf"), 10**5000, [[]], {"a": 1}):
        assert value not in nulls


def spec_text(of_the_file: str, of_the_field: str) -> str:
    """A spec with keys at its top and in its first field."""
    return (
        f'label = "click"\n{of_the_file}\n'
        f'[[fields]]\nname = "country"\nkind = "categorical"\nside = "context"\n{of_the_field}\n'
        '[[fields]]\nname = "item"\nkind = "categorical"\nside = "candidate"\n'
    )


@pytest.mark.parametrize(
    ("of_the_file", "of_the_field", "country", "item"),
    [
        ("", "", None, None),
        ('null_values = ["\\\\N", "NA"]', "", ("\\N", "NA"), ("\\N", "NA")),
        ('null_values = ["\\\\N", "NA"]', 'null_values = ["\\\\N"]', ("\\N",), ("\\N", "NA")),
        ('null_values = ["NA"]', "null_values = []", (), ("NA",)),
        ("", 'null_values = ["NULL"]', ("NULL",), None),
    ],
)
def test_a_field_goes_before_the_file(
    of_the_file: str, of_the_field: str, country: Any, item: Any
) -> None:
    """A field's own list replaces that of the file, so that NA can stay a country."""
    spec = FeatureSpec.parse(spec_text(of_the_file, of_the_field))
    assert [field.null_values for field in spec.fields] == [country, item]


def test_text_is_null_only_where_the_spec_says_so() -> None:
    """Without ``null_values`` NA, NULL and the like are values like any other."""
    spec = FeatureSpec.parse(spec_text("", ""))
    assert [null_values_of(field) for field in spec.fields] == [(), ()]


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_a_row_has_the_words_of_its_field_encoder(name: str, required: bool) -> None:
    """The compiled function and the field's encoder agree on null values and their neighbours."""
    field = with_nulls(FIELDS[name], "NA", "1", "-1", required=required)
    learn = {field.name: [["2"]] if isinstance(field, MultiCategorical) else [2]}
    side = side_of(encoder_for(field, frame=learn), field)
    [encoder] = side.encoders

    def outcome(encode: Callable[[], Sequence[int]]) -> list[int] | str:
        try:
            return list(encode())
        except ValueProblem as problem:
            return str(problem)

    for value in [None, "", "NA", "1", 1, 1.0, "1.0", -1, 2, "2", 0, True, "a", ["1"], [2, 1]]:
        row = outcome(lambda value=value: encoded_row(side, {field.name: value}))
        assert row == outcome(lambda value=value: encoder.one(value)), value


def test_numbers_that_are_null_teach_no_scale() -> None:
    """Edges and scales are learned from the numbers that are there."""
    field = with_nulls(Numeric(name="price", side="candidate", encoding="scaled"), "-999")
    spec = FeatureSpec(label="click", fields=(field,))
    vocabulary = learned(spec, pl.DataFrame({"price": [1, 3, -999]}))
    encoder = field_encoder(field, vocabulary)
    assert encoder.one(2)[1] == 0
