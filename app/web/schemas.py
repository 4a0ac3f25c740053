"""The pydantic models of the OpenAPI document: bodies, answers and errors.

The hot path decodes with the msgspec structs of ``app.scoring.wire``, which describe the same
JSON; a test gives the same bodies to both.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.explain.players import Baseline
from app.scoring.wire import OnUnknown

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
    stored: Annotated[
        bool,
        Field(description="Fields that an instance lacks come from its user's profile and item."),
    ] = False
    on_unknown: Annotated[
        OnUnknown | None,
        Field(
            description="With stored: what becomes of instances whose item is not in the catalogue:"
            " no score (omit and last), or 422; default: the service's CTR_UNKNOWN_ITEMS."
        ),
    ] = None


class UnknownItems(BaseModel):
    """Ids that are not in the catalogue: how many, and the first few."""

    total: int
    ids: list[CandidateId]


class PredictResponse(BaseModel):
    """One click probability for each instance, in their order; null for an unknown item."""

    predictions: list[float | None]
    unknown: UnknownItems | None = None
    version: Annotated[str, Field(description="The bundle that scored them.")]
    versions: Annotated[
        list[str] | None,
        Field(
            description="During a canary, if some instances belong to it and some do not: the"
            " bundle that scored each of them; version is the one in use."
        ),
    ] = None


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


def _true(value: bool) -> bool:
    if not value:
        raise ValueError("must be true")
    return value


class RangeModel(BaseModel):
    """Numbers from ``min`` to ``max``, both included."""

    model_config = ConfigDict(strict=True, extra="forbid")
    min: int | float | None = None
    max: int | float | None = None


class _Catalogue(_Model):
    where: Annotated[
        dict[str, list[Any] | RangeModel] | None,
        Field(
            description="Only items whose value of each of these fields is one of a list, or lies"
            " in a range."
        ),
    ] = None
    exclude: Annotated[list[CandidateId], Field(description="Items to leave out.")] = []


class EverythingModel(_Catalogue):
    """The whole catalogue."""

    # A Literal[True] would take 1 too.
    all: Annotated[bool, AfterValidator(_true), Field(json_schema_extra={"const": True})]
    prefilter: Annotated[
        int | None,
        Field(
            ge=1,
            description="How many items to score, the best by the network's inner product; of FM,"
            " FFM and DeepFM only. Default: all that the other conditions leave.",
        ),
    ] = None


class ItemsModel(_Catalogue):
    """Items of the catalogue, by id."""

    ids: Annotated[list[CandidateId], Field(description="Items to rank.")]
    features: Annotated[
        dict[str, list[Any]],
        Field(
            description="Values that take precedence over stored ones: a list for each field,"
            " with one value for each of the ids."
        ),
    ] = {}


class RankRequest(_Model):
    """A candidate list for one context."""

    context: Features
    candidates: list[CandidateModel] | ColumnsModel | ItemsModel | EverythingModel
    top_k: Annotated[
        int | None, Field(ge=1, description="How many of the best to return; default all.")
    ] = None
    partial: Annotated[
        bool,
        Field(
            description="At the deadline, answer with the ranking of what has been scored instead"
            " of 504, if that is anything."
        ),
    ] = False
    on_unknown: Annotated[
        OnUnknown | None,
        Field(
            description="What becomes of ids that are not in the catalogue: left out, put last"
            " without a score, or 422; default: the service's CTR_UNKNOWN_ITEMS."
        ),
    ] = None


class Ranked(BaseModel):
    """A candidate's place: ``index`` is its position in the request, if it has one there."""

    index: int | None = None
    id: CandidateId | None = None
    score: Annotated[float | None, Field(description="Null for an unknown item that was put last.")]


class RankResponse(BaseModel):
    """Candidates by falling logit; equal logits keep the request's order."""

    ranking: list[Ranked]
    scored: Annotated[
        int | None, Field(description="With partial, if not all were: candidates scored in time.")
    ] = None
    of: Annotated[int | None, Field(description="Beside scored: candidates to rank.")] = None
    unknown: UnknownItems | None = None
    version: Annotated[str, Field(description="The bundle that scored them.")]


class ExplainRequest(_Model):
    """A score to explain, or two of one context: give either candidate or candidates."""

    context: Features
    candidate: Annotated[
        dict[str, Any] | None, Field(description="Raw values of one candidate by field name.")
    ] = None
    candidates: Annotated[
        list[CandidateModel] | ColumnsModel | ItemsModel | None,
        Field(description="One or two candidates, as in /rank: of two, why one is before another."),
    ] = None
    baseline: Annotated[
        Baseline,
        Field(
            description="What a field counts as while it is absent: its average in the training"
            " part, or a missing value."
        ),
    ] = "mean"
    groups: Annotated[
        dict[str, list[str]],
        Field(description="Names for groups of fields that are explained as one."),
    ] = {}

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if (self.candidate is None) == (self.candidates is None):
            raise ValueError("expected either candidate or candidates")
        return self


class FieldValue(BaseModel):
    """A number of a field."""

    field: str
    value: float


class PairValue(BaseModel):
    """A number of a pair of fields."""

    fields: list[str]
    value: float


class Difference(BaseModel):
    """The first candidate's logit less the second's, the largest differences first."""

    logit: float
    shapley: list[FieldValue]
    first_order: list[FieldValue] | None = None
    pairs: list[PairValue] | None = None
    deep: float | None = None


class ExplanationModel(BaseModel):
    """The parts of a logit, before calibration.

    bias, first_order, pairs and deep add up to logit, and are there for networks with such terms;
    so do baseline_logit and shapley, for every network.
    """

    id: CandidateId | None = None
    logit: float | None = None
    score: float | None = None
    baseline_logit: float | None = None
    bias: float | None = None
    first_order: dict[str, float] | None = None
    pairs: list[PairValue] | None = None
    deep: float | None = None
    shapley: dict[str, float] | None = None
    standard_error: Annotated[
        dict[str, float] | None, Field(description="Of shapley; zero where it is exact.")
    ] = None
    method: Literal["exact", "sampled"] | None = None


class ExplainResponse(ExplanationModel):
    """The explanation of one candidate, or those of two and their difference."""

    candidates: list[ExplanationModel] | None = None
    difference: Difference | None = None
    version: Annotated[str, Field(description="The bundle that scored it.")]


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
