"""The Open Inference Protocol's endpoints beside ``infer``: health and metadata."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from app import __version__
from app.errors import NotFound, NotReady, ServiceError
from app.features.spec import Categorical, Field, MultiCategorical, Numeric
from app.serving.loading import Loaded
from app.serving.state import ServingState
from app.web.model_names import NAME
from app.web.routes import group_of
from app.web.schemas import ErrorBody
from app.web.v2.infer import v2_error
from app.web.v2.schemas import Live, ModelMetadata, Ready, ServerMetadata, TensorMetadata, V2Error
from app.web.v2.wire import OUTPUTS

EXTENSIONS = ["binary_tensor_data"]
PLATFORM = "onnxruntime_onnx"
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Ready}}
_NO_PATH: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody}}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody | V2Error}}
_NO_BUNDLE: dict[int | str, dict[str, Any]] = {503: {"model": V2Error}}


def add_v2(app: FastAPI, state: ServingState) -> None:
    """Add the routes over the state of the service."""
    router = group_of(app, prefix="/v2", tags=["v2"])

    def in_use(version: str | None) -> Loaded:
        loaded = state.loaded
        if state.draining:
            raise NotReady("the service is draining")
        if loaded is None or not state.ready:
            raise NotReady(state.not_ready)
        if version not in (None, loaded.bundle.version):
            raise NotFound(f"this version is not in use; {loaded.bundle.version} is")
        return loaded

    @router.get("")
    @router.get("/", include_in_schema=False)
    async def v2_server() -> ServerMetadata:
        """The server and its extensions."""
        return ServerMetadata(name="deepfm-serving", version=__version__, extensions=EXTENSIONS)

    @router.get("/health/live")
    async def v2_live() -> Live:
        """The process answers."""
        return Live(live=True)

    @router.get("/health/ready", responses=_NOT_READY, response_model_exclude_none=True)
    async def v2_ready() -> Any:
        """A bundle is loaded, verified and warm; 503 like /ready."""
        return ready(None, None)

    @router.get(
        "/models/{name:model}/ready",
        responses={**_NOT_READY, **_NO_PATH},
        response_model_exclude_none=True,
    )
    async def v2_model_ready(name: NAME) -> Any:
        """The same; any name is taken."""
        return ready(name, None)

    @router.get(
        "/models/{name:model}/versions/{version:model}/ready",
        responses={**_NOT_READY, **_UNKNOWN},
        response_model_exclude_none=True,
    )
    async def v2_version_ready(name: NAME, version: NAME) -> Any:
        """The same, if this version is in use; else 404."""
        return ready(name, version)

    @router.get("/models/{name:model}", responses={**_NO_BUNDLE, **_NO_PATH})
    async def v2_model(name: NAME) -> Any:
        """The inputs and outputs of the bundle in use."""
        return metadata(name, None)

    @router.get(
        "/models/{name:model}/versions/{version:model}", responses={**_NO_BUNDLE, **_UNKNOWN}
    )
    async def v2_version(name: NAME, version: NAME) -> Any:
        """The same, if this version is in use; else 404."""
        return metadata(name, version)

    def metadata(name: str, version: str | None) -> Any:
        try:
            loaded = in_use(version)
        except ServiceError as error:
            return Response(v2_error(error), error.status, media_type="application/json")
        return ModelMetadata(
            name=name,
            versions=[loaded.bundle.version],
            platform=PLATFORM,
            inputs=[_input(field) for field in loaded.bundle.spec.fields],
            outputs=[TensorMetadata(name=each, datatype="FP32", shape=[-1]) for each in OUTPUTS],
        )

    def ready(name: str | None, version: str | None) -> Any:
        try:
            in_use(version)
        except NotReady as error:
            told = Ready(name=name, ready=False, error=str(error))
            return JSONResponse(told.model_dump(exclude_none=True), error.status)
        except NotFound as error:
            return Response(v2_error(error), error.status, media_type="application/json")
        return Ready(name=name, ready=True)


def _input(field: Field) -> TensorMetadata:
    """Return what an input of a field looks like."""
    datatype = "BYTES"
    if isinstance(field, Categorical | MultiCategorical):
        datatype = {"integer": "INT64", "boolean": "BOOL", "string": "BYTES"}[field.dtype]
    elif isinstance(field, Numeric):
        datatype = "FP32"
    shape = [-1, -1] if isinstance(field, MultiCategorical) else [-1]
    return TensorMetadata(name=field.name, datatype=datatype, shape=shape)
