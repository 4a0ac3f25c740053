"""The store's part of the pages Try and Why: items of a ranking, the profile of a context."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec

from app.errors import Detail, Invalid, StoreError, StoreUnavailable
from app.features.encoder import SideEncoder
from app.profiles.stored import StoredProfiles
from app.store.opening import open_store
from app.store.store import Item

MOST_IDS = 100
WAIT_SECONDS = 2.0
"""Time that a page waits for a profile."""
TITLES = ("title", "name")
"""Stored values that name an item for people, whether they are fields or not."""
_decode_ids = msgspec.json.Decoder(list[int | str]).decode
_decode_key = msgspec.json.Decoder(int | float | str | None).decode
_decode_values = msgspec.json.Decoder(dict[str, Any]).decode


def read_ids(text: str) -> list[int | str]:
    """Read a JSON list of ids.

    Raises:
        Invalid: it is none, or too long.
    """
    try:
        ids = _decode_ids(text)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _wrong("ids", "expected a JSON list of integers and texts") from error
    if len(ids) > MOST_IDS:
        raise _wrong("ids", f"expected at most {MOST_IDS} ids, got {len(ids)}")
    return ids


def ranked_items(
    url: str, ids: Sequence[int | str], candidate: SideEncoder
) -> list[dict[str, Any] | None]:
    """Return title and values of items, in the order of their ids; None where there is none.

    Values are those that the bundle scores: of its own fields, and no dynamic ones. It reads the
    store, and may block.

    Raises:
        StoreError: the store cannot be used.
    """
    with closing(open_store(url)) as store:
        found = [_readable(store.get, each) for each in ids]
    return [None if each is None else _described(each, candidate) for each in found]


def _readable(get: Any, identity: int | str) -> Item | None:
    """Return an item; None also where its values are damaged, as the catalogue leaves it out."""
    try:
        found: Item | None = get(identity)
    except StoreError:
        return None
    return found


def _described(item: Item, candidate: SideEncoder) -> dict[str, Any]:
    values = candidate.stored(dict(item.values))
    titles = [values[name] for name in TITLES if isinstance(values.get(name), str)]
    return {
        "title": titles[0] if titles else None,
        "features": {name: value for name, value in values.items() if name in candidate.fields},
    }


async def profile_of(profiles: StoredProfiles, key: str, public: bool) -> dict[str, Any]:
    """Return the fields that a context of this key has from its profile, and their values.

    ``key`` is the JSON of the key's value. On the public port values are left out: they name
    people.

    Raises:
        Invalid: it is no JSON of a value that a key may be.
        StoreUnavailable: the store of profiles does not answer.
    """
    try:
        text = profiles.key(_decode_key(key))
    except (msgspec.MsgspecError, ValueError) as error:
        raise _wrong("key", "expected the JSON of an integer or a text") from error
    values: dict[str, Any] = {}
    if text is not None:
        found = dict(profiles.remembered([text]))
        if not found:
            end = asyncio.get_running_loop().time() + WAIT_SECONDS
            found = dict(await profiles.fetch([text], end))
        if text not in found:
            raise StoreUnavailable("the store of profiles does not answer")
        stored = found[text]
        values = {} if stored is None else _decode_values(stored)
    return {"fields": sorted(values), "values": {} if public else values}


def _wrong(path: str, problem: str) -> Invalid:
    return Invalid("the request has invalid values", [Detail(path, problem)])
