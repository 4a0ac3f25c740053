"""Every outcome of a request has a counter of its route."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.errors import (
    ActivationRefused,
    EventsUnwritten,
    HeadTooLarge,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ServiceError,
    StoreUnavailable,
    Unauthorized,
    WrongOrigin,
)
from app.metrics.requests import OUTCOMES, REFUSALS, SCORING, RequestsCollector, ScoringMetrics
from app.workers.shared_numbers import SharedNumbers


def kinds(root: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """An error and all that are derived from it."""
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


# Of a request that is none, of other routes, and of the admin port.
ELSEWHERE = {
    HeadTooLarge, MethodNotAllowed, Unauthorized, ActivationRefused, StoreUnavailable,
    EventsUnwritten, WrongOrigin,
}  # fmt: skip
COUNTED = NotFound, MethodNotAllowed, Unauthorized, WrongOrigin
"""Errors of other routes whose answers are counted."""
SCORING_ERRORS = sorted(
    set(kinds(ServiceError)) - ELSEWHERE, key=lambda kind: (kind.code, kind.__name__)
)


@pytest.mark.parametrize("kind", SCORING_ERRORS)
def test_every_error_has_its_counters(kind: type[ServiceError]) -> None:
    """Each error that a scoring request can end with is counted by status and by reason."""
    error = kind("a message")
    metrics = ScoringMetrics(SharedNumbers(), "predict")
    metrics.count_answer(error.status)
    metrics.count_refusal(error.reason)
    metrics.observe_latency(error.status, 0.1)
    assert metrics.outcomes[str(error.status)] == metrics.refusals[error.reason] == 1


def test_no_counter_is_for_nothing() -> None:
    """Every reason is that of some error."""
    reasons = {kind("a message").reason for kind in SCORING_ERRORS}
    reasons.add(Overloaded("a message", reason="deadline_out_of_reach").reason)
    assert reasons == set(REFUSALS)
    statuses = {str(kind.status) for kind in [*SCORING_ERRORS, *COUNTED]}
    assert statuses | {"200", "202", "gone"} == set(OUTCOMES)


def test_stages_are_shown_by_route() -> None:
    """Stages that a request came through are counted, the others are not."""
    requests = RequestsCollector(SharedNumbers())
    requests.scoring["rank"].observe_stages(0.001, 0.002, None)
    requests.scoring["rank"].observe_stages(0.001, 0.002, 0.5)
    shown = {
        (sample.name, sample.labels["route"]): sample.value
        for family in requests.collect()
        for sample in family.samples
        if sample.name.endswith(("seconds_count", "seconds_sum")) and "status" not in sample.labels
    }
    assert shown == {
        ("ctr_encode_seconds_count", "rank"): 2, ("ctr_encode_seconds_sum", "rank"): 0.002,
        ("ctr_queue_seconds_count", "rank"): 2, ("ctr_queue_seconds_sum", "rank"): 0.004,
        ("ctr_response_seconds_count", "rank"): 1, ("ctr_response_seconds_sum", "rank"): 0.5,
        **{
            (f"ctr_{stage}_seconds_{part}", route): 0
            for route in SCORING if route != "rank"
            for stage in ("encode", "queue", "response") for part in ("count", "sum")
        },
    }  # fmt: skip
