"""One scoring request: its first answer counts, once, with its times."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import pytest

from app.errors import NotReady
from app.features.graph_inputs import Scores
from app.metrics.requests import RequestMetrics
from app.web.access_log import AccessLog
from app.web.endpoints import ROUTES
from app.web.exchange import Endpoint, Exchange, Header
from app.web.slow_requests import SlowRequests

SCORES = Scores(np.array([0.0], np.float32), np.array([0.5], np.float32))


class Counted(RequestMetrics):
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def count_answer(self, status: int) -> None:
        self.events.append(status)

    def count_refusal(self, reason: str) -> None:
        self.events.append(reason)

    def count_departed(self) -> None:
        self.events.append("departed")

    def observe_latency(self, status: int, seconds: float) -> None:
        self.events.append("latency")

    def observe_stages(self, encode: float, queue: float, response: float | None) -> None:
        self.events.append("stages" if response is not None else "stages without scores")


class Asked(Exchange):
    """An exchange that keeps what is written."""

    def __init__(self, metrics: RequestMetrics, slow_ms: int = 0) -> None:
        super().__init__(Endpoint(ROUTES[0], metrics, SlowRequests(slow_ms), AccessLog()))
        self.gone = False
        self.written: list[tuple[int, bytes, Sequence[Header]]] = []

    def departed(self) -> bool:
        return self.gone

    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        self.written.append((status, body, headers))


def test_the_first_answer_counts() -> None:
    """Scores that come after an error, or an error after scores, are dropped."""
    metrics = Counted()
    exchange = Asked(metrics)
    exchange.failed(NotReady("no bundle"))
    exchange.scored(SCORES)
    exchange.failed(NotReady("no bundle"))
    assert [status for status, _, _ in exchange.written] == [503]
    assert metrics.events == ["not_ready", 503]


def test_scores_that_cannot_be_written_are_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller is told nothing of it; the log has the traceback and the request's id."""
    metrics = Counted()
    exchange = Asked(metrics)
    exchange.request_id = b"mine"
    exchange.scored(None)  # type: ignore[arg-type]
    ((status, body, _),) = exchange.written
    assert (status, metrics.events) == (500, ["internal", 500])
    assert b"internal error" in body
    assert b"NoneType" not in body
    assert "request mine failed" in caplog.text
    assert "Traceback" in caplog.text


def test_a_departed_caller_is_counted_as_such() -> None:
    """It has no status and no latency."""
    metrics = Counted()
    exchange = Asked(metrics)
    exchange.gone = True
    exchange.scored(SCORES)
    exchange.sent()
    assert metrics.events == ["departed"]


def test_times_are_counted_when_the_answer_is_on_the_connection() -> None:
    """A request that never came to its rows has a latency and no stages."""
    metrics = Counted()
    refused = Asked(metrics)
    refused.failed(NotReady("no bundle"))
    refused.sent()
    assert metrics.events == ["not_ready", 503, "latency"]
    metrics.events.clear()
    scored = Asked(metrics)
    scored.received = scored.encoded = scored.begun = scored.ended = perf_counter()
    scored.scored(SCORES)
    scored.sent()
    assert metrics.events == [200, "latency", "stages"]


@pytest.mark.parametrize("last", ["read", "encode", "queue", "engine", "response"])
def test_a_slow_requests_line_has_its_stages_and_no_values(
    caplog: pytest.LogCaptureFixture, last: str
) -> None:
    """The stages add up to the total; the one in which the request was answered is the last."""
    exchange = Asked(RequestMetrics(), slow_ms=1)
    exchange.request_id = b"mine"
    exchange._start -= 1.0
    ends = {"received": 0.1, "encoded": 0.3, "begun": 0.6, "ended": 0.9}
    reached = ["read", "encode", "queue", "engine", "response"].index(last)
    for name, end in list(ends.items())[:reached]:
        setattr(exchange, name, exchange._start + end)
    exchange.failed(NotReady("no bundle"))
    exchange.sent()
    (record,) = (each for each in caplog.records if each.getMessage() == "slow request")
    fields = dict(record.fields)  # type: ignore[attr-defined]
    stages = [name for name in fields if name.endswith("_ms") and name != "total_ms"]
    assert stages[-1] == f"{last}_ms"
    assert sum(fields[name] for name in stages) == pytest.approx(fields["total_ms"], abs=0.01)
    assert set(fields) - set(stages) == {
        "request", "route", "status", "rows", "version", "total_ms", "left_out"
    }  # fmt: skip
