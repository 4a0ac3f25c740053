"""Explanations as the JSON of answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.explain.explanation import Explanation
from app.scoring.job import Ids


def answer(found: Sequence[Explanation], ids: Ids) -> dict[str, Any]:
    """Return the members of an answer: one explanation, or two and their difference.

    Candidates without an id have None in ``ids``.
    """
    told = [
        {**({} if identity is None else {"id": identity}), **each.shown()}
        for each, identity in zip(found, ids, strict=True)
    ]
    if len(told) == 1:
        return told[0]
    return {"candidates": told, "difference": difference(*found)}


def difference(first: Explanation, second: Explanation) -> dict[str, Any]:
    """Return the first logit less the second, term by term, the largest differences first.

    The differences of ``shapley`` add up to that of the logits; so do those of the terms and the
    deep part, for networks that have them. Terms that both have alike are left out.
    """
    told: dict[str, Any] = {
        "logit": first.logit - second.logit,
        "shapley": _fields(_less(first.shapley, second.shapley).items()),
    }
    if first.first_order is not None and second.first_order is not None:
        terms = _less(first.first_order, second.first_order)
        told["first_order"] = _fields(each for each in terms.items() if each[1])
    if first.pairs is not None and second.pairs is not None:
        pairs = _less(
            *({pair.fields: pair.value for pair in each.pairs or ()} for each in (first, second))
        )
        told["pairs"] = [
            {"fields": list(fields), "value": value}
            for fields, value in _largest_first(pairs.items())
            if value
        ]
    if first.deep is not None and second.deep is not None:
        told["deep"] = first.deep - second.deep
    return told


def _less(first: Mapping[Any, float], second: Mapping[Any, float]) -> dict[Any, float]:
    return {name: value - second[name] for name, value in first.items()}


def _fields(values: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"field": field, "value": value} for field, value in _largest_first(values)]


def _largest_first(values: Iterable[tuple[Any, float]]) -> list[tuple[Any, float]]:
    return sorted(values, key=lambda each: -abs(each[1]))
