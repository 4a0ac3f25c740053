"""A service with its admin port, and the key of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.serving import Service, free_port

KEY = "0123456789abcdef" * 4
BEARER = {"authorization": f"Bearer {KEY}"}


class WithAdmin(NamedTuple):
    """A service and the address of its admin port."""

    service: Service
    url: str


def start_with_admin(
    start: Callable[..., Service], scratch: Path, bundle: Path | None = None, **settings: Any
) -> WithAdmin:
    """Start a service with an admin port; ``scratch`` holds the hash of its key."""
    hashes = scratch / "admin.sha256"
    hashes.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()}  -\n")
    port = free_port()
    service = start(bundle, admin_port=port, admin_key_file=hashes, **settings)
    return WithAdmin(service, f"http://127.0.0.1:{port}")
