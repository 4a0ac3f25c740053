"""Names of columns → what they usually are."""

from __future__ import annotations

import re


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_AMOUNTS = _listed(
    "price cost amount count counts cnt num qty quantity score rate ratio length duration seconds"
    " minutes size width height distance views clicks impressions total balance income weight"
    " affinity propensity age"
)
_NAMES = _listed("id ids code zip hash key no nr number uuid guid")
_MOMENTS = _listed("time times date dates datetime timestamp stamp ts dt hour day at when")
_CANDIDATE = _listed(
    "item items product products ad ads advert creative campaign banner article movie film song"
    " track video book news offer listing candidate target title genre genres category categories"
    " brand price seller publisher author cost rank position slot tag tags sku"
)
_CONTEXT = _listed(
    "user users member visitor customer device session request query search time date hour day"
    " weekday daytime weekend country city region zip postal geo locale lang language browser os"
    " agent ip site app page referrer referer gender sex age occupation job weather connection"
    " network carrier conn timestamp"
)
_PLACES = _listed("position positions rank slot")
_JOINED = ("user", "item", "product", "movie", "device", "session", "time", "date")
"""Beginnings of words that are written without a break: ``userid``, ``timestamp``."""


def words(name: str) -> frozenset[str]:
    """Return the words of a name, in small letters: ``userId`` and ``user_id`` have the same."""
    found = {word.lower() for word in _WORD.findall(name)}
    found |= {start for start in _JOINED for word in found if word.startswith(start)}
    return frozenset(found | ({"id"} if name.lower().endswith("id") else set()))


def is_amount(name: str) -> bool:
    """Tell whether a name is one of amounts: ``price``, ``num_views``."""
    return not words(name).isdisjoint(_AMOUNTS) and not is_name(name)


def is_name(name: str) -> bool:
    """Tell whether a name is one of names: ``item_id``, ``zip``."""
    return not words(name).isdisjoint(_NAMES)


def is_moment(name: str) -> bool:
    """Tell whether a name is one of moments: ``created_at``, ``hour``."""
    return not words(name).isdisjoint(_MOMENTS)


def is_candidate(name: str) -> bool:
    """Tell whether a name is one of items and what is known of them."""
    return not words(name).isdisjoint(_CANDIDATE)


def is_place(name: str) -> bool:
    """Tell whether a name is one of places at which an item was shown."""
    return not words(name).isdisjoint(_PLACES) and not is_name(name)


def is_context(name: str) -> bool:
    """Tell whether a name is one of users, requests and what is known of them."""
    return not words(name).isdisjoint(_CONTEXT)
