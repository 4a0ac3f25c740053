"""The encoder takes the values that the OpenAPI document says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app.errors import ValueProblem
from app.features.field_encoders import field_encoder
from app.features.json_schema import columns, features, instance, value
from app.features.spec import FeatureSpec
from tests.support.frames import learned, read
from tests.support.samples import SPEC

KINDS = {
    "text": 'kind = "categorical"',
    "integer": 'kind = "categorical"\ndtype = "integer"',
    "integer, empty is a value": (
        'kind = "categorical"\ndtype = "integer"\nempty_is_missing = false'
    ),
    "text, empty is a value": 'kind = "categorical"\nempty_is_missing = false',
    "texts": 'kind = "multi_categorical"',
    "integers": 'kind = "multi_categorical"\ndtype = "integer"',
    "integers, empty is a value": (
        'kind = "multi_categorical"\ndtype = "integer"\nempty_is_missing = false'
    ),
    "number": 'kind = "numeric"\nencoding = "edges"\nedges = [1.0]',
    "time": 'kind = "time"\nparts = ["hour"]',
    "boolean": 'kind = "categorical"\ndtype = "boolean"',
    "booleans": 'kind = "multi_categorical"\ndtype = "boolean"',
    "text with nulls": 'kind = "categorical"\nnull_values = ["a", "-1", "x.|(y"]',
    "integer with nulls": 'kind = "categorical"\ndtype = "integer"\nnull_values = ["a", "9999"]',
    "number with nulls": 'kind = "numeric"\nencoding = "scaled"\nnull_values = ["a", "1.5"]',
    "time with nulls": 'kind = "time"\nparts = ["hour"]\nnull_values = ["yesterday", "9999"]',
}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, "", "a", "é", "0", "-0", "007", " 7", "7\n", "1.0", "1.00", "1.",
    ".5", "1e3", "1e+05", "-1.E14", "1e", "9e16", "-12",
    2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**30, 1e38, -1e38, 3.5e38,
    10**400, "9" * 18, "-" + "9" * 18, "9" * 19, "9" * 21, -62_135_596_800, -62_135_596_801,
    253_402_300_799, 253_402_300_800, "1700000000", "1700000000.25", "9" * 10, "9" * 12,
    "2026-11-26T10:00:00Z", "2026-11-26T10:00:00+01:00", "2026-13-26T10:00:00Z", "yesterday",
    "true", "TRUE", "False", "truE ", "x.|(y", "xyz", 9999, 9998,
    [], [None], [""], [True, "FALSE"], ["A"], ["a"], ["a", "a"], [1, "2", "3.0"], [1.5], [True],
    ["", "x"], [[]], [{}],
    {}, {"a": 1},
]  # fmt: skip


def spec_of(kind: str, required: bool) -> FeatureSpec:
    """A spec with one field of a kind for the context, and another field for candidates."""
    need = str(required).lower()
    return FeatureSpec.parse(
        f'label = "y"\n[[fields]]\nname = "x"\nside = "context"\nrequired = {need}\n{KINDS[kind]}\n'
        '[[fields]]\nname = "z"\nside = "candidate"\nkind = "categorical"\n'
    )


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_schema_and_encoder_agree(tmp_path: Path, kind: str, required: bool) -> None:
    """Each value is taken by both or by neither."""
    log = tmp_path / "log.csv"
    values = ("true", "false") if "boolean" in kind else (3, 2)
    log.write_text("x,z,y\n{},a,0\n{},b,1\n".format(*values))
    spec = spec_of(kind, required)
    field = spec.fields[0]
    schema = jsonschema_rs.validator_for(value(field), validate_formats=True)
    encode = field_encoder(field, learned(spec, read(spec, [log]))).one

    def scored(item: Any) -> bool:
        try:
            encode(item)
        except ValueProblem:
            return False
        return True

    differ = [each for each in VALUES if schema.is_valid(each) != scored(each)]
    assert differ == []


def test_objects_tell_what_must_and_may_not_be_there() -> None:
    """Required fields, fields of the other side, and unknown ones where they are refused."""
    spec = FeatureSpec.parse(SPEC)
    context = {"placement": "top", "age": 3}
    takes = {
        name: jsonschema_rs.validator_for(schema).is_valid
        for name, schema in {
            "instance": instance(spec, closed=False),
            "closed instance": instance(spec, closed=True),
            "context": features(spec, "context", closed=False),
            "candidate": features(spec, "candidate", closed=False),
            "columns": columns(spec, closed=False),
            "closed columns": columns(spec, closed=True),
        }.items()
    }
    assert takes["instance"]({**context, "price": 1, "more": 1})
    assert takes["closed instance"]({**context, "price": 1})
    assert not takes["closed instance"]({**context, "more": 1})
    assert not takes["instance"]({"price": 1}), "placement is required"
    assert takes["context"](context)
    assert not takes["context"]({**context, "price": 1}), "of a candidate"
    assert takes["candidate"]({"price": 1, "more": 1})
    assert not takes["candidate"]({"age": 1}), "of the context"
    assert takes["columns"]({"price": [1, None], "more": [{}, 1]})
    assert not takes["columns"]({"price": [1, "x"]})
    assert not takes["columns"]({"more": 1}), "no list"
    assert not takes["closed columns"]({"more": [1]})
