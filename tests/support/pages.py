"""What tests of the pages in a browser share: services that show them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.store.sqlite import SqliteStore
from app.store.store import Item
from model.config import TrainConfig
from tests.conftest import StartService
from tests.support.admin import WithAdmin, start_with_admin
from tests.support.browser import Watched
from tests.support.samples import Sample, candidate_of

QUICK = TrainConfig(
    embedding_size=4, hidden=(16,), batch_size=256, epochs=2, learning_rate=0.02, threads=1
)
Open = Callable[..., Watched]
"""Opens a page: its address, the key, the width and the colour scheme."""


def with_store(
    start: StartService, bundle: Path, scratch: Path, items: list[Item], **more: Any
) -> WithAdmin:
    """Start a service over a bundle with a store of items."""
    store = SqliteStore(scratch / "store.db", create=True)
    store.put(items)
    store.close()
    url = f"sqlite://{scratch}/store.db"
    return start_with_admin(start, scratch, bundle, store=url, **more)


def films(sample: Sample) -> list[Item]:
    """Forty items for a store."""
    return [
        Item(number, {**candidate_of(row), "title": f"Film {number}"})
        for number, row in enumerate(sample.rows[:40])
    ]
