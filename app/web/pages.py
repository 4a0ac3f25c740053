"""The routes of the pages: their files, and the data that they show."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from app.bundle.bundle import Bundle
from app.errors import NotFound, NotReady, StoreError, StoreUnavailable
from app.metrics.registry import Metrics
from app.off_loop import run_off_loop
from app.pages.bundles import described_bundles, trainers_report
from app.pages.files import PageFile, page_files
from app.pages.form import form, known_values
from app.pages.now import now
from app.pages.search import search_items
from app.pages.stored import profile_of, ranked_items, read_ids
from app.serving.activation import Activation
from app.serving.loading import Loaded
from app.serving.state import ServingState
from app.web.endpoints import ScoringEndpoints
from app.web.operations import scoring

POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
DOCS_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; base-uri 'none';"
    " frame-ancestors 'none'"
)
"""Swagger UI sets styles of its elements, and has pictures in its style sheet."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
KEPT_SECONDS = 3600
"""Time for which browsers keep libraries; the pages' own files are asked for each time."""
LIBRARIES = ("pages/vendor/", "docs/swagger-ui")
MOST_TEXT = 200
"""Characters of a text that is searched for."""
MOST_IDS_TEXT = 4000
"""Characters of the ids of a ranking."""
SCORING_PATHS = ("/predict", "/rank")
DOCS = "docs/index.html"
Found = TypeVar("Found")


def answer_file(request: Request, name: str, policy: str = POLICY) -> Response:
    """Answer with a file of the pages.

    Raises:
        NotFound: there is no such file.
    """
    file = page_files().get(name)
    if file is None:
        raise NotFound("there is nothing at this path")
    kept = f"max-age={KEPT_SECONDS}" if name.startswith(LIBRARIES) else "no-cache"
    headers = {**HEADERS, "content-security-policy": policy, "cache-control": kept}
    content, headers = _encoded(file, request.headers.get("accept-encoding", ""), headers)
    return Response(content, headers=headers, media_type=file.media)


def _encoded(
    file: PageFile, accepted: str, headers: dict[str, str]
) -> tuple[bytes, dict[str, str]]:
    if file.packed is None:
        return file.content, headers
    headers = {**headers, "vary": "accept-encoding"}
    if "gzip" not in accepted:
        return file.content, headers
    return file.packed, {**headers, "content-encoding": "gzip"}


def add_pages(
    router: APIRouter, *, admin: bool, explains: bool, public_port: int | None = None
) -> None:
    """Add the routes of the files; they need no key, and hold nothing of the bundle.

    ``explains`` says whether the port has explanations; ``public_port`` is where other programs
    have rows scored, as the admin port's pages show it.
    """
    if admin:

        @router.get("/")
        async def root() -> Response:
            return RedirectResponse("pages/", headers=HEADERS)

    @router.get("/pages/port.json")
    async def port() -> dict[str, Any]:
        """The place of the data, and whether they take a key."""
        if admin:
            own_paths = {"data": "../admin/pages/", "scoring": "../admin/pages/"}
            return {"admin": True, "explain": explains, "public_port": public_port, **own_paths}
        return {"admin": False, "explain": explains, "data": "data/", "scoring": "score/"}

    @router.get("/pages/{name:path}")
    async def file(request: Request, name: str) -> Response:
        return answer_file(request, f"pages/{name or 'index.html'}")


def add_scoring(router: APIRouter, endpoints: ScoringEndpoints) -> None:
    """Add the routes by which pages have rows scored, as others are; drift leaves them out."""
    for path in SCORING_PATHS:
        router.add_api_route(path, scoring(endpoints, path, of_page=True), methods=["POST"])


def add_shared_data(
    router: APIRouter, state: ServingState, metrics: Metrics, store_url: str | None, *, public: bool
) -> None:
    """Add the routes of data for the pages that both ports have: Try, Why and Now."""

    @router.get("/form")
    async def show_form() -> dict[str, Any]:
        """The fields of the bundle in use."""
        bundle = _bundle(state)
        found = form(bundle, public)
        loaded = state.loaded
        found["items"] = len(loaded.items.catalogue) if loaded and loaded.items else None
        profiles = loaded.profiles if loaded else None
        found["profile_key"] = profiles.field if profiles and profiles.known else None
        return found

    @router.get("/values")
    async def values(
        field: Annotated[str, Query(max_length=MOST_TEXT)],
        begins: Annotated[str, Query(max_length=MOST_TEXT)] = "",
    ) -> dict[str, list[str]]:
        """Known values of a field."""
        bundle = _bundle(state)
        found = await run_off_loop(lambda: known_values(bundle, field, begins, public))
        return {"values": found}

    @router.get("/ranked")
    async def ranked(ids: Annotated[str, Query(max_length=MOST_IDS_TEXT)]) -> dict[str, Any]:
        """Titles and values of items that a ranking names; ``ids`` are a JSON list."""
        url, encoder = _store(store_url), _loaded(state).encoder
        wanted = read_ids(ids)
        return {"items": await _asked(lambda: ranked_items(url, wanted, encoder.candidate))}

    @router.get("/profile")
    async def profile(key: Annotated[str, Query(max_length=MOST_TEXT)]) -> dict[str, Any]:
        """The fields that a profile fills where a request lacks them; ``key`` is JSON."""
        profiles = _loaded(state).profiles
        if profiles is None:
            raise NotFound("this service has no profiles: see CTR_PROFILE_KEY")
        return await profile_of(profiles, key, public)

    @router.get("/now")
    async def show_now(
        have: Annotated[str, Query(max_length=1000)] = "",
        slot: Annotated[str, Query(max_length=MOST_TEXT)] = "",
    ) -> dict[str, Any]:
        """Everything of the page Now that has changed; ``have`` are hashes, with commas."""
        bundle = _bundle(state)
        return now(metrics, bundle, time(), set(have.split(",")), slot, public)


def add_admin_data(router: APIRouter, activation: Activation, store_url: str | None) -> None:
    """Add the routes of data for the pages of the admin port: Bundles and Catalogue."""

    @router.get("/bundles")
    async def bundles() -> dict[str, Any]:
        """Every bundle with its figures."""
        return await run_off_loop(lambda: described_bundles(activation))

    @router.get("/bundles/{version}/report")
    async def report(version: str) -> dict[str, Any]:
        """The trainer's report beside a bundle."""
        return await run_off_loop(lambda: trainers_report(activation, version))

    @router.get("/items")
    async def items(
        search: Annotated[str, Query(max_length=MOST_TEXT)] = "",
    ) -> dict[str, Any]:
        """Items that contain a text."""
        url = _store(store_url)
        return await _asked(lambda: search_items(url, search))


def _store(url: str | None) -> str:
    if url is None:
        raise NotFound("this service has no store: see CTR_STORE")
    return url


async def _asked(work: Callable[[], Found]) -> Found:
    try:
        return await run_off_loop(work)
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error


def _bundle(state: ServingState) -> Bundle:
    return _loaded(state).bundle


def _loaded(state: ServingState) -> Loaded:
    if state.loaded is None:
        raise NotReady(state.not_ready)
    return state.loaded
