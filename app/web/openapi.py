"""The scoring endpoints' part of the OpenAPI document.

They read their bodies themselves, so FastAPI does not know them. This adds the pydantic models of
the bodies, with the fields of the bundle in use and one of its golden requests as the example.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.bundle.bundle import Bundle, Example
from app.features import json_schema
from app.scoring.limits import Limits
from app.web.endpoints import ROUTES
from app.web.exchange import Route
from app.web.feedback import FeedbackRequest
from app.web.v2 import infer

BodiesExample = tuple[dict[str, Any], dict[str, Any] | None]
"""A request and, where a golden request tells it, the answer."""

_HEADERS: list[dict[str, Any]] = [
    {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "required": False,
        "description": "Milliseconds that the request may take, where that is less than the"
        " service's own limit.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "The caller's own name for the request; echoed if it is plain ASCII of at"
        " most 128 characters, else replaced.",
        "schema": {"type": "string"},
    },
]
_REQUEST_ID: dict[str, Any] = {
    "description": "The request's name: the caller's, or a new one.",
    "schema": {"type": "string"},
}
_RETRY_AFTER: dict[str, Any] = {
    "description": "Seconds after which another try makes sense.",
    "schema": {"type": "integer", "minimum": 1},
}


class Stored(NamedTuple):
    """The things that requests may name or leave out because a store has them."""

    catalogue: bool = False
    """Items may be named."""
    item_key: str | None = None
    """The field of an instance with the id of an item."""
    profile_key: str | None = None
    """The field of a context, or instance, with the key of a profile."""


def complete(
    document: dict[str, Any],
    bundle: Bundle | None,
    limits: Limits,
    stored: Stored,
    routes: Sequence[Route] = ROUTES,
) -> dict[str, Any]:
    """Return a copy of the document with the scoring endpoints' headers, bodies and examples.

    What is ``stored`` need not be sent; ``routes`` are those of the public port.
    """
    document = deepcopy(document)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_schemas(bundle, limits, routes))
    if not stored.catalogue:
        _without_items(schemas)
    if bundle is not None:
        _without_stored(schemas, stored)
    for route in routes:
        example = None
        if bundle is not None:
            example = _EXAMPLES[route.name](bundle.examples[0], bundle.version)
        for path in route.paths:
            _complete(document["paths"][path]["post"], route.request.__name__, example)
    for path in infer.ROUTE.paths:
        _binary(document["paths"][path]["post"])
    if "/feedback" in document["paths"]:
        schemas.update(_schemas_of(FeedbackRequest))
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    _drop_empty_defaults(document["components"])
    _drop_validation_errors(document)
    return document


def _binary(operation: dict[str, Any]) -> None:
    """Add the bodies of the binary tensor extension, and the header that it needs."""
    tensors: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
    operation["requestBody"]["content"][infer.BINARY.decode()] = tensors
    operation["responses"]["200"]["content"][infer.BINARY.decode()] = tensors
    operation["parameters"].append(
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "description": "Bytes of the JSON before the tensors, where there are any.",
            "schema": {"type": "integer", "minimum": 0},
        }
    )


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """Remove FastAPI's own answer to wrong parameters: the paths take no such ones."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]


def _drop_empty_defaults(node: Any) -> None:
    """Remove defaults that are null, false or empty: generators take such a property for one that
    is there, and have callers write it."""
    if isinstance(node, dict):
        if "default" in node and not node["default"]:
            del node["default"]
        for each in node.values():
            _drop_empty_defaults(each)
    elif isinstance(node, list):
        for each in node:
            _drop_empty_defaults(each)


def _complete(operation: dict[str, Any], request: str, example: BodiesExample | None) -> None:
    """Add to one operation the schema of its body, its headers and an example of both bodies."""
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{request}"}}
    operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    operation.setdefault("parameters", []).extend(_HEADERS)
    for status, response in operation["responses"].items():
        response["headers"] = {"X-Request-Id": _REQUEST_ID}
        if status == "429":
            response["headers"]["Retry-After"] = _RETRY_AFTER
    if example is not None:
        content["example"], answer = example
        if answer is not None:
            operation["responses"]["200"]["content"]["application/json"]["example"] = answer


def _schemas(bundle: Bundle | None, limits: Limits, routes: Sequence[Route]) -> dict[str, Any]:
    """The bodies' schemas; without a bundle they name no fields."""
    schemas = _schemas_of(*(route.request for route in routes))
    instances = schemas["PredictRequest"]["properties"]["instances"]
    instances["maxItems"] = limits.max_instances
    rows = schemas["RankRequest"]["properties"]["candidates"]["anyOf"][0]
    rows["maxItems"] = limits.max_candidates
    if limits.known_fields_only:
        schemas["RankRequest"]["additionalProperties"] = False
    schemas["ItemsModel"]["properties"]["ids"]["maxItems"] = limits.max_candidates
    for name in ("ItemsModel", "EverythingModel"):
        schemas[name]["properties"]["exclude"]["maxItems"] = limits.max_candidates
    if bundle is not None:
        spec, closed = bundle.spec, limits.known_fields_only
        places: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
            "Instance": (instances, "items", json_schema.instance(spec, closed)),
            "Context": (
                schemas["RankRequest"]["properties"],
                "context",
                json_schema.features(spec, "context", closed),
            ),
            "CandidateFeatures": (
                schemas["CandidateModel"]["properties"],
                "features",
                json_schema.features(spec, "candidate", closed),
            ),
            "CandidateColumns": (
                schemas["ColumnsModel"]["properties"],
                "features",
                json_schema.columns(spec, closed),
            ),
        }
        for name, (parent, key, schema) in places.items():
            schemas[name] = schema
            parent[key] = {"$ref": f"#/components/schemas/{name}"}
        if "ExplainRequest" in schemas:
            explained = schemas["ExplainRequest"]["properties"]
            explained["context"] = {"$ref": "#/components/schemas/Context"}
            one = explained["candidate"]
            one["anyOf"][0] = {"$ref": "#/components/schemas/CandidateFeatures"}
        own = schemas["ItemsModel"]["properties"]
        own["features"] = {"$ref": "#/components/schemas/CandidateColumns"}
    return schemas


def _schemas_of(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the schemas of bodies and of what they hold."""
    _, generated = models_json_schema(
        [(each, "validation") for each in models], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = generated["$defs"]
    return found


def _without_stored(schemas: dict[str, Any], stored: Stored) -> None:
    """Let contexts and instances have their keys, and lack what the store may have."""
    filled = {"Context": [stored.profile_key], "Instance": [stored.profile_key, stored.item_key]}
    for name, keys in filled.items():
        for key in keys:
            if key is not None:
                # A field of the spec stays as it is.
                schemas[name]["properties"].setdefault(key, {"type": ["integer", "string"]})
                schemas[name].pop("required", None)


def _without_items(schemas: dict[str, Any]) -> None:
    """Remove what only requests and answers with items of a catalogue have.

    Every candidate of an answer has an index and a score then: generated types need no check.
    """
    for name in ("ItemsModel", "EverythingModel", "RangeModel", "UnknownItems"):
        schemas.pop(name, None)
    for name in ("stored", "on_unknown"):
        del schemas["PredictRequest"]["properties"][name]
    for name in ("PredictResponse", "RankResponse"):
        del schemas[name]["properties"]["unknown"]
    predictions = schemas["PredictResponse"]["properties"]["predictions"]
    predictions["items"] = {"type": "number"}
    del schemas["RankRequest"]["properties"]["on_unknown"]
    of_items = ("/ItemsModel", "/EverythingModel")
    for name in {"RankRequest", "ExplainRequest"} & schemas.keys():
        forms = schemas[name]["properties"]["candidates"]["anyOf"]
        forms[:] = [form for form in forms if not form.get("$ref", "").endswith(of_items)]
    ranked = schemas["Ranked"]
    ranked["properties"]["index"] = {"type": "integer", "title": "Index"}
    ranked["properties"]["score"] = {"type": "number", "title": "Score"}
    ranked["required"] = ["index", "score"]


def _scores(example: Example) -> list[float]:
    scores = example.scores or [1 / (1 + math.exp(-logit)) for logit in example.logits]
    return [round(score, 6) for score in scores]


def _predict_example(example: Example, version: str) -> BodiesExample:
    instances = [{**example.context, **candidate} for candidate in example.candidates]
    return {"instances": instances}, {"predictions": _scores(example), "version": version}


def _rank_example(example: Example, version: str) -> BodiesExample:
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


def _explain_example(example: Example, version: str) -> BodiesExample:
    return {"context": example.context, "candidate": example.candidates[0]}, None


def _infer_example(example: Example, version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    rows = len(example.candidates)
    inputs = []
    for name in example.candidates[0]:
        values = [candidate.get(name) for candidate in example.candidates]
        kinds = {type(value) for value in values}
        datatype = {frozenset({int}): "INT64", frozenset({str}): "BYTES"}.get(frozenset(kinds))
        if datatype is not None:
            inputs.append({"name": name, "shape": [rows], "datatype": datatype, "data": values})
    outputs = [
        {"name": "score", "datatype": "FP32", "shape": [rows], "data": _scores(example)},
    ]
    answer = {"model_name": "ctr", "model_version": version, "outputs": outputs}
    return {"inputs": inputs, "outputs": [{"name": "score"}]}, answer


_EXAMPLES = {
    "predict": _predict_example,
    "rank": _rank_example,
    "explain": _explain_example,
    "infer": _infer_example,
}
