"""Fingerprints: hashes of all that decides a result, by which an earlier result is found again."""

from __future__ import annotations

import hashlib
import json


def fingerprint_of(*parts: object) -> str:
    """Return the SHA-256 of values that JSON can hold, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
