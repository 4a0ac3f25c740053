"""A service with an admin port, as tests ask it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.conftest import StartService
from tests.support.serving import Service, free_port, strict
from tests.support.swaps import POLL, version_of

KEY = "0123456789abcdef" * 4
BEARER = {"authorization": f"Bearer {KEY}"}
UNGUARDED = {"failures": None, "p99_ratio": None, "mean_score_ratio": None}


class Admin:
    """The admin port of a service, asked with a key."""

    def __init__(self, start: StartService, bundles: Path, key_file: Path, **settings: Any) -> None:
        self.port = free_port()
        given = {"admin_port": self.port, "admin_key_file": key_file, **POLL, **settings}
        self.service = start(bundles, **given)
        # Each request has a connection of its own: any worker may be the one to answer.
        self.service.client.headers["connection"] = "close"
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/admin", timeout=60.0,
            trust_env=False, verify=False, headers={"authorization": f"Bearer {KEY}"},
        )  # fmt: skip

    def states(self) -> dict[str, str]:
        """The state of every bundle."""
        return {each["version"]: each["state"] for each in self.listing()["bundles"]}

    def listing(self) -> dict[str, Any]:
        """Return the answer of ``GET /admin/bundles``."""
        answer = self.client.get("/bundles")
        assert answer.status_code == 200, answer.text
        return dict(strict(answer.content))

    def trial(self) -> dict[str, Any] | None:
        """Return what the listing says of the bundle on trial."""
        found = self.listing()["trial"]
        return None if found is None else dict(found)

    def canary(self, version: str, **body: Any) -> httpx.Response:
        """Ask for a canary; by default of half of the users, without bounds."""
        given = {"share": 0.5, "key": "user_id", "guard": UNGUARDED, **body}
        return self.client.post(f"/bundles/{version}/canary", json=given)

    def activate(self, version: str) -> httpx.Response:
        """Ask for a bundle."""
        return self.client.post(f"/bundles/{version}/activate")

    def versions(self) -> set[str]:
        """Return the versions that answer, over connections of their own."""
        return {version_of(self.service) for _ in range(20)}


class StartAdmin:
    """Starts services with an admin port; see :class:`Admin`."""

    def __init__(self, start: StartService, key_file: Path) -> None:
        self._start, self._key_file = start, key_file
        self.clients: list[httpx.Client] = []

    def __call__(self, bundles: Path, **settings: Any) -> Admin:
        admin = Admin(self._start, bundles, self._key_file, **settings)
        self.clients.append(admin.client)
        return admin


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer that must have ``status``."""
    assert answer.status_code == status, answer.text
    return dict(strict(answer.content)["error"])


class WithAdmin(NamedTuple):
    """A service and the address of its admin port."""

    service: Service
    url: str


def write_hash(path: Path) -> Path:
    """Write the hash of ``KEY``, as ``sha256sum`` prints it, and return the file."""
    path.write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()}  -\n")
    return path


def start_with_admin(
    start: Callable[..., Service], scratch: Path, bundle: Path | None = None, **settings: Any
) -> WithAdmin:
    """Start a service with an admin port; ``scratch`` holds the hash of its key."""
    port = free_port()
    hashes = write_hash(scratch / "admin.sha256")
    service = start(bundle, admin_port=port, admin_key_file=hashes, **settings)
    return WithAdmin(service, f"http://127.0.0.1:{port}")
