"""Routes that take no time until they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.params import Depends
from fastapi.routing import APIRoute
from starlette.routing import compile_path, get_name


class LateRoute(APIRoute):
    """A route that is built when a request, or the OpenAPI document, first needs it.

    FastAPI reads the signature of a route's function, and builds a model for every answer that
    the route may give. For all routes that is a quarter of the CPU time from a service's first
    line to its readiness, and most are never asked for. Until then a route knows only what it is
    found by.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: set[str] | list[str] | None = None,
        name: str | None = None,
        **described: Any,
    ) -> None:
        self.path, self.endpoint = path, endpoint
        self.methods = {method.upper() for method in methods or ["GET"]}
        self.name = name or get_name(endpoint)
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._build: Callable[[], None] | None = partial(
            super().__init__, path, endpoint, methods=methods, name=self.name, **described
        )

    def __getattr__(self, name: str) -> Any:
        """Build the route for what it has only then."""
        build = self.__dict__.get("_build")
        if build is None:
            raise AttributeError(name)
        self._build = None
        build()
        return getattr(self, name)


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
