"""Bundles that take each other's place in a directory, and clients who look on."""

from __future__ import annotations

import hashlib
import json
import operator
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from app.bundle.manifest import MANIFEST, SPEC, FileRecord, bundle_id, read_manifest
from tests.support.serving import Service, strict, wait_until

POLL = {"bundle_poll_seconds": 0.1, "deadline_ms": 5_000}
COMPANY = 1e-6
CLIENTS = 4


class Traffic:
    """Requests from a few threads; every answer's score is that of the version it names."""

    def __init__(self, service: Service, rows: list[Any], expected: dict[str, list[float]]) -> None:
        self.service, self.rows, self.expected = service, rows, expected
        self.seen: Counter[str] = Counter()
        self.order: list[list[str]] = []
        self.problems: list[str] = []
        self._over = threading.Event()
        self.answers = [0] * CLIENTS
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(CLIENTS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: Path) -> None:
        """Wait until every client was last answered by a version."""
        wait_until(
            lambda: [versions[-1:] for versions in self.order] == [[version.name]] * CLIENTS,
            f"{version.name} answers every client",
            60,
        )

    def wait_answers(self, count: int = 100) -> None:
        """Wait until every client has had so many more answers."""
        wanted = [answers + count for answers in self.answers]
        wait_until(
            lambda: all(map(operator.ge, self.answers, wanted)),
            f"{count} more answers to every client",
            60,
        )

    def _ask(self, client_number: int) -> None:
        number = client_number
        versions: list[str] = []
        self.order.append(versions)
        with httpx.Client(
            base_url=self.service.url, timeout=30, trust_env=False, verify=False
        ) as client:
            while not self._over.is_set():
                number = (number + 1) % len(self.rows)
                try:
                    answer = client.post("/predict", json={"instances": [self.rows[number]]})
                except httpx.TransportError as error:
                    self.problems.append(repr(error))
                    continue
                if answer.status_code != 200:
                    self.problems.append(f"{answer.status_code}: {answer.text}")
                    continue
                found = strict(answer.content)
                version = found["version"]
                away = abs(found["predictions"][0] - self.expected[version][number])
                if away > COMPANY:
                    self.problems.append(f"{away} away, {version}")
                self.seen[version] += 1
                self.answers[client_number] += 1
                if versions[-1:] != [version]:
                    versions.append(version)


def version_of(service: Service) -> str:
    return str(strict(service.client.get("/ready").content)["version"])


def serves(service: Service, version: Path) -> Callable[[], bool]:
    return lambda: version_of(service) == version.name


def arrive(bundle: Path, directory: Path) -> None:
    """Put a bundle into a directory at once, as the trainer does."""
    hidden = directory / f".{bundle.name}"
    shutil.copytree(bundle, hidden)
    hidden.rename(directory / bundle.name)


def sign(bundle: Path) -> None:
    """Write a manifest whose hashes are those of the files."""
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    for name in manifest["files"]:
        data = (bundle / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    records = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    manifest["id"] = bundle_id(records)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def edited(bundle: Path, directory: Path, change: Callable[[str], str]) -> Path:
    """Copy a bundle into a directory with another spec, under the name that is its own then."""
    copy = directory / f".{bundle.name}"
    shutil.copytree(bundle, copy)
    spec = copy / SPEC
    text = spec.read_text(encoding="utf-8")
    assert change(text) != text
    spec.write_text(change(text), encoding="utf-8")
    sign(copy)
    return copy.rename(directory / read_manifest(copy).version)


def turn(link: Path, target: Path) -> None:
    """Make a link lead to a target, at once, whether it is there or not."""
    new = link.with_name(f".{link.name}")
    new.symlink_to(target)
    new.rename(link)
