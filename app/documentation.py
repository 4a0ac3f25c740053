"""The scoring endpoints' part of the OpenAPI document.

They read their bodies themselves, so FastAPI cannot know them; the pydantic models that
describe those bodies are put in here, with a golden request of the bundle as the example.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

from pydantic.json_schema import models_json_schema

from app.bundle import Bundle, Example
from app.schemas import PredictRequest, RankRequest

PREDICT_PATHS = ("/predict", "/v1/models/{name}:predict")
RANK_PATH = "/rank"


def complete(document: dict[str, Any], bundle: Bundle | None) -> dict[str, Any]:
    """Return a copy of the document with the scoring endpoints' bodies and examples."""
    document = deepcopy(document)
    _, schemas = models_json_schema(
        [(PredictRequest, "validation"), (RankRequest, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    for path in (*PREDICT_PATHS, RANK_PATH):
        model = RankRequest if path == RANK_PATH else PredictRequest
        operation = document["paths"][path]["post"]
        content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
        if bundle is not None:
            form = _rank if path == RANK_PATH else _predict
            request, answer = form(bundle.examples[0], bundle.version)
            content["example"] = request
            operation["responses"]["200"]["content"]["application/json"]["example"] = answer
    return document


def _scores(example: Example) -> list[float]:
    scores = example.scores or [1 / (1 + math.exp(-logit)) for logit in example.logits]
    return [round(score, 6) for score in scores]


def _predict(example: Example, version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    instances = [{**example.context, **candidate} for candidate in example.candidates]
    return {"instances": instances}, {"predictions": _scores(example), "version": version}


def _rank(example: Example, version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    candidates = [
        {"id": f"candidate-{index}", "features": features}
        for index, features in enumerate(example.candidates)
    ]
    scores = _scores(example)
    order = sorted(range(len(candidates)), key=lambda index: -example.logits[index])
    ranking = [
        {"index": index, "id": candidates[index]["id"], "score": scores[index]} for index in order
    ]
    request = {"context": example.context, "candidates": candidates}
    return request, {"ranking": ranking, "version": version}
