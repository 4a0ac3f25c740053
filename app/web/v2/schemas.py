"""The pydantic models of the Open Inference Protocol's bodies, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.web.schemas import ErrorDetail
from app.web.v2.wire import Datatype, OutputName


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class InferInput(_Model):
    """The values of one field, one for each row."""

    name: Annotated[str, Field(description="The field.")]
    shape: Annotated[
        list[Annotated[int, Field(ge=0)]],
        Field(min_length=1, max_length=2, description="[N], or of lists [N, L]."),
    ]
    datatype: Datatype
    parameters: Annotated[
        dict[str, Any],
        Field(
            description="missing: the value that stands for a missing one. padding: the value that"
            " fills up the rows of lists. binary_data_size: bytes behind the JSON."
        ),
    ] = {}
    data: Annotated[list[Any] | None, Field(description="Values by rows, flat or nested.")] = None


class InferOutput(_Model):
    """An output that the answer shall have."""

    name: OutputName
    parameters: Annotated[
        dict[str, Any], Field(description="binary_data: true puts it behind the JSON.")
    ] = {}


class InferRequest(_Model):
    """Rows to score, as a tensor for each field."""

    inputs: Annotated[list[InferInput], Field(min_length=1)]
    id: str | None = None
    parameters: Annotated[
        dict[str, Any], Field(description="binary_data_output: true for all outputs.")
    ] = {}
    outputs: Annotated[list[InferOutput] | None, Field(description="Default: score and logit.")] = (
        None
    )


class InferTensor(BaseModel):
    """An output: a number for each row."""

    name: OutputName
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    """Scores and logits of the rows, in their order."""

    model_name: str
    model_version: Annotated[str, Field(description="The bundle that scored them.")]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[InferTensor]


class V2Error(BaseModel):
    """An error as the Open Inference Protocol has it, with the members of all other errors."""

    error: str
    code: str
    details: list[ErrorDetail] | None = None
    total: int | None = None


class TensorMetadata(BaseModel):
    """Name, datatype and shape of an input or output; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The inputs and outputs of the bundle in use."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """The server and its extensions of the protocol."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """The server, or a model, can score, or why it cannot."""

    name: str | None = None
    ready: bool
    error: str | None = None
