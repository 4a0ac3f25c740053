"""The admin port's requests that put, show and delete items and profiles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

from fastapi import APIRouter, Request

from app.catalogue.item_lines import BadLine, read_lines
from app.catalogue.kinds import Kind
from app.errors import (
    Detail,
    Invalid,
    NotFound,
    NotReady,
    StoreError,
    StoreUnavailable,
    ValueProblem,
)
from app.features.encoder import Encoder
from app.off_loop import run_off_loop
from app.serving.state import ServingState
from app.store.opening import open_store
from app.store.store import Item
from app.web.bodies import read_body

Result = TypeVar("Result")
MOST_DETAILS = 10
"""Wrong lines that an answer names."""


def add_entries(
    router: APIRouter, kind: Kind, store_url: str | None, state: ServingState, max_bytes: int
) -> None:
    """Add the routes of a kind of entries; ``max_bytes`` bounds a body."""
    all_of_kind = f"/{kind.name}s"
    one_of_kind = f"{all_of_kind}/{{identity:path}}"

    @router.put(all_of_kind)
    async def put(request: Request) -> dict[str, Any]:
        """Store entries, one JSON object a line; all or, if a line is wrong, none of them.

        ``not_used`` names dynamic fields of which entries have values.
        """
        body = await read_body(request, max_bytes)
        encoder = _encoder(state)
        url = _url(store_url)
        return await _asked(lambda: _put(kind, url, body, encoder))

    @router.get(one_of_kind)
    async def get(identity: str) -> dict[str, Any]:
        """The values of an entry; of an item also its indices in the bundle in use, or why that
        refuses it.
        """
        url = _url(store_url)
        found = await _asked(lambda: _get(kind, url, identity))
        encoder = _encoder(state)
        side = encoder.candidate if kind.side == "candidate" else encoder.context
        shown: dict[str, Any] = {"id": found.id, "features": found.values}
        # What a profile lacks a request may have.
        whole = kind.side == "candidate"
        values = side.stored(found.values)
        given = [each for each in side.encoders if whole or each.name in values]
        try:
            shown["indices"] = {each.name: each.one(values.get(each.name)) for each in given}
        except ValueProblem:
            problems = side.problems(values)
            shown["refused"] = {
                name: str(problem) for name, problem in problems if whole or name in values
            }
        return shown

    @router.delete(one_of_kind)
    async def delete(identity: str) -> dict[str, int]:
        """Delete an entry."""
        url = _url(store_url)
        return {"deleted": await _asked(lambda: _delete(kind, url, identity))}


def _url(store_url: str | None) -> str:
    if store_url is None:
        raise NotFound("this service has no store: see CTR_STORE")
    return store_url


def _encoder(state: ServingState) -> Encoder:
    if state.loaded is None:
        raise NotReady(state.not_ready)
    return state.loaded.encoder


async def _asked(work: Callable[[], Result]) -> Result:
    """Ask the store in a thread."""
    try:
        return await run_off_loop(work)
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error


def _put(kind: Kind, url: str, body: bytes, encoder: Encoder) -> dict[str, Any]:
    found = list(read_lines(body.split(b"\n"), encoder, kind))
    wrong = [each for each in found if isinstance(each, BadLine)]
    if wrong:
        details = [
            Detail(f"line {each.number}{each.field and f'.features.{each.field}'}", each.problem)
            for each in islice(wrong, MOST_DETAILS)
        ]
        raise Invalid("lines are wrong; nothing is stored", details, len(wrong))
    entries = [each for each in found if isinstance(each, Item)]
    with closing(open_store(url)) as store:
        answer: dict[str, Any] = {"stored": kind.of(store).put(iter(entries))}
    dynamic = encoder.candidate.dynamic
    if not_used := {name for each in entries for name in dynamic.intersection(each.values)}:
        answer["not_used"] = sorted(not_used)
    return answer


def _get(kind: Kind, url: str, identity: str) -> Item:
    with closing(open_store(url)) as store:
        found = kind.of(store).get(identity)
    if found is None:
        raise NotFound(f"there is no {kind.name} with this id")
    return found


def _delete(kind: Kind, url: str, identity: str) -> int:
    with closing(open_store(url)) as store:
        deleted = kind.of(store).delete([identity])
    if not deleted:
        raise NotFound(f"there is no {kind.name} with this id")
    return deleted
