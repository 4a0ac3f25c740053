"""The scores that a shadow gives beside those that were answered."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from app.features.arrays import Floats
from app.features.graph_inputs import Scores
from app.scoring.job import Ids

TOP = 10
"""The first places that are compared where a request asks for no number of them."""


class Answer(NamedTuple):
    """The scores of a request's rows, and whose they are; ``ids`` of candidates that have some."""

    scores: Scores
    ids: Ids | None


class Comparison(NamedTuple):
    """The difference that a shadow makes for one request.

    ``differences`` are its logits less the answered ones; ``shared_top`` is the share of the first
    places that go to the same candidates, where there are more candidates than places.
    """

    differences: Floats
    live_score: float
    """Sum of the answered scores of these rows."""
    shadow_score: float
    shared_top: float | None


def compare(live: Answer, shadow: Answer, top_k: int | None, ranked: bool) -> Comparison | None:
    """Compare what was answered with what a shadow says; None if they have no row in common.

    A shadow may have scored other items of the catalogue, which changes: those in common count.
    """
    own, other = live, shadow
    if live.ids != shadow.ids or len(live.scores.logit) != len(shadow.scores.logit):
        if live.ids is None or shadow.ids is None:
            return None
        places: dict[int | str | None, int] = {
            identity: row for row, identity in enumerate(shadow.ids) if identity is not None
        }
        rows = [row for row, identity in enumerate(live.ids) if identity in places]
        own = _rows(live, rows)
        other = _rows(shadow, [places[each] for each in live.ids if each in places])
    if not len(own.scores.logit):
        return None
    return Comparison(
        other.scores.logit - own.scores.logit,
        float(own.scores.score.sum(dtype=np.float64)),
        float(other.scores.score.sum(dtype=np.float64)),
        _shared_top(own.scores, other.scores, top_k or TOP) if ranked else None,
    )


def _rows(answer: Answer, rows: list[int]) -> Answer:
    scores = Scores(answer.scores.logit[rows], answer.scores.score[rows])
    return Answer(scores, None)


def _shared_top(live: Scores, shadow: Scores, top: int) -> float | None:
    """Return the share of the first places that both give to the same rows."""
    if len(live.logit) <= top:
        return None
    own, other = (
        set(np.argsort(-each.logit, kind="stable")[:top].tolist()) for each in (live, shadow)
    )
    return len(own & other) / top
