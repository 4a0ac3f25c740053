"""Every error of an application is answered in the one shape."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import MethodNotAllowed, NotFound, ServiceError


def answer_errors(app: FastAPI) -> None:
    """Have an application answer its errors, the framework's and unforeseen ones too."""

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, dict(error.headers))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        kinds: dict[int, ServiceError] = {
            404: NotFound("there is nothing at this path"),
            405: MethodNotAllowed("this path does not take that method"),
        }
        known = kinds.get(error.status_code, ServiceError(str(error.detail)))
        return JSONResponse(known.body(), error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def on_any_error(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(ServiceError("internal error").body(), 500)
