"""A field that is known in training only has one value in serving, whatever a request says."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from msgspec.structs import replace

from app.bundle.contract import differences
from app.errors import SpecError
from app.features.encoder import Encoder
from app.features.json_schema import features, instance
from app.features.spec import Categorical, FeatureSpec, Numeric
from tests.support.encoding import FIELDS, encoded_columns, encoded_row, side_of
from tests.support.frames import learned
from tests.support.samples import SPEC

VALUES = [None, 1, 2, "1", "a", "", 3.5, True, [], {}, float("nan"), 2**70]
SERVED: dict[str, Any] = {
    name: field for name, field in FIELDS.items() if isinstance(field, Categorical | Numeric)
}


def value_of(field: Any) -> Any:
    return {"string": "1", "integer": 1, "boolean": True}.get(getattr(field, "dtype", ""), 1)


def spec_with(changed: str) -> FeatureSpec:
    """The sample's spec with lines after the name of a field."""
    name, _, lines = changed.partition("\n")
    text = SPEC.replace(f'name = "{name}"\n', f'name = "{name}"\n{lines}\n')
    assert text != SPEC
    return FeatureSpec.parse(text)


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("name", SERVED)
def test_every_way_of_encoding_gives_the_one_value(name: str, required: bool) -> None:
    """A row, columns, a struct and stored values; in training each row has its own."""
    own = replace(SERVED[name], required=required)
    field = replace(own, serve=value_of(own))
    other = Categorical(name="other", side="context" if own.side == "candidate" else "candidate")
    spec = FeatureSpec(label="click", fields=(field, other))
    frame = pl.DataFrame({field.name: [value_of(own)] * 2, "other": ["x", "x"]}, strict=False)
    vocabulary = learned(spec, frame)
    serving = Encoder(spec, vocabulary)
    side = side_of(serving, field)
    training = side_of(Encoder(spec, vocabulary, training=True), field)
    expected = encoded_row(training, {field.name: value_of(own)})
    for value in VALUES:
        assert encoded_row(side, {field.name: value}) == expected
        assert encoded_row(side, {}) == expected
        assert list(side.problems({field.name: value})) == []
    columns = encoded_columns(side, {field.name: VALUES}, len(VALUES))
    assert columns.tolist() == [expected] * len(VALUES)
    assert encoded_columns(side, {}, 2).tolist() == [expected] * 2
    assert serving.instance is not None
    encode = serving.context_of if field.side == "context" else serving.candidate_of
    assert np.frombuffer(encode(serving.instance()), np.int32).tolist() == expected
    if not required:
        assert encoded_row(training, {}) != expected


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ("user_id\nserve = 'x'", "`serve` must be a value of type integer, got 'x'"),
        ("user_id\nserve = 1.5", "`serve` must be a value of type integer, got 1.5"),
        ("country\nserve = true", "`serve` must be a value of type string, got True"),
        ("price\nserve = '1'", "`serve` must be a number, got '1'"),
        ("price\nserve = inf", "`serve` must be a number, got inf"),
        ("price\nserve = 1\ndynamic = true", "it cannot be `dynamic`"),
        ("tags\nserve = 'x'", "unknown key 'serve'"),
        ("time\nserve = 1", "unknown key 'serve'"),
    ],
)
def test_a_value_that_cannot_be_is_told(changed: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_with(changed)
    assert problem in str(caught.value)
    assert f"field {changed.split()[0]!r}" in str(caught.value)


def test_a_schema_takes_everything_and_needs_nothing() -> None:
    spec = spec_with("placement\nserve = 'top'")
    for schema in (instance(spec, closed=True), features(spec, "context", closed=True)):
        assert schema["properties"]["placement"] == {
            "description": "Ignored: it is known in training only, and counts as 'top'."
        }
        assert "required" not in schema
    assert instance(FeatureSpec.parse(SPEC), closed=True)["required"] == ["placement"]


def test_the_request_contract_knows_it() -> None:
    """What callers send of it begins to be ignored, or to count."""
    plain, fixed = FeatureSpec.parse(SPEC), spec_with("placement\nserve = 'top'")
    other = spec_with("placement\nserve = 'side'\nmin_count = 3")
    name = "field 'placement'"
    assert differences(plain, fixed) == [f"{name} is known in training only, and counts as 'top'"]
    assert differences(fixed, plain) == [f"{name} is no longer known in training only"]
    assert differences(fixed, other) == differences(fixed, fixed) == []
    without = FeatureSpec(
        label="click", fields=tuple(f for f in plain.fields if f.name != "placement")
    )
    assert differences(without, fixed) == []
    assert differences(without, plain) == [f"{name} is new and required"]
