"""The decoder of bodies and their documentation describe the same JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ValidationError

from app.errors import ServiceError
from app.scoring.decoding import (
    candidate_decoder,
    column_decoder,
    condition_decoder,
    context_decoder,
    decode,
    decode_part,
    instance_decoder,
    predict_decoder,
    rank_decoder,
    where_decoder,
)
from app.scoring.wire import CandidateColumns, PredictBody
from app.web.schemas import ErrorBody, PredictRequest, RankRequest

PREDICT: list[tuple[str, bool]] = [
    ('{"instances": []}', True),
    ('{"instances": [{}]}', True),
    ('{"instances": [{"a": 1, "b": null, "c": [1, "x"], "d": {"e": true}}]}', True),
    ('{"instances": [{"": ""}]}', True),
    ('{"instances": [{}], "signature_name": "serving_default"}', True),
    ('{"instances": [{}], "instances": []}', True),
    ('{"instances": [{"a": 123456789012345678901234567890}]}', True),
    (' \n{"instances":[ ]}\t', True),
    ("{}", False),
    ("[]", False),
    ("null", False),
    ("3", False),
    ('"instances"', False),
    ('{"Instances": []}', False),
    ('{"instances": null}', False),
    ('{"instances": {}}', False),
    ('{"instances": "[]"}', False),
    ('{"instances": [null]}', False),
    ('{"instances": [[]]}', False),
    ('{"instances": [1]}', False),
    ('{"instances": ["{}"]}', False),
    ('{"instances": [{}, true]}', False),
    ('{"instances": [{}]', False),
    ('{"instances": [{}]}}', False),
    ("", False),
]
RANK: list[tuple[str, bool]] = [
    ('{"context": {}, "candidates": []}', True),
    ('{"candidates": [], "context": {"a": 1}, "more": 3}', True),
    ('{"context": {}, "candidates": [{"features": {}}]}', True),
    ('{"context": {}, "candidates": [{"features": {"a": []}, "id": "x", "more": 1}]}', True),
    ('{"context": {}, "candidates": [{"id": 7, "features": {}}]}', True),
    ('{"context": {}, "candidates": [{"id": null, "features": {}}]}', True),
    ('{"context": {}, "candidates": [{"id": -18446744073709551616, "features": {}}]}', True),
    ('{"context": {}, "candidates": [{"id": "", "features": {}}]}', True),
    ('{"context": {}, "candidates": {"features": {}}}', True),
    ('{"context": {}, "candidates": {"features": {"a": []}, "id": []}}', True),
    ('{"context": {}, "candidates": {"features": {"a": [1, "x", [2], null]}}}', True),
    ('{"context": {}, "candidates": {"features": {}, "id": ["a", 7, null]}}', True),
    ('{"context": {}, "candidates": {"features": {}, "id": null}}', True),
    ('{"context": {}, "candidates": [], "top_k": null}', True),
    ('{"context": {}, "candidates": [], "top_k": 1}', True),
    ('{"context": {}, "candidates": [], "top_k": 1000000000000}', True),
    ("{}", False),
    ('{"context": {}}', False),
    ('{"candidates": []}', False),
    ('{"context": null, "candidates": []}', False),
    ('{"context": [], "candidates": []}', False),
    ('{"context": "", "candidates": []}', False),
    ('{"context": {}, "candidates": null}', False),
    ('{"context": {}, "candidates": 3}', False),
    ('{"context": {}, "candidates": "x"}', False),
    ('{"context": {}, "candidates": [{}]}', False),
    ('{"context": {}, "candidates": [null]}', False),
    ('{"context": {}, "candidates": [[]]}', False),
    ('{"context": {}, "candidates": [{"features": null}]}', False),
    ('{"context": {}, "candidates": [{"features": []}]}', False),
    ('{"context": {}, "candidates": [{"features": {}, "id": true}]}', False),
    ('{"context": {}, "candidates": [{"features": {}, "id": 1.0}]}', False),
    ('{"context": {}, "candidates": [{"features": {}, "id": 1.5}]}', False),
    ('{"context": {}, "candidates": [{"features": {}, "id": ["a"]}]}', False),
    ('{"context": {}, "candidates": [{"features": {}, "id": {}}]}', False),
    ('{"context": {}, "candidates": {"ids": []}}', True),
    ('{"context": {}, "candidates": {"ids": [7, "7"], "exclude": [1]}}', True),
    ('{"context": {}, "candidates": {"ids": [7], "features": {"a": [1]}}}', True),
    ('{"context": {}, "candidates": {"all": true}, "on_unknown": "last"}', True),
    ('{"context": {}, "candidates": {"all": false, "features": {}}}', True),
    ('{"context": {}, "candidates": {"all": true, "exclude": ["a"]}, "on_unknown": null}', True),
    ('{"context": {}, "candidates": {"all": true, "where": {"a": [1, "x"]}}}', True),
    ('{"context": {}, "candidates": {"ids": [], "where": {"a": {"min": 1, "max": 2.5}}}}', True),
    ('{"context": {}, "candidates": {"ids": [], "where": null}}', True),
    ('{"context": {}, "candidates": {"ids": [], "where": {"a": 1}}}', False),
    ('{"context": {}, "candidates": {"ids": [], "where": {"a": {"min": "1"}}}}', False),
    ('{"context": {}, "candidates": {"ids": [], "where": {"a": {"from": 1}}}}', False),
    ('{"context": {}, "candidates": {"all": false}}', False),
    ('{"context": {}, "candidates": {"all": 1}}', False),
    ('{"context": {}, "candidates": {"all": "true"}}', False),
    ('{"context": {}, "candidates": {"ids": [null]}}', False),
    ('{"context": {}, "candidates": {"ids": [true]}}', False),
    ('{"context": {}, "candidates": {"ids": [1.0]}}', False),
    ('{"context": {}, "candidates": {"ids": 7}}', False),
    ('{"context": {}, "candidates": {"ids": [7], "features": {"a": 1}}}', False),
    ('{"context": {}, "candidates": {"ids": [7], "exclude": [[]]}}', False),
    ('{"context": {}, "candidates": {"ids": [7]}, "on_unknown": "drop"}', False),
    ('{"context": {}, "candidates": {}}', False),
    ('{"context": {}, "candidates": {"features": []}}', False),
    ('{"context": {}, "candidates": {"features": null}}', False),
    ('{"context": {}, "candidates": {"features": {"a": 1}}}', False),
    ('{"context": {}, "candidates": {"features": {"a": null}}}', False),
    ('{"context": {}, "candidates": {"features": {"a": "xy"}}}', False),
    ('{"context": {}, "candidates": {"features": {}, "id": "ab"}}', False),
    ('{"context": {}, "candidates": {"features": {}, "id": [true]}}', False),
    ('{"context": {}, "candidates": {"features": {}, "id": [1.5]}}', False),
    ('{"context": {}, "candidates": [], "top_k": 0}', False),
    ('{"context": {}, "candidates": [], "top_k": -3}', False),
    ('{"context": {}, "candidates": [], "top_k": "5"}', False),
    ('{"context": {}, "candidates": [], "top_k": true}', False),
    ('{"context": {}, "candidates": [], "top_k": 1.0}', False),
    ('{"context": {}, "candidates": [], "top_k": 2.5}', False),
    ('{"context": {}, "candidates": [], "top_k": []}', False),
]


def whole(decoder: Any, body: str) -> Any:
    """The decoded body with all its parts, or nothing where any of it is refused."""
    raw = body.encode()
    try:
        found = decode(decoder, raw)
        if isinstance(found, PredictBody):
            return [
                decode_part(instance_decoder, raw, part, "instances", row)
                for row, part in enumerate(found.instances)
            ]
        candidates: Any
        if isinstance(found.candidates, CandidateColumns):
            if found.candidates.where is not msgspec.UNSET:
                where = decode_part(where_decoder, raw, found.candidates.where, "where")
                for name, part in (where or {}).items():
                    decode_part(condition_decoder, raw, part, "where", name)
            candidates = {
                name: decode_part(column_decoder, raw, part, "candidates.features", name)
                for name, part in (found.candidates.features or {}).items()
            }
        else:
            candidates = [
                decode_part(candidate_decoder, raw, part, "candidates", row)
                for row, part in enumerate(found.candidates)
            ]
        context = decode_part(context_decoder, raw, found.context, "context")
        return context, candidates, found.top_k
    except ServiceError as error:
        ErrorBody.model_validate(error.body(), strict=True, extra="forbid")
        return None


def validates(model: type[BaseModel], body: str) -> bool:
    """Return whether the documented model takes a body."""
    try:
        model.model_validate_json(body)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(("body", "taken"), PREDICT)
def test_predict_bodies(body: str, taken: bool) -> None:
    """The struct that decodes /predict and the model that documents it take the same bodies."""
    assert (whole(predict_decoder, body) is not None) == taken
    assert validates(PredictRequest, body) == taken


@pytest.mark.parametrize(("body", "taken"), RANK)
def test_rank_bodies(body: str, taken: bool) -> None:
    """The struct that decodes /rank and the model that documents it take the same bodies."""
    assert (whole(rank_decoder, body) is not None) == taken
    assert validates(RankRequest, body) == taken


def test_both_read_the_same_values() -> None:
    """A body that both take, both read alike: order, types and ids."""
    body = (
        '{"context": {"b": 1, "a": 1.0}, "top_k": 3, "candidates":'
        ' [{"id": 7, "features": {"x": ["é", null]}}, {"id": "7", "features": {"x": 2.50}}]}'
    )
    context, candidates, top_k = whole(rank_decoder, body)
    model = RankRequest.model_validate_json(body)
    assert (context, top_k) == (model.context, model.top_k)
    assert isinstance(model.candidates, list)
    assert [(c.id, c.features) for c in candidates] == [
        (c.id, c.features) for c in model.candidates
    ]
