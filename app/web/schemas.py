"""The pydantic models of the OpenAPI document: bodies, answers and errors.

The hot path decodes with the msgspec structs of ``app.scoring.wire``, which describe the same
JSON; a test gives the same bodies to both.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

CandidateId = int | str


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


Features = Annotated[
    dict[str, Any],
    Field(description="Raw values by field name; an absent field counts as missing."),
]


class PredictRequest(_Model):
    """Rows to score."""

    instances: Annotated[list[Features], Field(description="One object for each row.")]


class PredictResponse(BaseModel):
    """One click probability for each instance, in their order."""

    predictions: list[float]
    version: Annotated[str, Field(description="The bundle that scored them.")]


class CandidateModel(_Model):
    """One candidate."""

    features: Features
    id: Annotated[
        CandidateId | None, Field(description="The caller's own name for it; echoed.")
    ] = None


class ColumnsModel(_Model):
    """Candidates as columns: the form for long lists."""

    features: Annotated[
        dict[str, list[Any]],
        Field(description="For each field a list with one value for each candidate."),
    ]
    id: Annotated[
        list[CandidateId | None] | None, Field(description="One for each candidate; echoed.")
    ] = None


class RankRequest(_Model):
    """A candidate list for one context."""

    context: Features
    candidates: list[CandidateModel] | ColumnsModel
    top_k: Annotated[
        int | None, Field(ge=1, description="How many of the best to return; default all.")
    ] = None


class Ranked(BaseModel):
    """A candidate's place: ``index`` is its position in the request."""

    index: int
    id: CandidateId | None = None
    score: float


class RankResponse(BaseModel):
    """Candidates by falling logit; equal logits keep the request's order."""

    ranking: list[Ranked]
    version: Annotated[str, Field(description="The bundle that scored them.")]


class ErrorDetail(BaseModel):
    """One thing that is wrong, and where."""

    path: str
    problem: str


class ErrorInner(BaseModel):
    """The error; ``details`` shows the first few of ``total`` problems."""

    code: str
    message: str
    details: list[ErrorDetail] | None = None
    total: int | None = None


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: ErrorInner
