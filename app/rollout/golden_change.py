"""The change for the golden requests where one bundle takes the place of another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.bundle.bundle import Example
from app.features.arrays import Floats
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring.job import Scoring

TOP = 10
"""The first places that are compared; half of the candidates where there are fewer."""


class Scorer(NamedTuple):
    """A bundle's way from raw values to scores."""

    encoder: Encoder
    engine: Scoring


class GoldenChange(NamedTuple):
    """The change of the scores of golden requests.

    ``mean_score_ratio`` is the new mean score over the old one, ``changed_top`` the share of the
    first ``top`` places that other candidates have, mean over requests.
    """

    mean_score_ratio: float
    changed_top: float
    top: int


def golden_change(examples: Sequence[Example], new: Scorer, old: Scorer) -> GoldenChange:
    """Compare two bundles: each golden context ranks the candidates of all golden requests.

    Raises:
        ValueProblem: the old bundle does not take a value of the new one's requests.
        EngineFailed: an engine gives no scores.
    """
    candidates = list(
        {
            json.dumps(each, sort_keys=True): each for one in examples for each in one.candidates
        }.values()
    )
    contexts = [example.context for example in examples]
    after, before = (_scores(scorer, contexts, candidates) for scorer in (new, old))
    top = max(1, min(TOP, len(candidates) // 2))
    firsts = zip(_first(after, top), _first(before, top), strict=True)
    changed = [len(now - then) / top for now, then in firsts]
    ratio = float(after.mean(dtype=np.float64) / before.mean(dtype=np.float64))
    return GoldenChange(ratio, float(np.mean(changed)), top)


def _scores(
    scorer: Scorer, contexts: Sequence[Mapping[str, Any]], candidates: Sequence[Mapping[str, Any]]
) -> Floats:
    """Return the scores of every candidate [C] for every context: [contexts, C]."""
    encoder = scorer.encoder
    rows = b"".join(map(encoder.candidate.row, candidates))
    matrix = np.frombuffer(rows, np.int32).reshape(-1, encoder.candidate.shape.width)
    zeros = np.zeros(len(matrix), np.int32)
    lines = []
    for context in contexts:
        row = np.frombuffer(encoder.context.row(context), np.int32).reshape(1, -1)
        lines.append(scorer.engine.score(Batch(row, matrix, zeros)).score)
    return np.array(lines)


def _first(scores: Floats, top: int) -> list[set[int]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [set(line) for line in order.tolist()]
