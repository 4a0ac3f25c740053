"""Builds the application: every object, every lifetime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from app import asgi
from app.cells import Cells
from app.documentation import Limits, complete
from app.endpoints import ScoringEndpoints
from app.errors import CtrError, MethodNotAllowed, NotFound, ServiceError
from app.loading import Opened
from app.metrics import Metrics
from app.routes import build_router
from app.settings import Settings
from app.state import State

SUCCESSION_SECONDS = 5.0
"""How long connections wait for a worker that replaces another, before they learn why."""
log = logging.getLogger(__name__)


class Service(FastAPI):
    """A FastAPI application whose scoring endpoints stand in front of its middleware."""

    scoring: ScoringEndpoints
    serving: State
    limits: Limits

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; once a bundle is loaded its examples are true ones."""
        loaded = self.serving.loaded
        return complete(super().openapi(), loaded.bundle if loaded else None, self.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self.scoring.find(scope["path"])
            if route is not None:
                await asgi.serve(self.scoring, route, scope, receive, send)
                return
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # The answer to GET; servers leave out its body, because their scope says HEAD.
            scope = {**scope, "method": "GET"}
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    on_fatal: Callable[[str], None],
    cells: Cells | None = None,
    opened: Opened | None = None,
) -> Service:
    """Build the service; ``on_fatal`` is told in one line why it cannot start.

    A worker among others is given the ``cells`` that they share, and a bundle that is opened.
    """
    metrics = Metrics(cells or Cells())
    state = State(settings, metrics, opened)
    endpoints = ScoringEndpoints(
        state,
        metrics.recorder,
        settings.deadline_ms / 1000,
        settings.max_body_bytes,
        settings.receive_seconds,
    )

    async def load() -> None:
        try:
            await state.start()
        except CtrError as error:
            on_fatal(str(error))
        except Exception as error:
            log.exception("loading failed")
            on_fatal(f"loading failed: {type(error).__name__}")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        if metrics.cells.started:
            # The others serve: connections wait for a worker that replaces one until it can too.
            await asyncio.wait([loading], timeout=SUCCESSION_SECONDS)
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            endpoints.close()
            await state.close()

    app = Service(
        title="deepfm-serving",
        description="Raw features in, click probabilities out.",
        version="0.1.0",
        lifespan=lifespan,
    )
    app.scoring, app.serving = endpoints, state
    app.limits = Limits(
        settings.max_instances, settings.max_candidates, settings.unknown_fields == "error"
    )
    app.include_router(build_router(state, endpoints, metrics))

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

    return app
