"""The composition root: builds every object, owns every lifetime.

``create_app`` is the application for any ASGI server (``uvicorn --factory app.main:create_app``);
``build_server`` is the same application behind the server of ``python -m app``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.types import Message, Receive, Scope, Send

from app import __version__
from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.catalogue.kinds import ITEMS, PROFILES
from app.command_line import read_settings
from app.errors import CtrError
from app.feedback.event_log import EventLog
from app.feedback.feedback import Feedback
from app.feedback.request_log import RequestLog, usable_directory
from app.feedback.served import Served
from app.metrics.registry import Metrics
from app.metrics.request_log import RequestLogMetrics
from app.metrics.requests import OPERATION
from app.off_loop import run_off_loop
from app.rollout.gate import Gate
from app.scoring.limits import Limits
from app.serving.activation import Activation
from app.serving.agreement import Agreement
from app.serving.build import Builder
from app.serving.engines import Engines
from app.serving.healing import Healer
from app.serving.loading import Loader, Opened
from app.serving.start import Starter
from app.serving.state import ServingState
from app.serving.swap import Swapper
from app.serving.trial_choice import TrialChoice
from app.serving.trials import Trials
from app.serving.versions import Versions
from app.settings import Settings
from app.web import asgi
from app.web.access_log import PATH_LENGTH, AccessLog
from app.web.admin import create_admin
from app.web.admin_items import add_entries
from app.web.admin_trials import add_trials
from app.web.connections import Connections, most_connections
from app.web.endpoints import REQUEST_ID, ScoringEndpoints
from app.web.error_responses import answer_errors
from app.web.feedback import add_feedback
from app.web.keys import Keys
from app.web.openapi import Stored, complete
from app.web.operations import add_explain, add_operations
from app.web.own_pages import OwnPages
from app.web.pages import (
    DOCS,
    DOCS_POLICY,
    add_admin_data,
    add_pages,
    add_scoring,
    add_shared_data,
    answer_file,
)
from app.web.routes import group_of
from app.web.server import AdminServer, ServiceServer
from app.web.slow_requests import SlowRequests
from app.web.v2.metadata import add_v2
from app.workers.listeners import name_of, port_of
from app.workers.shared_numbers import SharedNumbers
from app.workers.supervisor import WorkerResources

START_SECONDS, SUCCESSION_SECONDS, RELIEF_SECONDS = 2.0, 5.0, 60.0
"""Seconds that a starting service, a worker that replaces another, or one beside workers that are
ready loads before it listens and answers 503: a proxy that asks for no readiness takes whoever
listens for able to serve."""
LOOK_SECONDS = 0.05
"""Time between two looks at whether there is something to wait for."""
log = logging.getLogger(__name__)


class Service(FastAPI):
    """The application: its scoring endpoints stand in front of its middleware and its router."""

    def __init__(
        self,
        endpoints: ScoringEndpoints,
        state: ServingState,
        activation: Activation,
        trials: TrialChoice,
        metrics: Metrics,
        access_log: AccessLog,
        stored: Stored,
        **fastapis: Any,
    ) -> None:
        """Values that are ``stored`` need not be sent."""
        self._stored = stored
        self.endpoints = endpoints
        self.serving = state
        self.activation = activation
        self.trials = trials
        self.metrics = metrics
        self._request_metrics = metrics.for_route(OPERATION)
        self._access_log = access_log
        super().__init__(
            title="deepfm-serving",
            description="Raw features in, click probabilities out.",
            version=__version__,
            redirect_slashes=False,
            # Generated clients name their functions after it.
            generate_unique_id_function=lambda route: route.name,
            docs_url=None,
            redoc_url=None,
            **fastapis,
        )

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; once a bundle is loaded its examples are true ones."""
        loaded = self.serving.loaded
        return self.document(loaded.bundle if loaded else None)

    def document(self, bundle: Bundle | None) -> dict[str, Any]:
        """The OpenAPI document for a bundle."""
        endpoints = self.endpoints
        return complete(super().openapi(), bundle, endpoints.limits, self._stored, endpoints.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, self._telling_failure(send))
            return
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self.endpoints.find(scope["path"])
            if endpoint is not None:
                await asgi.serve(self.endpoints, endpoint, scope, receive, send)
                return
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # The answer to GET; servers leave out its body, because their scope says HEAD.
            scope = {**scope, "method": "GET"}
        start, status = perf_counter(), 0

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._request_metrics.count_answer(status)
            await send(message)

        await super().__call__(scope, receive, counting)
        if status:
            taken = perf_counter() - start
            self._request_metrics.observe_latency(status, taken)
            if self._access_log.wants(scope["path"], status):
                self._access_log.log(_access_fields(scope, status, taken))

    def _telling_failure(self, send: Send) -> Send:
        """Have a server say in one line why the application cannot start, not by a traceback."""

        async def telling(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and self.serving.failure:
                message = {**message, "message": f"cannot serve: {self.serving.failure}"}
            await send(message)

        return telling


def _access_fields(scope: Scope, status: int, taken: float) -> dict[str, object]:
    """The access log's line of a request that does not score."""
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return {
        "request": given.decode() if REQUEST_ID.fullmatch(given) else "-",
        "route": OPERATION,
        "method": scope["method"],
        "path": scope["path"][:PATH_LENGTH],
        "status": status,
        "total_ms": round(1000 * taken, 3),
    }


def create_app() -> Service:
    """Build the application for any ASGI server, with the settings of the environment.

    It starts once its bundle is loaded. Where that fails, or a setting is wrong, the server ends
    with a line that says why, and with an exit code other than 0.
    """
    return build_service(read_settings(), load_first=True)


def build_server(
    settings: Settings,
    listeners: list[socket.socket],
    *,
    admin_listeners: list[socket.socket],
    worker: WorkerResources | None = None,
    opened: Opened | None = None,
) -> ServiceServer:
    """Build the service with its server: alone, or as one worker of several.

    A worker is given its part of what the workers share, and a bundle that is already opened.
    """
    service = build_service(settings, shared=worker.shared if worker else None, opened=opened)
    admin = None
    if admin_listeners and settings.admin_key_file is not None:
        store_url = None if settings.store is None else settings.store.get_secret_value()

        def add_others(router: APIRouter) -> None:
            for kind in (ITEMS, PROFILES):
                add_entries(router, kind, store_url, service.serving, settings.max_body_bytes)
            add_trials(router, service.activation, service.trials)
            add_explain(router, service.endpoints)

        def add_data(router: APIRouter) -> None:
            add_shared_data(router, service.serving, service.metrics, store_url, public=False)
            add_scoring(router, service.endpoints)
            add_explain(router, service.endpoints)
            add_admin_data(router, service.activation, store_url)

        own, keys = own_pages(settings), Keys(settings.admin_key_file)
        admin_app = create_admin(
            service.activation, add_others, add_data, own, keys, port_of(listeners)
        )
        admin = AdminServer(
            admin_app, admin_listeners, settings.receive_seconds, settings.max_body_bytes
        )
        names = ", ".join(map(name_of, admin_listeners))
        log.info("admin endpoints on %s, pages at /pages/", names)
    return ServiceServer(
        service,
        service.endpoints,
        service.serving,
        connections=Connections(
            settings.max_connections or most_connections(), settings.keep_alive_seconds
        ),
        lame_duck_seconds=settings.lame_duck_seconds,
        drain_seconds=settings.drain_seconds,
        listeners=listeners,
        supervisor_pipe=worker.alive if worker else None,
        admin=admin,
    )


def openapi_document(settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI document of the settings' bundle without serving it.

    Raises:
        BundleError: there is no bundle, or it is not complete.
    """
    bundle = Bundle.open(newest(settings.bundle), mapped=True)
    return build_service(settings).document(bundle)


def build_service(
    settings: Settings,
    *,
    shared: SharedNumbers | None = None,
    opened: Opened | None = None,
    load_first: bool = False,
) -> Service:
    """Build the application; with ``load_first`` it has started only when its bundle is loaded."""
    shared = shared or SharedNumbers()
    limits = limits_of(settings)
    metrics = Metrics(shared, settings.metrics == "on", settings.drift_rows)
    state = ServingState(shared)
    agreement = Agreement(shared)
    loader = Loader(settings, metrics, Engines(settings, shared))
    feedback = _feedback(settings, metrics) if settings.feedback is not None else None
    builder = Builder(settings, limits, metrics, state, feedback)
    versions = Versions(settings.bundle)
    gate = Gate.load(settings.gate) if settings.gate else None
    metrics.watch_directory(
        lambda: versions.problem is None,
        lambda: len(versions.unreadable),
        lambda: len(versions.waiting),
        lambda: len(versions.held),
    )
    swapper = Swapper(
        versions,
        loader,
        builder,
        state,
        agreement,
        metrics.refused_bundles,
        gate,
        poll_seconds=settings.bundle_poll_seconds,
        deadline_seconds=limits.deadline_seconds,
    )
    trials = Trials(
        settings.bundle,
        loader,
        builder,
        swapper,
        state,
        metrics,
        shared,
        settings.bundle_poll_seconds,
    )
    starter = Starter(
        settings.bundle,
        loader,
        builder,
        swapper,
        Healer(loader, swapper, state),
        state,
        agreement,
        metrics,
        gate is not None,
        trials,
    )
    access_log = AccessLog(settings.access_log)
    request_log = _request_log(settings, metrics) if settings.request_log else None
    endpoints = ScoringEndpoints(
        state,
        metrics.for_route,
        SlowRequests(settings.slow_request_ms),
        limits,
        access_log,
        request_log,
        settings.explain == "on",
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(_start(starter, state, opened))
        if load_first:
            await starting
            if state.failure is not None:
                raise CtrError(state.failure)
        else:
            await _loaded_soon(starting, state, shared)
        try:
            yield
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            endpoints.close()
            await starter.close()
            if feedback is not None:
                feedback.close()
            if request_log is not None:
                await run_off_loop(request_log.close)

    activation = Activation(state, swapper, agreement, trials)
    service = Service(
        endpoints,
        state,
        activation,
        TrialChoice(state, activation, trials),
        metrics,
        access_log,
        Stored(settings.store is not None, settings.item_key, settings.profile_key),
        lifespan=lifespan,
    )

    router = group_of(service)

    @router.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return answer_file(request, DOCS, DOCS_POLICY)

    @router.get("/docs/{name:path}", include_in_schema=False)
    async def docs_file(request: Request, name: str) -> Response:
        return answer_file(request, f"docs/{name}")

    add_operations(router, state, endpoints, metrics, versions)
    add_v2(service, state)
    if settings.pages == "on":
        checks, explains = [Depends(own_pages(settings).check)], settings.explain == "on"
        store_url = None if settings.store is None else settings.store.get_secret_value()
        data = group_of(service, prefix="/pages/data", dependencies=checks, include_in_schema=False)
        add_shared_data(data, state, metrics, store_url, public=True)
        own_scoring = group_of(
            service, prefix="/pages/score", dependencies=checks, include_in_schema=False
        )
        add_scoring(own_scoring, endpoints)
        if explains:
            add_explain(own_scoring, endpoints)
        pages = group_of(service, dependencies=checks, include_in_schema=False)
        add_pages(pages, admin=False, explains=explains)
    if feedback is not None and settings.feedback_key_file is not None:
        keys = Keys(settings.feedback_key_file)
        add_feedback(router, feedback, keys, settings.max_body_bytes)
    answer_errors(service)
    return service


def _request_log(settings: Settings, metrics: Metrics) -> RequestLog:
    """Build the request log, and have metrics show it."""
    counts = RequestLogMetrics(metrics.shared)
    request_log = RequestLog(settings, counts, metrics.shared.workers)
    metrics.watch_request_log(counts, lambda: request_log.writes)
    return request_log


def _feedback(settings: Settings, metrics: Metrics) -> Feedback | None:
    """Build what takes events, and have metrics show it; None where nobody has a key for it."""
    assert settings.feedback is not None
    if settings.feedback_key_file is None:
        log.warning("no feedback is taken: setting feedback needs feedback_key_file")
        return None
    directory = usable_directory(settings.feedback)
    metrics.watch_feedback()
    events = EventLog(directory, settings.feedback_bytes)
    return Feedback(events, metrics.feedback, Served(directory))


async def _start(starter: Starter, state: ServingState, opened: Opened | None) -> None:
    """Start, or say in one line why that cannot be."""
    try:
        await starter.start(opened)
    except CtrError as error:
        state.fail(str(error))
    except Exception as error:
        log.exception("loading failed")
        state.fail(f"loading failed: {type(error).__name__}")


async def _loaded_soon(
    starting: asyncio.Task[None], state: ServingState, shared: SharedNumbers
) -> None:
    """Wait for the first bundle, but not for long, nor for a vocabulary that is not there."""
    begun = perf_counter()
    most = SUCCESSION_SECONDS if shared.started else START_SECONDS
    while not (starting.done() or state.lacks_vocabulary or state.draining):
        if perf_counter() - begun > (RELIEF_SECONDS if shared.others_ready else most):
            return
        await asyncio.wait([starting], timeout=LOOK_SECONDS)


def own_pages(settings: Settings) -> OwnPages:
    """The names under which the pages are asked for, out of the settings."""
    return OwnPages([settings.host, settings.admin_host, *(settings.pages_hosts or "").split(",")])


def limits_of(settings: Settings) -> Limits:
    """The limits of requests, out of the settings."""
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_row_bytes=settings.max_row_bytes,
        max_instances=settings.max_instances,
        max_candidates=settings.max_candidates,
        max_catalogue_rows=settings.max_catalogue_rows,
        known_fields_only=settings.unknown_fields == "error",
        receive_seconds=settings.receive_seconds,
        deadline_seconds=settings.deadline_ms / 1000,
    )
