"""The paths and bodies of the Open Inference Protocol v2 over REST, as an OpenAPI document.

After github.com/kserve/open-inference-protocol, specification/protocol/open_inference_rest.yaml:
what a server of the protocol answers, whatever this service says of itself.
"""

from __future__ import annotations

from typing import Any

TEXT, OBJECT = {"type": "string"}, {"type": "object"}
TENSOR: dict[str, Any] = {"name": TEXT, "shape": {"type": "array", "items": {"type": "integer"}},
                          "datatype": TEXT}  # fmt: skip
DATA = {"type": "array", "items": {"type": ["number", "string", "boolean", "array"]}}


def made(needed: list[str], **properties: Any) -> dict[str, Any]:
    """An object with properties, of which some must be there."""
    return {"type": "object", "required": needed, "properties": properties}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """A list of objects."""
    return {"type": "array", "items": item}


def answers(ok: dict[str, Any]) -> dict[str, Any]:
    """The schema of an answer with 200, and of every refusal."""
    content = {"application/json": {"schema": ok}}
    error = {"application/json": {"schema": made(["error"], error=TEXT)}}
    return {
        "200": {"description": "", "content": content},
        "4XX": {"description": "", "content": error},
        "5XX": {"description": "", "content": error},
    }


METADATA = made(list(TENSOR), **TENSOR)
REQUEST = made(
    ["inputs"],
    id=TEXT,
    parameters=OBJECT,
    inputs=listed(made([*TENSOR, "data"], **TENSOR, parameters=OBJECT, data=DATA)),
    outputs=listed(made(["name"], name=TEXT, parameters=OBJECT)),
)
RESPONSE = made(
    ["model_name", "outputs"],
    model_name=TEXT,
    model_version=TEXT,
    id=TEXT,
    parameters=OBJECT,
    outputs=listed(made([*TENSOR, "data"], **TENSOR, parameters=OBJECT, data=DATA)),
)
SERVER = made(["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=listed(TEXT))
MODEL = made(
    ["name", "platform"],
    name=TEXT, platform=TEXT, versions=listed(TEXT), inputs=listed(METADATA),
    outputs=listed(METADATA),
)  # fmt: skip


def document(version: str) -> dict[str, Any]:
    """The document; of paths with a version those of this one."""

    def name(key: str, value: str) -> dict[str, Any]:
        return {"name": key, "in": "path", "required": True, "schema": {"enum": [value]}}

    def get(ok: dict[str, Any]) -> dict[str, Any]:
        return {"get": {"responses": answers(ok)}}

    body = {"required": True, "content": {"application/json": {"schema": REQUEST}}}
    post = {"post": {"requestBody": body, "responses": answers(RESPONSE)}}
    model = {"parameters": [name("model", "ctr")]}
    versioned = {"parameters": [name("model", "ctr"), name("version", version)]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Open Inference Protocol", "version": "2"},
        "paths": {
            "/v2": get(SERVER),
            "/v2/health/live": get(OBJECT),
            "/v2/health/ready": get(OBJECT),
            "/v2/models/{model}": {**model, **get(MODEL)},
            "/v2/models/{model}/ready": {**model, **get(OBJECT)},
            "/v2/models/{model}/infer": {**model, **post},
            "/v2/models/{model}/versions/{version}": {**versioned, **get(MODEL)},
            "/v2/models/{model}/versions/{version}/ready": {**versioned, **get(OBJECT)},
            "/v2/models/{model}/versions/{version}/infer": {**versioned, **post},
        },
    }
