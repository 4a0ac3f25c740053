"""The generator says where its own limits, not the service, made the figures."""

from __future__ import annotations

import errno

import httpx
import pytest

from tests.load.bodies import Body
from tests.load.client import failure_of, outcome_of
from tests.load.limits import distortions, tail
from tests.load.objective import Objective
from tests.load.record import POOL_TIMEOUT, RIGHT, Record


def undisturbed() -> Record:
    """A second in which 1,000 requests were sent on time and answered within 50 ms."""
    record = Record(1.0)
    for _ in range(1000):
        record.kind("predict:1").count_one(RIGHT, 50_000, 50_000)
        record.own.send_delay.record(300)
        record.own.loop_lag.record(200)
        record.own.connection_wait.record(0)
    record.own.scheduled = record.own.sent = 1000
    record.own.cpu.append(0.4)
    return record


def objective(text: str) -> Objective:
    """An objective over the whole mix."""
    return Objective.parse(text, [])


def test_an_undisturbed_run_is_not_distorted() -> None:
    """Nothing is said where nothing was wrong."""
    assert distortions(undisturbed(), [], None) == []


@pytest.mark.parametrize("name", ["send_delay", "loop_lag", "connection_wait"])
def test_an_own_delay_of_a_tenth_of_the_latency_distorts(name: str) -> None:
    """At the percentile that is judged: a tenth of 50 ms, or what is stated."""
    record = undisturbed()
    for _ in range(20):
        getattr(record.own, name).record(6000)
    [reason] = distortions(record, [], None)
    assert "p99 6.0 ms, 5.0 ms allowed" in reason
    assert distortions(record, [objective("p99<=16ms")], None)
    assert distortions(record, [objective("p99<=30ms"), objective("p50<=16ms")], None)
    assert distortions(record, [objective("p99<=30ms")], None) == []
    assert distortions(record, [], 7.0) == []
    assert distortions(record, [], 5.9)


def test_a_delay_below_two_milliseconds_never_distorts() -> None:
    """A tenth of a very short latency is more than a busy machine can keep."""
    record = undisturbed()
    for _ in range(10_000):
        record.kind("predict:1").count_one(RIGHT, 500, 500)
        record.own.loop_lag.record(1900)
    assert distortions(record, [], None) == []


def test_requests_that_never_left_distort() -> None:
    """A timeout in the own line for a connection is no failure of the service."""
    record = undisturbed()
    record.kind("predict:1").count_one(POOL_TIMEOUT, 10**7, 10**7)
    assert distortions(record, [], None) == ["pool timeout: 1 requests never reached the service"]


def test_a_rate_that_was_not_reached_distorts() -> None:
    """One request in a hundred may be sent after the end, and one in any case."""
    record = undisturbed()
    record.own.sent = 990
    assert distortions(record, [], None) == []
    record.own.sent = 980
    [reason] = distortions(record, [], None)
    assert "1,000.0 requests/s were due, 980.0/s were sent in time" in reason


def test_a_saturated_process_distorts() -> None:
    """One of several is enough."""
    record = undisturbed()
    record.own.cpu.append(0.97)
    [reason] = distortions(record, [], None)
    assert "97% of a core" in reason


def test_delays_are_judged_at_the_highest_percentile_that_matters() -> None:
    """At p99 at least."""

    def highest(*texts: str) -> float:
        return tail([objective(text) for text in texts])

    assert highest() == highest("p50<=1ms", "rate>=1/s", "mean<=1s") == 99.0
    assert highest("p99.9<=1ms", "p50<=1ms") == 99.9
    assert highest("max<=1ms") == 100.0


@pytest.mark.parametrize(
    ("path", "status", "content", "outcome"),
    [
        ("/predict", 200, b'{"predictions": [0.1, 0.2], "version": "v"}', "200"),
        ("/rank", 200, b'{"ranking": [{"index": 1}, {"index": 0}]}', "200"),
        ("/predict", 200, b'{"predictions": [0.1]}', "wrong answer"),
        ("/predict", 200, b'{"predictions": [0.1, NaN]}', "wrong answer"),
        ("/predict", 200, b'{"predictions": [0.1, null]}', "wrong answer"),
        ("/predict", 200, b'{"ranking": [{}, {}]}', "wrong answer"),
        ("/rank", 200, b'{"predictions": [0.1, 0.2]}', "wrong answer"),
        ("/predict", 200, b"<html>", "wrong answer"),
        ("/predict", 200, b"", "wrong answer"),
        ("/predict", 429, b"{}", "429"),
        ("/predict", 504, b"{}", "504"),
    ],
)
def test_a_200_counts_only_with_the_scores_asked_for(
    path: str, status: int, content: bytes, outcome: str
) -> None:
    """Two rows were asked about."""
    response = httpx.Response(status, content=content)
    assert outcome_of(response, Body(path, b"", 2)) == outcome


def caused(error: Exception, number: int) -> Exception:
    """An error that a system call's error caused."""
    error.__cause__ = OSError(number, "from the system")
    return error


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (httpx.PoolTimeout(""), "pool timeout"),
        (caused(httpx.ConnectError(""), errno.EMFILE), "own sockets exhausted"),
        (caused(httpx.ConnectError(""), errno.EADDRNOTAVAIL), "own sockets exhausted"),
        (caused(httpx.ConnectError(""), errno.ECONNREFUSED), "connect failed"),
        (httpx.ConnectTimeout(""), "connect timeout"),
        (httpx.ReadTimeout(""), "read timeout"),
        (TimeoutError(), "read timeout"),
        (httpx.WriteTimeout(""), "write timeout"),
        (httpx.ReadError(""), "connection lost"),
        (httpx.RemoteProtocolError(""), "connection lost"),
    ],
)
def test_own_faults_are_told_from_the_services(error: Exception, name: str) -> None:
    """By what the client library raised, and by the system's error beneath it."""
    assert failure_of(error) == name
