"""The request log and events of a service, as tests read and send them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from app.feedback.event_format import LoggedEvent
from app.feedback.log_format import LoggedRequest
from model.feedback.reading import Logs
from tests.support.serving import Service

KEY = "0123456789abcdef" * 4
HEADERS = {"authorization": f"Bearer {KEY}"}


def key_file(directory: Path) -> Path:
    """Write a file with the hash of ``KEY``."""
    path = directory / "feedback-keys"
    path.write_text(hashlib.sha256(KEY.encode()).hexdigest() + "\n")
    return path


def requests_in(directory: Path) -> list[LoggedRequest]:
    """The requests of a log, in the order of its files."""
    return [line for line in Logs([directory]).requests() if isinstance(line, LoggedRequest)]


def events_in(directory: Path) -> list[LoggedEvent]:
    """The events of a directory that need not hold any requests."""
    logs = Logs.__new__(Logs)
    logs.request_files, logs.cut_short = [], 0
    logs.event_files = sorted(directory.glob("events-*.jsonl"))
    return list(logs.events())


def send(service: Service, events: Iterable[Any], **headers: str) -> Any:
    """Send events, with the key unless there are other headers."""
    return service.client.post(
        "/feedback", json={"events": list(events)}, headers=headers or HEADERS
    )
