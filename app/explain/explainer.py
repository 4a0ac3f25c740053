"""An encoded row → the terms of its logit, and what each field adds to that of a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.bundle.bundle import Bundle
from app.errors import EngineFailed
from app.explain.explanation import Explanation, Pair
from app.explain.players import Baseline, FieldWords, Players, Row
from app.explain.shapley import Shares, coalition_count, coalitions, is_exact, shares
from app.explain.terms import Numbers, Terms, TermsGraph
from app.features.encoder import Encoder
from app.scoring.engine import Engine
from app.scoring.job import Scoring

SLICE_ROWS = 128
"""Rows that are scored at once; between slices others have their turn."""


class _Game(NamedTuple):
    """Scores of coalitions: the logits [M], and the score of the last coalition, which is all."""

    logit: Numbers
    score: float


class Explainer:
    """Explains rows of one bundle, by the engine that serves it.

    It has no state of its own: several threads may use it.
    """

    def __init__(
        self,
        engine: Scoring,
        words: FieldWords,
        terms: TermsGraph | None = None,
        deep: bool = True,
    ) -> None:
        """``terms`` are those of networks that have some; all of it unless it is ``deep``."""
        self.words = words
        self.engine = engine
        self._terms = terms
        self._deep = deep

    @classmethod
    def of(cls, bundle: Bundle, encoder: Encoder, engine: Engine) -> Explainer:
        """Return the explainer of a bundle.

        Raises:
            BundleError: its graph of terms cannot be used.
        """
        layout = bundle.vocabulary.layout
        words = FieldWords(layout, *encoder.shapes)
        explainable, graph = bundle.manifest.explainable, bundle.explain_graph
        if explainable is None or graph is None:
            return cls(engine, words)
        terms = TermsGraph(engine, graph, explainable, layout)
        return cls(engine, words, terms, explainable.deep)

    def rows(self, players: Players) -> int:
        """Return how many rows an explanation scores, those of terms included."""
        count = len(players.names)
        scored = coalition_count(count) if self._deep else 2
        return scored + (0 if self._terms is None else count + 2)

    def explain(
        self,
        row: Row,
        baseline: Baseline = "mean",
        players: Players | None = None,
        between: Callable[[], None] = lambda: None,
    ) -> Explanation:
        """Explain a row; ``between`` is called before each slice of work, and may raise.

        Raises:
            NotOffered: the bundle has no such baseline.
            EngineFailed: a run failed, or a score is not finite.
        """
        absent = self.words.baseline(baseline)
        players = players or Players(self.words)
        count = len(players.names)
        between()
        terms = None if self._terms is None else self._of_terms(row, absent, players, self._terms)
        if terms is not None and not self._deep:
            game = self._play(row, absent, players, np.array([[False], [True]]), between)
            found, method = terms.shares(), "exact"
        else:
            present = coalitions(count)
            game = self._play(row, absent, players, present, between)
            if terms is None or is_exact(count):
                found = shares(count, game.logit)
            else:
                # What the terms give is known exactly: orders are drawn for the rest alone.
                rest = shares(count, game.logit - terms.worth(present))
                found = Shares(terms.shares().value + rest.value, rest.error)
            method = "exact" if is_exact(count) else "sampled"
        logit = float(game.logit[-1])
        return Explanation(
            logit=logit,
            score=game.score,
            baseline_logit=float(game.logit[0]),
            shapley=dict(zip(players.names, found.value.tolist(), strict=True)),
            standard_error=dict(zip(players.names, found.error.tolist(), strict=True)),
            method="exact" if method == "exact" else "sampled",
            **({} if terms is None else terms.told(self.words, logit, self._deep)),
        )

    def _play(
        self,
        row: Row,
        absent: Row,
        players: Players,
        present: Any,
        between: Callable[[], None],
    ) -> _Game:
        """Score the rows of coalitions, a slice at a time."""
        present = np.broadcast_to(present, (len(present), len(players.names)))
        logit = np.empty(len(present))
        score = 0.0
        for start in range(0, len(present), SLICE_ROWS):
            between()
            part = present[start : start + SLICE_ROWS]
            found = self.engine.score(players.rows(row, absent, part))
            logit[start : start + len(part)] = found.logit
            score = float(found.score[-1])
        if not (np.isfinite(logit).all() and np.isfinite(score)):
            raise EngineFailed("the engine returned a score that is not a number")
        return _Game(logit, score)

    def _of_terms(self, row: Row, absent: Row, players: Players, graph: TermsGraph) -> _RowTerms:
        """Return the terms of a row, of the baseline, and of rows with one player each."""
        count = len(players.names)
        present = np.concatenate(
            [np.zeros((1, count), np.bool_), np.eye(count, dtype=np.bool_), [[True] * count]]
        )
        found = graph.of(players.rows(row, absent, present))
        slots = players.of_fields[self.words.of_slots]
        return _RowTerms(found, slots, slots[graph.pairs], graph.pairs, count)


class _RowTerms:
    """The terms of a row's explanation as a game: each is of one player, or of two."""

    def __init__(
        self,
        found: Terms,
        player_of_slot: Any,
        player_of_pair: Any,
        pairs: Any,
        players: int,
    ) -> None:
        """Take the terms of the empty coalition, of each player alone, and of all."""
        self._found = found
        self._pairs = pairs
        self.absent = np.zeros(players)
        self.present = np.zeros(players)
        """Terms of one player: of its slots, and of pairs of them."""
        np.add.at(self.absent, player_of_slot, found.first_order[0])
        np.add.at(self.present, player_of_slot, found.first_order[-1])
        left, right = player_of_pair.T
        within = left == right
        np.add.at(self.absent, left[within], found.pairs[0, within])
        np.add.at(self.present, left[within], found.pairs[-1, within])
        left, right = left[~within], right[~within]
        across = np.flatnonzero(~within)
        # [i, j]: the pair of i and j while both are absent, i alone is present, both are.
        self.neither, self.one, self.both = np.zeros((3, players, players))
        for first, second in ((left, right), (right, left)):
            np.add.at(self.neither, (first, second), found.pairs[0, across])
            np.add.at(self.both, (first, second), found.pairs[-1, across])
            np.add.at(self.one, (first, second), found.pairs[1 + first, across])

    def worth(self, present: Any) -> Numbers:
        """Return what the terms give to coalitions [M, G]."""
        there = present.astype(np.float64)
        away = 1 - there
        single = there @ self.present + away @ self.absent
        pairs = (
            0.5 * ((there @ self.both) * there).sum(1)
            + ((there @ self.one) * away).sum(1)
            + 0.5 * ((away @ self.neither) * away).sum(1)
        )
        worth: Numbers = self._found.bias + single + pairs
        return worth

    def shares(self) -> Shares:
        """Return their Shapley values: of one player's term all, of a pair's half for each."""
        own = self.present - self.absent
        # The mean of what i adds to the pair while j is present, and while it is absent.
        joint = 0.5 * ((self.both - self.one.T) + (self.one - self.neither)).sum(1)
        return Shares(own + joint, np.zeros(len(own)))

    def told(self, words: FieldWords, logit: float, deep: bool) -> dict[str, Any]:
        """Return the terms of the row itself by field; hidden layers give the rest of the logit."""
        first_order = np.zeros(len(words.fields))
        np.add.at(first_order, words.of_slots, self._found.first_order[-1])
        pairs: dict[tuple[str, str], float] = {}
        terms = self._found.pairs[-1].tolist()
        for (left, right), term in zip(words.of_slots[self._pairs].tolist(), terms, strict=True):
            key = _names(words.fields, left, right)
            pairs[key] = pairs.get(key, 0.0) + term
        told: dict[str, Any] = {
            "bias": self._found.bias,
            "first_order": dict(zip(words.fields, first_order.tolist(), strict=True)),
            "pairs": tuple(
                Pair(fields, value)
                for fields, value in sorted(pairs.items(), key=lambda each: -abs(each[1]))
            ),
        }
        total = self._found.bias + float(first_order.sum()) + sum(pairs.values())
        return {**told, "deep": logit - total if deep else 0.0}


def _names(fields: Sequence[str], left: int, right: int) -> tuple[str, str]:
    """Return the names of two fields in the order in which the fields are."""
    return fields[min(left, right)], fields[max(left, right)]
