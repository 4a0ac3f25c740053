"""The lines of the request log, as the service writes them and the trainer reads them.

A file holds JSON lines in gzip members, one member for each write. The first line of a version in
a file is a :class:`LoggedBundle`, every other one a :class:`LoggedRequest`.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from typing import Any, Literal

import msgspec
import numpy as np

from app.features.arrays import Indices

PREFIX, CLOSED, OPEN = "requests-", ".jsonl.gz", ".open"
"""A closed file's name begins and ends so; that of a file in use has one more ending."""


class LoggedBundle(msgspec.Struct, frozen=True, tag_field="kind", tag="bundle"):
    """A bundle that scored requests of the file, and columns that training needs besides fields.

    ``timestamp`` is None where a field has its name: then it is among the values, or it is missing.
    """

    version: str
    label: str
    timestamp: str | None


class LoggedCandidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row as it was scored.

    ``index`` is its place in the request, where it had one, from 0; ``place`` that in the ranking,
    from 1. ``features`` are raw values, after profile and catalogue; None where the item changed
    between scoring and logging. ``encoded`` are the words of its candidate row, ``context`` is the
    place of its context row among the request's ``contexts``.
    """

    score: float
    logit: float
    encoded: str
    index: int | None = None
    id: int | str | None = None
    place: int | None = None
    features: dict[str, Any] | None = None
    context: int = 0


class LoggedRequest(
    msgspec.Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="request"
):
    """A request and what it was answered with, at ``time`` in seconds since 1970.

    ``context`` are the raw values that its candidates share, after the profile; an instance of
    ``/predict`` has all of its values in its features. ``contexts`` are the words of the context
    rows.
    """

    time: float
    request_id: str
    version: str
    route: Literal["predict", "rank"]
    context: dict[str, Any]
    contexts: list[str]
    candidates: list[LoggedCandidate]
    degraded: list[str] = []


Line = LoggedBundle | LoggedRequest
encode_line = msgspec.json.Encoder().encode
decode_line = msgspec.json.Decoder(Line).decode


def packed(words: bytes | memoryview) -> str:
    """Return the words of an encoded row as text: base64 of 32-bit integers, low byte first."""
    if sys.byteorder == "big":
        words = np.frombuffer(words, np.int32).astype("<i4").tobytes()
    return b64encode(words).decode()


def unpacked(text: str) -> Indices:
    """Return the words of an encoded row [W].

    Raises:
        ValueError: the text is not one.
    """
    return np.frombuffer(b64decode(text, validate=True), "<i4").astype(np.int32)
