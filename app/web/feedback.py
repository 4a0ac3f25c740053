"""``POST /feedback``: for those who hold a key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from app.feedback.feedback import MOST_EVENTS, Feedback
from app.web.bodies import read_body
from app.web.keys import Keys, key_check
from app.web.schemas import CandidateId, ErrorBody, ErrorDetail

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body cannot be decoded."},
    401: {"model": ErrorBody, "description": "The request has no valid key."},
    413: {"model": ErrorBody, "description": "The body, or its list of events, is over a limit."},
    422: {"model": ErrorBody, "description": "No event is right; the first are named."},
    503: {"model": ErrorBody, "description": "Events cannot be kept: the directory is full."},
}


class EventModel(BaseModel):
    """A candidate, found by index or id, was clicked or not (label), or seen (shown)."""

    request_id: Annotated[
        str, Field(min_length=1, max_length=128, description="The X-Request-Id of the answer.")
    ]
    index: Annotated[int | None, Field(ge=0, description="Its place in the request.")] = None
    id: Annotated[CandidateId | None, Field(description="The caller's own name for it.")] = None
    label: Annotated[int | None, Field(ge=0, le=1, description="1 for a click, 0 for none.")] = None
    shown: Annotated[bool, Field(description="It was seen.")] = False
    time: Annotated[float | None, Field(ge=0, description="Seconds since 1970; default now.")] = (
        None
    )
    version: Annotated[str | None, Field(description="The answer's version.")] = None
    score: Annotated[float | None, Field(ge=0, le=1, description="The answer's score.")] = None


class FeedbackRequest(BaseModel):
    """Events."""

    events: Annotated[list[EventModel], Field(max_length=MOST_EVENTS)]


class FeedbackResponse(BaseModel):
    """Events that are on the disk, and those that are wrong, of which the first are named."""

    accepted: int
    wrong: int = 0
    details: list[ErrorDetail] = []


def add_feedback(router: APIRouter, feedback: Feedback, keys: Keys, max_body_bytes: int) -> None:
    """Add the route."""
    schema = {"$ref": "#/components/schemas/FeedbackRequest"}

    @router.post(
        "/feedback",
        status_code=202,
        response_model=FeedbackResponse,
        response_model_exclude_defaults=True,
        responses=ERRORS,
        tags=["feedback"],
        dependencies=[Depends(key_check(keys, "feedback"))],
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "security": [{"key": []}],
        },
    )
    async def feedback_(request: Request) -> Response | dict[str, Any]:
        """Take what became of candidates; 202 once it is on the disk."""
        taken = await feedback.take(await read_body(request, max_body_bytes))
        return {
            "accepted": taken.accepted,
            "wrong": taken.wrong,
            "details": [each._asdict() for each in taken.details],
        }
