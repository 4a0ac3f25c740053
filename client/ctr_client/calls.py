"""The calls: method, path and body of each, and the type of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from ctr_client import answers
from ctr_client.answers import Id, ModelInfo, Predictions, Ranking

T = TypeVar("T")
Features = Mapping[str, Any]
OnUnknown = Literal["omit", "last", "error"]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and the reader of its answer."""

    method: str
    path: str
    content: bytes | None
    read: Callable[[Any], T]


def predict(
    instances: Sequence[Features], stored: bool = False, on_unknown: OnUnknown | None = None
) -> Call[Predictions]:
    """Score rows; with ``stored`` the service adds what it knows of their users and items."""
    body: dict[str, Any] = {"instances": instances}
    _put(body, stored=stored or None, on_unknown=on_unknown)
    return Call("POST", "/predict", encoded(body), answers.predictions)


def rank(
    context: Features,
    candidates: Sequence[Features],
    ids: Sequence[Id] | None = None,
    top_k: int | None = None,
    partial: bool = False,
) -> Call[Ranking]:
    """Order candidates that are given row by row."""
    listed: list[dict[str, Any]] = [{"features": each} for each in candidates]
    if ids is not None:
        for own, candidate in zip(ids, listed, strict=True):
            candidate["id"] = own
    return _rank(context, listed, top_k, partial)


def rank_columns(
    context: Features,
    columns: Mapping[str, Sequence[Any]],
    ids: Sequence[Id] | None = None,
    top_k: int | None = None,
    partial: bool = False,
) -> Call[Ranking]:
    """Order candidates that are given as a list for each field: the form for long lists."""
    candidates: dict[str, Any] = {"features": columns}
    _put(candidates, id=ids)
    return _rank(context, candidates, top_k, partial)


def rank_items(
    context: Features,
    ids: Sequence[Id] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    where: Mapping[str, Any] | None = None,
    exclude: Sequence[Id] = (),
    prefilter: int | None = None,
    top_k: int | None = None,
    partial: bool = False,
    on_unknown: OnUnknown | None = None,
) -> Call[Ranking]:
    """Order items of the service's catalogue: those of ``ids``, or all of it."""
    candidates: dict[str, Any] = {"all": True} if ids is None else {"ids": ids}
    _put(candidates, features=columns, where=where, exclude=[*exclude] or None, prefilter=prefilter)
    return _rank(context, candidates, top_k, partial, on_unknown)


def model() -> Call[ModelInfo]:
    """Ask for the bundle in use."""
    return Call("GET", "/model", None, answers.model_info)


def ready() -> Call[Mapping[str, Any]]:
    """Ask whether the service can score."""
    return Call("GET", "/ready", None, dict)


def _rank(
    context: Features,
    candidates: Any,
    top_k: int | None,
    partial: bool,
    on_unknown: OnUnknown | None = None,
) -> Call[Ranking]:
    body: dict[str, Any] = {"context": context, "candidates": candidates}
    _put(body, top_k=top_k, partial=partial or None, on_unknown=on_unknown)
    return Call("POST", "/rank", encoded(body), answers.ranking)


def _put(body: dict[str, Any], **members: Any) -> None:
    body.update({name: value for name, value in members.items() if value is not None})


def encoded(body: Any) -> bytes:
    """Return a body as JSON.

    Raises:
        ValueError: it has a number that is not finite, which JSON has no form for; None is the
            value that is missing.
    """
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()
