"""The trial under way as operators see it, with the figures of both sides."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from app.metrics.trial import SideCounts
from app.serving.trial import Canary
from app.serving.trials import Trials


class SideFigures(BaseModel):
    """Counts since the trial began, or since the bundle beside it was replaced."""

    requests: int
    failed: int
    rows: int
    mean_score: float | None
    p99_ms: float | None


class ShownTrial(BaseModel):
    """A bundle on trial. It is ``loading`` until requests take part in all workers."""

    version: str
    mode: Literal["canary", "shadow"]
    state: Literal["loading", "running"]
    share: float
    key: str | None
    guard: dict[str, Any] | None
    began: int
    live: SideFigures | None = None
    canary: SideFigures | None = None


def show_trial(trials: Trials) -> ShownTrial | None:
    """Return the trial of the file ``ROLLOUT``, with what this service has counted of it."""
    candidate = trials.rollout.candidate
    if candidate is None:
        return None
    found = trials.taking_part if trials.is_running(candidate) else None
    shown = ShownTrial(
        version=candidate.version,
        mode=candidate.mode,
        state="loading" if found is None else "running",
        share=candidate.share,
        key=candidate.key,
        guard=None if candidate.mode == "shadow" else _all_of(candidate.guard),
        began=candidate.began,
    )
    if isinstance(found, Canary):
        shown.live, shown.canary = _figures(found.live_counts), _figures(found.counts)
    return shown


def _all_of(guard: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(guard, name) for name in guard.__struct_fields__}


def _figures(side: SideCounts) -> SideFigures:
    found = side.figures()
    return SideFigures(
        requests=int(found.requests),
        failed=int(found.failed),
        rows=int(found.rows),
        mean_score=found.mean_score,
        p99_ms=None if found.p99 is None else round(1000 * found.p99, 3),
    )
