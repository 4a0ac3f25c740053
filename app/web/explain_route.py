"""``/explain``: the route of explanations, on the public port and on the admin port."""

from __future__ import annotations

from collections.abc import Callable

from app.explain.explaining import Explaining
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps
from app.web.answer_bodies import explanation
from app.web.exchange import Exchange, Route
from app.web.schemas import ExplainRequest, ExplainResponse

PATH = "/explain"


def explain_route(explaining: Callable[[], Explaining]) -> Route:
    """Return the route of one service; ``explaining`` gives the explanations of its bundle."""

    def prepare(scorer: Scorer, body: bytes, exchange: Exchange) -> Steps[None]:
        bundles = explaining()
        exchange.version = bundles.version
        found = yield from bundles.explain(body, exchange)
        if not exchange.answered:
            exchange.answer_by(explanation, found)

    return Route(
        name="explain",
        paths={PATH: "Explain a score: what each field adds to it, and the terms of the network."},
        prepare=prepare,
        render=_no_scores,
        render_alone=_no_scores,
        request=ExplainRequest,
        response=ExplainResponse,
    )


def _no_scores(exchange: Exchange, *scores: object) -> str:
    raise AssertionError("no rows of an explanation are queued")
