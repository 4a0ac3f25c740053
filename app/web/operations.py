"""The operation endpoints (/live, /ready, /model, /metrics), and the scoring paths' entries in
the router, for the OpenAPI document and for applications that mount this one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from app.catalogue.follower import Follower
from app.errors import NotFound, NotReady
from app.metrics.registry import Metrics
from app.serving.loading import Loaded
from app.serving.state import ServingState
from app.serving.versions import Versions
from app.web import asgi
from app.web.endpoints import ROUTES, ScoringEndpoints
from app.web.exchange import Endpoint, Route
from app.web.explain_route import PATH
from app.web.model_names import NAME
from app.web.schemas import ErrorBody

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body cannot be decoded."},
    413: {"model": ErrorBody, "description": "The body, or a list in it, is over a limit."},
    415: {"model": ErrorBody, "description": "The body is not announced as JSON."},
    422: {"model": ErrorBody, "description": "A value breaks a rule; its path is named."},
    429: {"model": ErrorBody, "description": "Overloaded; see Retry-After."},
    431: {"model": ErrorBody, "description": "The target and the headers are over a limit."},
    503: {"model": ErrorBody, "description": "Not ready, draining, or the engine failed."},
    504: {"model": ErrorBody, "description": "The deadline passed."},
}

NOT_OFFERED: dict[int | str, dict[str, Any]] = {
    501: {"model": ErrorBody, "description": "The bundle lacks what the request asks for."}
}


_OTHER_VERSION = {"description": "This version is not in use."}


class _ScoringResponse(Response):
    """A response that a scoring endpoint writes.

    ``Service`` hands requests to the scoring endpoints before the router sees them; only where
    the application is mounted below another path do they come this way.
    """

    def __init__(self, endpoints: ScoringEndpoints, endpoint: Endpoint, of_page: bool) -> None:
        super().__init__()
        self._endpoints, self._endpoint, self._of_page = endpoints, endpoint, of_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asgi.serve(self._endpoints, self._endpoint, scope, receive, send, self._of_page)


def scoring(
    endpoints: ScoringEndpoints, path: str, of_page: bool = False
) -> Callable[..., Awaitable[Response]]:
    """Return the function behind a scoring path of a router; ``of_page`` is one of the pages'."""
    endpoint = endpoints.find(path.replace("{", "").replace("}", ""))
    assert endpoint is not None

    async def score() -> Response:
        return _ScoringResponse(endpoints, endpoint, of_page)

    async def score_named(name: str) -> Response:
        return await score()

    async def score_version(name: str, version: str) -> Response:
        return await score()

    if "{version}" in path:
        return score_version
    return score_named if "{name}" in path else score


def add_explain(router: APIRouter, endpoints: ScoringEndpoints) -> None:
    """Add the route by which the admin port explains scores, whatever the public one has."""

    @router.post(PATH)
    async def explain() -> Response:
        """Explain a score."""
        return _ScoringResponse(endpoints, endpoints.explain, of_page=False)


def _errors(route: Route, path: str) -> dict[int | str, dict[str, Any]]:
    """Return the refusals of a scoring path, in the form that its route gives them."""
    errors = {404: _OTHER_VERSION, **ERRORS} if "{version}" in path else {**ERRORS}
    if route not in ROUTES:
        errors |= NOT_OFFERED
    return {status: {**each, "model": route.error} for status, each in errors.items()}


def _name(route: str, path: str) -> str:
    """Return the name of a scoring path, after which generated clients call their functions."""
    if "{version}" in path:
        return f"kserve_{route}_version"
    return f"kserve_{route}" if "{name}" in path else route


def _catalogue(items: Follower) -> dict[str, Any]:
    """The state of the catalogue, as /ready shows it."""
    return {
        "items": len(items.catalogue),
        "refused_items": len(items.catalogue.refused),
        "problem": items.problem,
        "item_parts": items.parts_held,
        "item_parts_problem": items.parts_problem,
    }


def _degraded(loaded: Loaded) -> list[str]:
    """The things that answers do without at present."""
    found = []
    if loaded.remote is not None and not loaded.remote.breaker.closed:
        found.append("vocabulary")
    if loaded.items is not None and loaded.items.problem is not None:
        found.append("catalogue")
    if loaded.profiles is not None and not loaded.profiles.breaker.closed:
        found.append("profiles")
    return found


def add_operations(
    router: APIRouter,
    state: ServingState,
    endpoints: ScoringEndpoints,
    metrics: Metrics,
    versions: Versions,
) -> None:
    """Add the routes over the objects they show."""
    for route in endpoints.routes:
        for path, documentation in route.paths.items():
            router.add_api_route(
                path,
                scoring(endpoints, path),
                methods=["POST"],
                name=_name(route.name, path),
                description=documentation,
                response_model=route.response,
                responses=_errors(route, path),
                tags=["scoring"],
            )

    def ready_bundle() -> Loaded:
        loaded = state.loaded
        if state.draining:
            raise NotReady("the service is draining")
        if loaded is None or not state.ready:
            raise NotReady(state.not_ready)
        return loaded

    @router.get("/live", tags=["operation"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get("/ready", tags=["operation"], responses={503: {"model": ErrorBody}})
    async def ready() -> dict[str, Any]:
        """A bundle is loaded, verified and warm; names the provider really in use."""
        loaded = ready_bundle()
        remote = loaded.remote
        return {
            "status": "ready",
            "version": loaded.bundle.version,
            "provider": loaded.engine.provider,
            "provider_fallback": loaded.engine.fallback,
            "precision": loaded.engine.precision,
            "precision_reason": loaded.precision_reason,
            "engine_threads": loaded.engine.threads,
            "gpu": loaded.engine.described(),
            "vocabulary": "memory" if remote is None else "redis",
            "redis_problem": remote.problem if remote else None,
            "refused_bundle": state.refused,
            "bundles_problem": versions.problem,
            "unreadable_bundles": dict(versions.unreadable),
            "waiting_bundles": dict(versions.waiting),
            "held_bundles": dict(versions.held),
            "catalogue": _catalogue(loaded.items) if loaded.items else None,
            "profiles_problem": loaded.profiles.problem if loaded.profiles else None,
            "degraded": _degraded(loaded),
        }

    @router.get("/model", tags=["operation"], responses={503: {"model": ErrorBody}})
    async def model() -> dict[str, Any]:
        """The bundle in use: its fields, metrics, training settings and origin."""
        loaded = state.loaded
        if loaded is None:
            raise NotReady(state.not_ready)
        manifest, spec = loaded.bundle.manifest, loaded.bundle.spec
        return {
            "version": loaded.bundle.version,
            "id": manifest.id,
            "created": manifest.created,
            "network": manifest.network,
            "format_version": manifest.format_version,
            "lacks": loaded.bundle.lacks,
            "provider": loaded.engine.provider,
            "provider_fallback": loaded.engine.fallback,
            "precision": loaded.engine.precision,
            "precision_reason": loaded.precision_reason,
            "gpu": loaded.engine.described(),
            "tolerance": loaded.engine.tolerance,
            "golden_examples_worst_difference": loaded.worst_difference,
            "fields": [
                {
                    "name": f.name,
                    "kind": type(f).__struct_config__.tag,
                    "side": f.side,
                    "required": f.required,
                    "dynamic": f.dynamic,
                    "dtype": getattr(f, "dtype", None),
                }
                for f in spec.fields
            ],
            "metrics": manifest.metrics,
            "training": manifest.training,
            "data": manifest.data,
        }

    @router.get(
        "/drift",
        tags=["operation"],
        responses={404: {"model": ErrorBody}, 503: {"model": ErrorBody}},
    )
    async def drift() -> dict[str, Any]:
        """The last values of every slot, and the last scores, beside those of training."""
        if state.loaded is None:
            raise NotReady(state.not_ready)
        found = metrics.drift()
        if found is None:
            raise NotFound("drift is not watched: the bundle has no histograms, or it is off")
        return found

    @router.get(
        "/v1/models/{name:model}",
        tags=["operation"],
        responses={404: {"model": ErrorBody}, 503: {"model": ErrorBody}},
    )
    async def model_status(name: NAME) -> dict[str, Any]:
        """The state of the model, as health checks for TensorFlow Serving and KServe read it.

        Any name is taken, as at ``:predict``; 503 like ``/ready``.
        """
        loaded = ready_bundle()
        return {
            "name": name,
            "ready": True,
            "model_version_status": [
                {
                    "version": loaded.bundle.version,
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ],
        }

    @router.get("/metrics", tags=["operation"], response_class=Response)
    async def show_metrics(request: Request) -> Response:
        """All metrics in Prometheus' text form."""
        if not metrics.enabled:
            raise NotFound("metrics are switched off")
        metrics.poll()
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
