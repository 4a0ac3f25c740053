"""Objectives are read strictly and judged over all requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.errors import UsageError
from tests.load.objective import Objective, Verdict
from tests.load.record import LOST, REFUSED, RIGHT, Record

KINDS = ("predict:1", "rank:100")


def record(
    right: list[int], refused: list[int] | None = None, lost: int = 0, window: float = 1.0
) -> Record:
    """A record of a run: latencies of right and refused answers in ms, and requests lost."""
    seen = Record(window)
    stats = seen.kind("predict:1")
    for latency in right:
        stats.count_one(RIGHT, latency * 1000, latency * 500)
        stats.arrived += 1
    for latency in refused or []:
        stats.count_one(REFUSED, latency * 1000, latency * 1000)
    for _ in range(lost):
        stats.count_one(LOST, 10**7, 10**7)
    return seen


def judged(text: str, seen: Record) -> Verdict:
    """The verdict on an objective."""
    return Objective.parse(text, KINDS).judge(seen)


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p50<=10.1ms", True), ("p50 <= 10.1 ms", True), ("p50≤10.1ms", True),
        ("p50<=0.0101s", True), ("p50<=10100us", True), ("p50<=9ms", False),
        ("p99.9<=20ms", True), ("p99.9<=19ms", False),
        ("max<=20ms", True), ("max<=19.9ms", False), ("mean<=10.5ms", True), ("mean<=10ms", False),
        ("service.p50<=5.1ms", True), ("service.p50<=4ms", False), ("answered.p50<=10.1ms", True),
        ("rate>=10/s", True), ("rate≥10.1/s", False), ("errors<=0%", True), ("refused<=0%", True),
        ("predict:1.max<=20ms", True), ("predict:1.rate>=10/s", True),
        # Nothing of it was asked for: nothing was answered either.
        ("rank:100.p50<=1s", False), ("rank:100.errors<=99%", False), ("rank:100.rate>=1/s", False),
        # No refusal came, so none was slow.
        ("refused.p99<=1ms", True),
    ],
)  # fmt: skip
def test_an_objective_is_met_or_not(text: str, met: bool) -> None:
    """Twenty answers after 1 to 20 ms within two seconds; percentiles err upward by 0.1 %."""
    assert judged(text, record(list(range(1, 21)), window=2.0)).met is met


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("p50<=10ms", True), ("p98<=10ms", True), ("p99<=10s", False), ("max<=10s", False),
        ("mean<=10s", False), ("answered.p99<=10ms", True), ("answered.mean<=10ms", True),
        ("refused.p99<=1ms", True), ("errors<=2%", True), ("errors<=1.9%", False),
        ("refused<=1%", True), ("refused<=0.9%", False),
    ],
)  # fmt: skip
def test_a_request_without_a_right_answer_was_never_answered(text: str, met: bool) -> None:
    """98 right answers, one refusal, one lost: quick refusals improve no percentile."""
    assert judged(text, record([10] * 98, [1], lost=1)).met is met


@given(st.integers(1, 200), st.integers(0, 200))
def test_a_percentile_holds_only_where_enough_were_answered(right: int, lost: int) -> None:
    """p90 of requests that were answered at once is met exactly where 90 % were."""
    enough = 10 * right >= 9 * (right + lost)
    assert judged("p90<=1ms", record([0] * right, lost=lost)).met is enough


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected something like"), ("p99", "expected something like"),
        ("p99<20ms", "expected something like"), ("p99<=20", "expected something like"),
        ("p99<=-1ms", "expected something like"), ("p99<=20 m s", "expected something like"),
        ("p999<=20ms", "expected something like"), ("p0<=20ms", "above 0 and below 100"),
        ("p00.0<=20ms", "above 0 and below 100"), ("p99>=20ms", "p99 takes <="),
        ("rate<=20/s", "rate takes >="), ("p99<=20%", "unit of p99 is us or ms or s"),
        ("errors<=1ms", "unit of errors is %"), ("rate>=1ms", "unit of rate is /s"),
        ("latency<=20ms", "'latency' is none of"), ("rank:10.p99<=20ms", "'rank:10' is none of"),
        ("all.p99<=20ms", "'all' is none of"), ("service.errors<=1%", "over 'service' alone"),
        ("refused.rate>=1/s", "over 'refused' alone"),
    ],
)  # fmt: skip
def test_what_is_no_objective_is_refused(text: str, problem: str) -> None:
    """The message holds the text and says what is wrong."""
    with pytest.raises(UsageError, match=problem) as caught:
        Objective.parse(text, KINDS)
    assert repr(text) in str(caught.value)
