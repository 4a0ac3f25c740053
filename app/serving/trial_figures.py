"""The trial under way as operators see it, with the figures of both sides."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from app.metrics.shadow import ShadowFigures
from app.metrics.trial import SideCounts
from app.serving.shadow import Shadow
from app.serving.trial import Canary
from app.serving.trials import Trials


class SideFigures(BaseModel):
    """Counts since the trial began, or since the bundle beside it was replaced."""

    requests: int
    failed: int
    rows: int
    mean_score: float | None
    p99_ms: float | None


class ShadowComparison(BaseModel):
    """The scores of a shadow beside those that were answered, since the trial began.

    ``logit_shift`` is the mean of its logits less the answered ones, ``logit_difference`` the size
    of that difference which half of the rows, 90 % and 99 % do not pass; ``shared_top`` the share
    of the first places that both give to the same candidates.
    """

    requests: dict[str, int]
    rows: int
    logit_shift: float | None
    logit_difference: dict[str, float | None]
    shared_top: float | None
    mean_score: float | None
    live_mean_score: float | None
    engine_ms: float | None
    live_engine_ms: float | None


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
    shadow: ShadowComparison | None = None


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
    if isinstance(found, Shadow):
        shown.shadow = _comparison(found.counts.figures())
    return shown


def _comparison(found: ShadowFigures) -> ShadowComparison:
    scored = found.outcomes["scored"]
    return ShadowComparison(
        requests={name: int(number) for name, number in found.outcomes.items()},
        rows=int(found.rows),
        logit_shift=_mean(found.differences, found.rows),
        logit_difference={f"p{share}": found.quantile(share / 100) for share in (50, 90, 99)},
        shared_top=_mean(found.shared, found.tops),
        mean_score=_mean(found.scores, found.rows),
        live_mean_score=_mean(found.live_scores, found.rows),
        engine_ms=_mean(1000 * found.seconds, scored),
        live_engine_ms=_mean(1000 * found.live_seconds, scored),
    )


def _mean(total: float, number: float) -> float | None:
    return total / number if number else None


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
