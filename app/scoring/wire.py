"""The types that request bodies are decoded to; ``app.web.schemas`` documents the same JSON.

The parts of a body (an instance, a column, a context) stay undecoded until their turn comes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

OnUnknown = Literal["omit", "last", "error"]
"""The fate of ids that are not in the catalogue: left out, put last without a score, or 422."""


class PredictBody(msgspec.Struct, frozen=True):
    """Body of ``POST /predict``; other keys are ignored. Each instance is decoded later."""

    instances: list[msgspec.Raw]
    stored: bool = False
    on_unknown: OnUnknown | None = None


class Candidate(msgspec.Struct, frozen=True):
    """One candidate of a list in row form."""

    features: dict[str, Any]
    id: int | str | None = None


class CandidateColumns(msgspec.Struct, frozen=True):
    """A candidate list in columnar form, or items of the catalogue.

    Each column is decoded later. With ``ids``, ``features`` take precedence over stored values.
    """

    features: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    id: list[int | str | None] | None = None
    ids: list[int | str] | None = None
    all: bool = False
    exclude: list[int | str] = []
    where: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    prefilter: Annotated[int, msgspec.Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.features is msgspec.UNSET and self.ids is None and not self.all:
            raise ValueError("expected features, ids, or all that is true")


class RankBody(msgspec.Struct, frozen=True):
    """Body of ``POST /rank``. Context and candidates are decoded later."""

    context: msgspec.Raw
    candidates: list[msgspec.Raw] | CandidateColumns
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    partial: bool = False
    on_unknown: OnUnknown | None = None


class KnownRankBody(RankBody, frozen=True, forbid_unknown_fields=True):
    """The same without other keys."""
