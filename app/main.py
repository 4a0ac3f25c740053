"""Builds the application: every object, every lifetime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.types import Message, Receive, Scope, Send

from app.errors import CtrError
from app.metrics.registry import Metrics
from app.metrics.requests import OPERATION, RequestMetrics
from app.scoring.limits import Limits
from app.serving.loading import Opened
from app.serving.state import State
from app.settings import Settings
from app.web import asgi
from app.web.docs_page import page
from app.web.endpoints import ScoringEndpoints
from app.web.error_responses import answer_errors
from app.web.openapi import complete
from app.web.operations import build_router
from app.web.slow_requests import SlowRequests
from app.workers.shared_numbers import SharedNumbers

SUCCESSION_SECONDS = 5.0
"""How long connections wait for a worker that replaces another, before they learn why."""
log = logging.getLogger(__name__)


class Service(FastAPI):
    """A FastAPI application whose scoring endpoints stand in front of its middleware."""

    scoring: ScoringEndpoints
    serving: State
    request_metrics: RequestMetrics
    limits: Limits

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; once a bundle is loaded its examples are true ones."""
        loaded = self.serving.loaded
        return complete(super().openapi(), loaded.bundle if loaded else None, self.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self.scoring.find(scope["path"])
            if endpoint is not None:
                await asgi.serve(self.scoring, endpoint, scope, receive, send)
                return
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # The answer to GET; servers leave out its body, because their scope says HEAD.
            scope = {**scope, "method": "GET"}
        start, status = perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.request_metrics.count_answer(status)
            await send(message)

        await super().__call__(scope, receive, noting)
        if status:
            self.request_metrics.observe_latency(status, perf_counter() - start)


def create_app(
    settings: Settings,
    on_fatal: Callable[[str], None],
    shared: SharedNumbers | None = None,
    opened: Opened | None = None,
) -> Service:
    """Build the service; ``on_fatal`` is told in one line why it cannot start.

    A worker among others is given the numbers that they share, and a bundle that is opened.
    """
    metrics = Metrics(shared or SharedNumbers(), settings.metrics == "on")
    limits = Limits(
        max_body_bytes=settings.max_body_bytes,
        max_row_bytes=settings.max_row_bytes,
        max_instances=settings.max_instances,
        max_candidates=settings.max_candidates,
        known_fields_only=settings.unknown_fields == "error",
        receive_seconds=settings.receive_seconds,
        deadline_seconds=settings.deadline_ms / 1000,
    )
    state = State(settings, limits, metrics, opened)
    endpoints = ScoringEndpoints(
        state,
        metrics.for_route,
        SlowRequests(settings.slow_request_ms),
        limits,
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
        if metrics.shared.started:
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
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    app.scoring, app.serving, app.request_metrics = endpoints, state, metrics.for_route(OPERATION)
    app.limits = limits
    app.include_router(build_router(state, endpoints, metrics))

    answer_errors(app)
    return app
