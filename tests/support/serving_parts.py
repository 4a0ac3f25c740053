"""The objects of app.serving over a real bundle, put together as app.main does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from app.main import limits_of
from app.metrics.registry import Metrics
from app.rollout.gate import Gate
from app.serving.agreement import Agreement
from app.serving.build import Builder
from app.serving.engines import Engines
from app.serving.loading import Loader
from app.serving.state import ServingState
from app.serving.swap import Swapper
from app.serving.trials import Trials
from app.serving.versions import Versions
from app.settings import Settings
from app.workers.shared_numbers import SharedNumbers


@dataclass
class Parts:
    """One worker's."""

    metrics: Metrics
    state: ServingState
    agreement: Agreement
    loader: Loader
    builder: Builder
    swapper: Swapper
    trials: Trials


@asynccontextmanager
async def parts(
    bundle: Path, shared: SharedNumbers | None = None, **settings: Any
) -> AsyncIterator[Parts]:
    """Put them together; what they have open is closed at the end of the block."""
    shared = shared or SharedNumbers()
    chosen = Settings(bundle=bundle, **settings)
    limits = limits_of(chosen)
    metrics = Metrics(shared, chosen.metrics == "on", chosen.drift_rows)
    state, agreement = ServingState(shared), Agreement(shared)
    loader = Loader(chosen, metrics, Engines(chosen, shared))
    builder = Builder(chosen, limits, metrics, state)
    swapper = Swapper(
        Versions(bundle),
        loader,
        builder,
        state,
        agreement,
        metrics.refused_bundles,
        Gate.load(chosen.gate) if chosen.gate else None,
        poll_seconds=chosen.bundle_poll_seconds,
        deadline_seconds=limits.deadline_seconds,
    )
    trials = Trials(
        bundle, loader, builder, swapper, state, metrics, shared, chosen.bundle_poll_seconds
    )
    try:
        yield Parts(metrics, state, agreement, loader, builder, swapper, trials)
    finally:
        await trials.close()
        await swapper.close()
        await builder.close_all()


def swapper(poll_seconds: float = 3_600.0, deadline_seconds: float = 0.0, **parts: Any) -> Swapper:
    """Return a swapper of these parts alone."""
    names = ("versions", "loader", "builder", "state", "agreement", "refused_bundles")
    given = cast(Any, {name: SimpleNamespace() for name in names} | parts)
    return Swapper(**given, poll_seconds=poll_seconds, deadline_seconds=deadline_seconds)


@contextmanager
def held_up(directory: Path) -> Iterator[None]:
    """Nobody else can change ``ROLLOUT`` meanwhile."""
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
