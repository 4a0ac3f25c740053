"""Answers with 200, as values with types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctr_client.errors import AnswerError

Id = int | str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Ids that are not in the catalogue: how many, and the first few."""

    total: int
    ids: Sequence[Id]


@dataclass(frozen=True, slots=True)
class Predictions:
    """One click probability for each instance, in their order; None for an unknown item."""

    scores: Sequence[float | None]
    version: str
    """The bundle that scored them."""
    degraded: Sequence[str] = ()
    """The things that the scores had to do without."""
    unknown: Unknown | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate's place in a ranking."""

    score: float | None
    index: int | None = None
    """Its position in the request, if it has one there."""
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates by falling score."""

    places: Sequence[Ranked]
    version: str
    """The bundle that scored them."""
    degraded: Sequence[str] = ()
    """The things that the scores had to do without."""
    unknown: Unknown | None = None
    scored: int | None = None
    """Candidates scored in time, where with ``partial`` not all were."""
    of: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The bundle in use."""

    version: str
    network: str
    fields: Sequence[Mapping[str, Any]]
    """Name, kind and side of each field, among others."""
    raw: Mapping[str, Any]
    """All that ``/model`` says."""


def predictions(told: Any) -> Predictions:
    """Read an answer of ``/predict``."""
    scores = told["predictions"]
    if not isinstance(scores, list):
        raise AnswerError("the answer has no list of predictions")
    return Predictions(scores, told["version"], told.get("degraded", ()), _unknown(told))


def ranking(told: Any) -> Ranking:
    """Read an answer of ``/rank``."""
    places = [Ranked(each["score"], each.get("index"), each.get("id")) for each in told["ranking"]]
    return Ranking(
        places,
        told["version"],
        told.get("degraded", ()),
        _unknown(told),
        told.get("scored"),
        told.get("of"),
    )


def model_info(told: Any) -> ModelInfo:
    """Read an answer of ``/model``."""
    return ModelInfo(told["version"], told["network"], told["fields"], told)


def _unknown(told: Any) -> Unknown | None:
    found = told.get("unknown")
    return None if found is None else Unknown(found["total"], found["ids"])
