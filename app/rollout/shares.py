"""Whose requests a canary answers: a share of the values of a key, always the same ones.

A value belongs to the canary if the hash of its text lies below the share of all hashes. The hash
is blake2b, keyed with the canary's version: every process and machine comes to the same side, a
larger share only adds values, and the next canary has other ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from app.errors import ServiceError
from app.features.keys import TextKey
from app.scoring.decoding import decode

_BYTES = 8
_HASHES = 1 << (8 * _BYTES)


class Shares:
    """The side of each value of a key."""

    def __init__(self, version: str, share: float) -> None:
        self._salt = version.encode()[: blake2b.MAX_KEY_SIZE]
        self._limit: int = round(share * _HASHES)

    def takes(self, text: str) -> bool:
        """True if the canary answers requests with this value, in its canonical text."""
        # Texts of JSON may have lone surrogates.
        value = text.encode("utf-8", "surrogatepass")
        digest: bytes = blake2b(value, digest_size=_BYTES, key=self._salt).digest()
        return int.from_bytes(digest, "big") < self._limit


class KeyReader:
    """Reads the key of a body, and nothing else of it."""

    def __init__(self, field: str, text: TextKey) -> None:
        """``text`` gives the canonical text of a value.

        Raises:
            ValueError: no key of a JSON object is decoded by that name.
        """
        self._text = text
        features = msgspec.defstruct("Features", [("key", Any, None)], rename={"key": field})
        rank = msgspec.defstruct("Rank", [("context", features)])
        predict = msgspec.defstruct("Predict", [("instances", list.__class_getitem__(features))])
        self._rank: msgspec.json.Decoder[Any] = msgspec.json.Decoder(rank)
        self._predict: msgspec.json.Decoder[Any] = msgspec.json.Decoder(predict)

    def of_context(self, body: bytes) -> str | None:
        """Return the key of a ``/rank`` body, if it has one."""
        try:
            return self._text(decode(self._rank, body).context.key)
        except ServiceError:
            return None  # Whoever scores it says what is wrong.

    def of_instances(self, body: bytes) -> Sequence[str | None]:
        """Return the key of each instance of a ``/predict`` body; of none if it cannot be read."""
        try:
            return [self._text(each.key) for each in decode(self._predict, body).instances]
        except ServiceError:
            return []
