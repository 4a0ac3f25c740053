"""The bodies of answers with scores, as JSON text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from app.features.graph_inputs import Scores
from app.scoring.job import Ids, ListedItems
from app.web.exchange import Exchange

SHOWN = 10
"""Unknown ids that an answer names."""


def predictions(exchange: Exchange, scores: Scores) -> str:
    """Return the body of a /predict answer: the scores in the request's order.

    An instance whose item is unknown has null in the place of a score.
    """
    texts: Iterable[str] = map("%.9g".__mod__, scores.score.tolist())
    unknown = ""
    if exchange.listed is not None and exchange.listed.places is not None:
        places = exchange.listed.places
        placed = ["null"] * (len(places) + len(exchange.listed.unknown))
        for place, text in zip(places, texts, strict=True):
            placed[place] = text
        texts, unknown = placed, _unknown(exchange.listed)
    tail = f"{unknown}{_degraded(exchange)}"
    if exchange.versions is not None:
        tail = f',"versions":{msgspec.json.encode(exchange.versions).decode()}{tail}'
    return f'{{"predictions":[{",".join(texts)}],"version":"{exchange.version}"{tail}}}'


def prediction(exchange: Exchange, logit: float, score: float) -> str:
    """Return the body of a /predict answer with one score."""
    if exchange.listed is not None:
        only = np.array([score], np.float32)
        return predictions(exchange, Scores(only, only))
    return f'{{"predictions":[{score:.9g}],"version":"{exchange.version}"{_degraded(exchange)}}}'


def ranking_of_one(exchange: Exchange, logit: float, score: float) -> str:
    """Return the body of a /rank answer with one score."""
    only = np.array([score], np.float32)
    return ranking(exchange, Scores(only, only))


def ranking(exchange: Exchange, scores: Scores) -> str:
    """Return the body of a /rank answer.

    Candidates come by falling logit, ``top_k`` of them; equal logits keep the request's order.
    Scores of fewer candidates than the request has are those of the first.
    """
    order = scores.best(exchange.top_k)
    best = scores.score[order].tolist()
    places = order.tolist()
    ids: Ids = [None] * len(places)
    if exchange.ids is not None:
        ids = [exchange.ids[index] for index in places]
    if exchange.listed is not None:
        tail = _scored(exchange, scores)
        return _items(exchange, exchange.listed, places, ids, best, tail)
    members = ",".join(
        f'{{"index":{index},{_id_member(identity)}"score":{score:.9g}}}'
        for index, identity, score in zip(places, ids, best, strict=True)
    )
    tail = f"{_scored(exchange, scores)}{_degraded(exchange)}"
    return f'{{"ranking":[{members}],"version":"{exchange.version}"{tail}}}'


def explanation(exchange: Exchange, members: Mapping[str, Any]) -> str:
    """Return the body of an /explain answer."""
    told = msgspec.json.encode(members).decode()
    return f'{{"version":"{exchange.version}",{told[1:-1]}{_degraded(exchange)}}}'


def _items(
    exchange: Exchange,
    listed: ListedItems,
    rows: Sequence[int],
    ids: Ids,
    best: Sequence[float],
    tail: str,
) -> str:
    """Return the body of a /rank answer over items of the catalogue."""
    if listed.places is None:
        members = [
            f'{{{_id_member(identity)}"score":{score:.9g}}}'
            for identity, score in zip(ids, best, strict=True)
        ]
    else:
        members = [
            f'{{"index":{listed.places[row]},{_id_member(identity)}"score":{score:.9g}}}'
            for row, identity, score in zip(rows, ids, best, strict=True)
        ]
    if listed.unknown_last:
        room = None if exchange.top_k is None else exchange.top_k - len(members)
        members += [
            f'{{"index":{place},{_id_member(identity)}"score":null}}'
            for place, identity in listed.unknown[:room]
        ]
    ranked = ",".join(members)
    tail += f"{_unknown(listed)}{_degraded(exchange)}"
    return f'{{"ranking":[{ranked}],"version":"{exchange.version}"{tail}}}'


def _scored(exchange: Exchange, scores: Scores) -> str:
    """Return how many candidates were scored, if it is a part of them."""
    scored = len(scores.logit)
    return "" if scored == exchange.rows else f',"scored":{scored},"of":{exchange.rows}'


def _unknown(listed: ListedItems) -> str:
    if not listed.unknown:
        return ""
    shown = msgspec.json.encode([identity for _, identity in listed.unknown[:SHOWN]]).decode()
    return f',"unknown":{{"total":{len(listed.unknown)},"ids":{shown}}}'


def _degraded(exchange: Exchange) -> str:
    if not (exchange.degraded or exchange.without_profiles):
        return ""
    return f',"degraded":{msgspec.json.encode(exchange.lacking).decode()}'


def _id_member(identity: int | str | None) -> str:
    if identity is None:
        return ""
    return f'"id":{msgspec.json.encode(identity).decode()},'
