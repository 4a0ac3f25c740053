"""The change of golden requests' scores, with real bundles."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import GRAPH
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.rollout.golden_change import TOP, Scorer, golden_change
from app.scoring.job import Scoring
from model.quality.offline_scoring import open_engine


@cache
def scorer(path: Path) -> tuple[Bundle, Scorer]:
    bundle = Bundle.open(path)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    return bundle, Scorer(encoder, open_engine(path / GRAPH, encoder, bundle.vocabulary.layout))


class Altered:
    """An engine whose scores are altered."""

    def __init__(self, engine: Scoring, factor: float, turned: bool = False) -> None:
        self._engine, self._factor, self._turned = engine, factor, turned

    def score(self, batch: Batch) -> Scores:
        scores = self._engine.score(batch)
        score = np.float32(1) - scores.score if self._turned else scores.score
        return Scores(scores.logit, np.float32(self._factor) * score)


def test_the_same_bundle_changes_nothing(tiny_bundle: Path) -> None:
    bundle, own = scorer(tiny_bundle)
    assert golden_change(bundle.examples, own, own) == (1.0, 0.0, TOP)


def test_another_bundle_changes_something(tiny_bundle: Path, other_bundle: Path) -> None:
    bundle, new = scorer(other_bundle)
    change = golden_change(bundle.examples, new, scorer(tiny_bundle)[1])
    assert change.mean_score_ratio == pytest.approx(1.0, abs=0.5)
    assert change.mean_score_ratio != 1.0
    assert 0 < change.changed_top < 1


def test_the_ratio_is_new_over_old(tiny_bundle: Path) -> None:
    """A factor changes the mean and no place; the order turned round changes every place."""
    bundle, own = scorer(tiny_bundle)
    half = own._replace(engine=Altered(own.engine, 0.5))
    change = golden_change(bundle.examples, half, own)
    assert change.mean_score_ratio == pytest.approx(0.5)
    assert change.changed_top == 0
    turned = own._replace(engine=Altered(own.engine, 1.0, turned=True))
    assert golden_change(bundle.examples, turned, own).changed_top == pytest.approx(1.0)


def test_few_candidates_are_compared_by_half(tiny_bundle: Path) -> None:
    """With one candidate there is one place, which cannot change."""
    bundle, own = scorer(tiny_bundle)
    turned = own._replace(engine=Altered(own.engine, 1.0, turned=True))
    lone = [each for each in bundle.examples if len(each.candidates) == 1][:1]
    assert golden_change(lone, turned, own)[1:] == (0.0, 1)
    four = [each for each in bundle.examples if len(each.candidates) == 4][:1]
    assert golden_change(four, own, own).top == 2
