"""Routes that take no time until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI, routing
from fastapi.params import Depends
from fastapi.routing import APIRoute
from starlette._utils import get_route_path
from starlette.routing import Match
from starlette.types import Scope

_FOUND = "_endpoint_context_cache"
"""The name in FastAPI of its endpoints' places in the source, by identity."""


class LateRoute(APIRoute):
    """A route that is built when a request, or the OpenAPI document, first needs it.

    FastAPI reads the signature of a route's function, and builds a model for every answer that
    the route may give. For all routes that is a quarter of the CPU time from a service's first
    line to its readiness, and most are never asked for. Until then a route knows only how the
    paths begin that it takes.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        **described: Any,
    ) -> None:
        self.path = path
        self._beginning = path.partition("{")[0]
        self._build: Callable[[], None] | None = partial(
            super().__init__, path, endpoint, **described
        )

    def __getattr__(self, name: str) -> Any:
        """Build the route for what it has only then."""
        build = self.__dict__.get("_build")
        if build is None:
            raise AttributeError(name)
        self._build = None
        build()
        _tell_source(self.endpoint)
        return getattr(self, name)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a request; one whose path begins otherwise does not build the route."""
        if not get_route_path(scope).startswith(self._beginning):
            return Match.NONE, {}
        return super().matches(scope)


def _tell_source(endpoint: Callable[..., Any]) -> None:
    """Tell FastAPI where a function is, for its messages of errors.

    Else it has the module's source taken apart for that, at the function's first request, which
    takes 10 ms. A FastAPI that does not keep what it has found is not told.
    """
    code, found = getattr(endpoint, "__code__", None), getattr(routing, _FOUND, None)
    if code is not None and found is not None:
        found[id(endpoint)] = {
            "file": code.co_filename,
            "line": code.co_firstlineno,
            "function": endpoint.__name__,
        }


def group_of(
    app: FastAPI,
    *,
    prefix: str = "",
    tags: Sequence[str] = (),
    dependencies: Sequence[Depends] = (),
    include_in_schema: bool = True,
) -> APIRouter:
    """Return a router that adds its routes to the application's own.

    ``include_router`` would build each of them a second time.
    """
    group = APIRouter(
        prefix=prefix,
        tags=list(tags),
        dependencies=list(dependencies),
        include_in_schema=include_in_schema,
        route_class=LateRoute,
        dependency_overrides_provider=app,
        generate_unique_id_function=app.router.generate_unique_id_function,
    )
    group.routes = app.router.routes
    return group
