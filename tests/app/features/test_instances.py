"""An instance as a struct is encoded to the same words as the mapping, or refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from app.errors import ValueProblem
from app.features.encoder import Encoder
from app.features.instances import instance_type
from app.features.spec import Categorical
from tests.support.encoding import FIELDS, encoder_for

FRAME: dict[str, Any] = {
    "user": [1, 2, None], "tags": [["1"], ["2"], None], "price": [1.5, 2.5, None],
    "when": ["2024-01-01T01:00:00Z", "2024-01-02T02:00:00Z", None],
}  # fmt: skip
VALUES = [
    None, "", "1", "3", " 1", 1, 3, 1.0, 1.5, -0.0, True, False, 10**30, 2**63, 1e300, [], ["1"],
    ["1", 2], [None], {}, {"a": 1}, "2024-01-01T01:00:00Z", 1_704_070_800, "é", "\u0000", "1.0",
]  # fmt: skip


def outcome(encoder: Encoder, text: bytes, kind: Any) -> bytes | None:
    """The words of an instance of a type, or None where it is refused."""
    members = kind is encoder.instance
    context = encoder.context_of if members else encoder.context.row
    candidate = encoder.candidate_of if members else encoder.candidate.row
    try:
        row = msgspec.json.decode(text, type=kind)
        return context(row) + candidate(row)
    except (msgspec.MsgspecError, ValueProblem):
        return None


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_both_give_the_same_words(field: Any) -> None:
    """For every kind of field and value, twice, as a field may remember what it saw."""
    frame = {field.name: FRAME[field.name]}
    if getattr(field, "dtype", "") != "integer" and field.name == "user":
        frame = {"user": ["1", "2", None]}
    encoder = encoder_for(field, frame=frame)
    for value in VALUES * 2:
        text = json.dumps({field.name: value}).encode()
        assert outcome(encoder, text, encoder.instance) == outcome(encoder, text, dict), value
    assert outcome(encoder, b"{}", encoder.instance) == outcome(encoder, b"{}", dict)


def test_names_are_those_of_json() -> None:
    """Whatever they are in Python, and however they are escaped; the last of equal ones counts."""
    names = ["class", "a b", "é", "_", "m1", "row"]
    fields = [Categorical(name=name, side="context", min_count=1) for name in names]
    encoder = encoder_for(*fields, frame={name: ["x", "y"] for name in names})
    for name in names:
        for text in (json.dumps({name: "x"}), json.dumps({name: "x"}, ensure_ascii=False),
                     f'{{{json.dumps(name)}: "x", {json.dumps(name)}: "y"}}'):  # fmt: skip
            found = outcome(encoder, text.encode(), encoder.instance)
            assert found == outcome(encoder, text.encode(), dict) is not None


def test_an_unknown_field_is_refused() -> None:
    """Only a mapping tells its name."""
    encoder = encoder_for(FIELDS["string"])
    assert outcome(encoder, b'{"user": "1", "other": 1}', encoder.instance) is None


def test_a_name_that_json_must_escape_has_no_struct() -> None:
    """Mappings take it."""
    encoder = encoder_for(Categorical(name='a"b', side="context"))
    assert encoder.instance is None
    assert instance_type(encoder.context.encoders) is None
