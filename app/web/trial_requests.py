"""Requests while a bundle is on trial: whose they are, and what is counted of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from app.features.graph_inputs import Scores
from app.metrics.trial import AfterAnswer, OnSide, SideCounts
from app.rollout.comparison import Answer
from app.rollout.split_predict import split_predict
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps
from app.serving.shadow import Asked, Shadow
from app.serving.trial import Trial
from app.web.exchange import Endpoint, Exchange

PREDICT, RANK = "predict", "rank"
TAKING_PART = frozenset((PREDICT, RANK))
"""Routes whose requests take part in a trial; all others are the live bundle's."""


class HasTrial(Protocol):
    """The holder of the scorer in use, and of the trial beside it."""

    @property
    def scorer(self) -> Scorer:
        """The scorer of the bundle in use."""
        ...

    @property
    def trial(self) -> Trial | None:
        """The trial that requests take part in, if there is one."""
        ...


class TrialRequests:
    """Has requests scored by the bundle that they belong to.

    An exchange is counted on its side by the endpoint that it is given, so that requests without a
    trial pay nothing for it.
    """

    def __init__(self, state: HasTrial, max_instances: int) -> None:
        self._state = state
        self._max_instances = max_instances

    def steps(self, exchange: Exchange, body: bytes) -> Steps[None]:
        """Queue a body.

        Raises:
            ServiceError: the request is refused.
        """
        # Looked up when the steps begin: a long body may have waited, and the trial have ended.
        live, trial = self._state.scorer, self._state.trial
        # Tensors have no keys, and explanations are of the bundle in use.
        if trial is None or exchange.endpoint.route.name not in TAKING_PART:
            yield from _score(live, exchange, body)
            return
        if isinstance(trial, Shadow):
            if trial.wants():
                exchange.endpoint = _shadowed(exchange, body, trial)
            yield from _score(live, exchange, body)
            return
        if exchange.endpoint.route.name != PREDICT:
            canarys = trial.takes(trial.keys.of_context(body))
        else:
            sides = [trial.takes(key) for key in trial.keys.of_instances(body)]
            canarys = bool(sides) and all(sides)
            if any(sides) and not canarys and len(sides) <= self._max_instances:
                began = exchange.received
                exchange.version = live.version
                yield from split_predict(
                    body,
                    exchange,
                    (live, trial.live_counts),
                    (trial.scorer, trial.counts),
                    sides,
                    began,
                    lambda: _score(live, exchange, body),
                )
                return
        counts = trial.counts if canarys else trial.live_counts
        exchange.endpoint = _counted(exchange.endpoint, counts)
        yield from _score(trial.scorer if canarys else live, exchange, body)


def _score(scorer: Scorer, exchange: Exchange, body: bytes) -> Steps[None]:
    """Queue a body with one scorer."""
    exchange.version = scorer.version
    if exchange.endpoint.request_log is not None:
        exchange.begin_trace(scorer, body)
    route = exchange.endpoint.route
    if not route.short(scorer, body, exchange):
        yield from route.prepare(scorer, body, exchange)


def _counted(endpoint: Endpoint, counts: SideCounts) -> Endpoint:
    """Return an endpoint whose answers are counted on one side, too."""
    route = endpoint.route

    def render(exchange: Exchange, scores: Scores) -> str:
        counts.note_scores(scores)
        return route.render(exchange, scores)

    def render_alone(exchange: Exchange, logit: float, score: float) -> str:
        counts.note_mean(1, score)
        return route.render_alone(exchange, logit, score)

    return replace(
        endpoint,
        route=replace(route, render=render, render_alone=render_alone),
        metrics=OnSide(endpoint.metrics, counts),
    )


def _shadowed(exchange: Exchange, body: bytes, shadow: Shadow) -> Endpoint:
    """Return an endpoint that hands its request over to a shadow once the answer is out."""
    endpoint = exchange.endpoint
    route = endpoint.route
    kept: list[Scores] = []

    def render(exchange: Exchange, scores: Scores) -> str:
        kept.append(scores)
        return route.render(exchange, scores)

    def render_alone(exchange: Exchange, logit: float, score: float) -> str:
        kept.append(Scores(np.array([logit], np.float32), np.array([score], np.float32)))
        return route.render_alone(exchange, logit, score)

    def offer() -> None:
        if kept:
            answer = Answer(kept.pop(), exchange.ids)
            taken = exchange.ended - exchange.begun
            shadow.offer(Asked(route.name != PREDICT, body, answer, exchange.top_k, taken))

    return replace(
        endpoint,
        route=replace(route, render=render, render_alone=render_alone),
        metrics=AfterAnswer(endpoint.metrics, offer),
    )
