"""Routes are built once, when they are first needed."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from fastapi import Depends, FastAPI, Request, routing
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from app.web.routes import LateRoute, group_of


@pytest.fixture
def built() -> Any:
    """The paths of the routes that are built, in their order."""
    paths: list[str] = []
    build = APIRoute.__init__

    def noting(route: APIRoute, path: str, *args: Any, **described: Any) -> None:
        paths.append(path)
        build(route, path, *args, **described)

    with patch.object(APIRoute, "__init__", noting):
        yield paths


@pytest.fixture
def app(built: list[str]) -> FastAPI:
    """An application with a plain route, and with one of a group that has a prefix."""
    app = FastAPI(generate_unique_id_function=lambda route: f"id_of_{route.name}")
    plain = group_of(app)

    @plain.get("/plain")
    async def plain_route() -> dict[str, str]:
        return {"path": "plain"}

    async def check(request: Request) -> None:
        request.state.checked = "yes"

    inner = group_of(app, prefix="/inner", tags=["inside"], dependencies=[Depends(check)])

    @inner.post("/{number:int}", responses={404: {"model": dict[str, int]}})
    async def numbered(request: Request, number: int) -> dict[str, Any]:
        return {"number": number, "checked": request.state.checked}

    hidden = group_of(app, include_in_schema=False)

    @hidden.get("/hidden")
    async def hidden_route() -> dict[str, str]:
        return {}

    return app


def test_a_request_builds_its_own_route_once(app: FastAPI, built: list[str]) -> None:
    """No other route is built, nor one for a path or a method that there is not."""
    client = TestClient(app)
    assert built == []
    assert client.get("/nothing").status_code == 404
    assert built == []
    for _ in range(2):
        assert client.post("/inner/3").json() == {"number": 3, "checked": "yes"}
    assert client.get("/inner/text").status_code == 404
    assert built == ["/inner/{number:int}"]
    assert client.get("/plain").json() == {"path": "plain"}
    assert built == ["/inner/{number:int}", "/plain"]


def test_another_method_is_refused_with_those_there_are(app: FastAPI) -> None:
    """As FastAPI's own routes do it."""
    answer = TestClient(app).get("/inner/3")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_the_document_has_all_that_was_told_of_a_route(app: FastAPI) -> None:
    """Its prefix, tags, answers and name; but no route that is not to be in it."""
    paths = app.openapi()["paths"]
    assert list(paths) == ["/plain", "/inner/{number}"]
    operation = paths["/inner/{number}"]["post"]
    assert operation["tags"] == ["inside"]
    assert operation["operationId"] == "id_of_numbered"
    assert operation["responses"].keys() == {"200", "404", "422"}


def test_what_a_route_has_not_is_an_error(app: FastAPI) -> None:
    """Before it is built, and after it."""
    route: Any = next(each for each in app.routes if getattr(each, "path", "") == "/plain")
    for _ in range(2):
        with pytest.raises(AttributeError, match="absent"):
            _ = route.absent


def test_the_place_of_a_function_is_what_fastapi_finds(app: FastAPI) -> None:
    """Told before it looks, or found by it: the same, for its messages of errors."""
    client = TestClient(app)
    for path in ("/plain", "/hidden"):
        assert client.get(path).status_code == 200
    for route in app.routes:
        if isinstance(route, LateRoute) and route.path in ("/plain", "/hidden"):
            told = routing._endpoint_context_cache.pop(id(route.endpoint))
            # A request adds its path.
            told.pop("path", None)
            assert routing._extract_endpoint_context(route.endpoint) == told
