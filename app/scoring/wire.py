"""The types that request bodies are decoded to; ``app.web.schemas`` documents the same JSON.

The parts of a body (an instance, a column, a context) stay undecoded until their turn comes.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class PredictBody(msgspec.Struct, frozen=True):
    """Body of ``POST /predict``; other keys are ignored. Each instance is decoded later."""

    instances: list[msgspec.Raw]


class Candidate(msgspec.Struct, frozen=True):
    """One candidate of a list in row form."""

    features: dict[str, Any]
    id: int | str | None = None


class CandidateColumns(msgspec.Struct, frozen=True):
    """A candidate list in columnar form. Each column is decoded later."""

    features: dict[str, msgspec.Raw]
    id: list[int | str | None] | None = None


class RankBody(msgspec.Struct, frozen=True):
    """Body of ``POST /rank``; other keys are ignored. Context and candidates are decoded later."""

    context: msgspec.Raw
    candidates: list[msgspec.Raw] | CandidateColumns
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
