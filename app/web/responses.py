"""The bodies of answers with scores, as JSON text."""

from __future__ import annotations

import msgspec
import numpy as np

from app.features.graph_inputs import Scores
from app.scoring.job import Ids
from app.web.exchange import Exchange


def predictions(exchange: Exchange, scores: Scores) -> str:
    """Return the body of a /predict answer: the scores in the request's order."""
    numbers = ",".join([f"{score:.9g}" for score in scores.score.tolist()])
    return f'{{"predictions":[{numbers}],"version":"{exchange.version}"{_degraded(exchange)}}}'


def ranking(exchange: Exchange, scores: Scores) -> str:
    """Return the body of a /rank answer.

    Candidates come by falling logit, ``top_k`` of them; equal logits keep the request's order.
    """
    order = np.argsort(-scores.logit, kind="stable")[: exchange.top_k]
    best = scores.score[order].tolist()
    places = order.tolist()
    ids: Ids = [None] * len(places)
    if exchange.ids is not None:
        ids = [exchange.ids[index] for index in places]
    members = ",".join(
        f'{{"index":{index},{_id_member(identity)}"score":{score:.9g}}}'
        for index, identity, score in zip(places, ids, best, strict=True)
    )
    return f'{{"ranking":[{members}],"version":"{exchange.version}"{_degraded(exchange)}}}'


def _degraded(exchange: Exchange) -> str:
    return ',"degraded":["vocabulary"]' if exchange.degraded else ""


def _id_member(identity: int | str | None) -> str:
    if identity is None:
        return ""
    return f'"id":{msgspec.json.encode(identity).decode()},'
