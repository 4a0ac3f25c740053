"""The messages of the Open Inference Protocol v2 that a request's head is decoded to."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Datatype = Literal[
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
NUMBERS: dict[str, str] = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""numpy's name of each datatype's numbers, as the binary extension has them."""
OutputName = Literal["score", "logit"]
OUTPUTS: tuple[OutputName, ...] = ("score", "logit")
Parameters = dict[str, Any]


class Tensor(msgspec.Struct, frozen=True):
    """An input: a field's values, in ``data`` or behind the head."""

    name: str
    shape: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)]
    datatype: Datatype
    parameters: Parameters = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Requested(msgspec.Struct, frozen=True):
    """An output that the caller wants."""

    name: OutputName
    parameters: Parameters = {}


class InferBody(msgspec.Struct, frozen=True):
    """Head of a request; other keys are ignored. Each input's data are decoded later."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: Parameters = {}
    outputs: list[Requested] | None = None


infer_decoder = msgspec.json.Decoder(InferBody)
