"""The share of requests that is logged: the same keys at all times, in all workers and replicas."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any
from zlib import crc32

from app.errors import ValueProblem
from app.features.keys import plain_key

HASH_BYTES = 8


class Sample:
    """Holds a share of all texts, by a hash of each. A larger share holds those of a smaller."""

    def __init__(self, share: float) -> None:
        """``share`` lies between 0 and 1."""
        self._bound: int = round(share * 2 ** (8 * HASH_BYTES))
        self._request_bound = share * 2**32

    def holds(self, text: bytes) -> bool:
        """True if this text belongs to the share."""
        number = int.from_bytes(blake2b(text, digest_size=HASH_BYTES).digest(), "big")
        return number < self._bound

    def holds_request(self, request_id: bytes) -> bool:
        """True if a request without a key belongs to the share: a checksum costs a tenth of a
        hash, and each request is asked for only once.
        """
        return crc32(request_id) < self._request_bound

    def holds_key(self, value: Any, otherwise: bytes) -> bool:
        """True if a key's value belongs to the share; ``otherwise`` decides where there is none.

        7 and "7" are the same key.
        """
        if value is None:
            return self.holds(otherwise)
        try:
            return self.holds(plain_key(value).encode(errors="surrogatepass"))
        except ValueProblem:
            return self.holds(otherwise)
