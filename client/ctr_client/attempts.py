"""The attempts of a call, without input and output: when to send, to wait, to give up.

A call is retried where that is safe and asked for: after a connection that never sent anything,
and after 429 or 503 with ``Retry-After``. All attempts share the call's time, and a client's
retries are at most a tenth of its calls, so that a failing service gets no more load than it had.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Generator
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import httpx

from ctr_client.calls import Call
from ctr_client.errors import AnswerError, ConnectFailed, Lost, ServiceError, TimedOut, refusal

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 1.0
"""Seconds before a connection is tried again, doubled each time and drawn below that."""
SHARE, BURST = 0.1, 10.0
"""Retries for each call, and those that may come at once."""
SERVICE_SHARE = 0.9
"""Part of the time left that the service is told: its own answer, 504, still arrives."""
RETRIED = (429, 503)
LONGEST_MS = 999_999_999
"""The longest time that the service takes."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request; what httpx raises is thrown into the attempts."""

    headers: dict[str, str]
    seconds: float
    """Time until the call ends."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next attempt."""

    seconds: float


Attempts = Generator[Send | Pause, httpx.Response | None, T]


class Budget:
    """Retries that a client may still make; threads may share it."""

    def __init__(self) -> None:
        self._left = BURST
        self._lock = threading.Lock()

    def called(self) -> None:
        """Note a call."""
        with self._lock:
            self._left = min(BURST, self._left + SHARE)

    def take(self) -> bool:
        """Take one retry; False if none is left."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


def attempts(
    call: Call[T], seconds: float, retries: int, budget: Budget, request_id: str | None
) -> Attempts[T]:
    """Make the attempts of one call within its time, and return its answer.

    Raises:
        ClientError: there is none.
    """
    end = monotonic() + seconds
    budget.called()
    failed, error = 0, Exception()
    while True:
        left = end - monotonic()
        if left <= 0:
            raise error if failed else TimedOut(f"no answer in {seconds:g} s")
        pause = 0.0
        try:
            response = yield Send(_headers(call, left, request_id), left)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as problem:
            error = ConnectFailed(str(problem) or type(problem).__name__)
            error.__cause__ = problem
            pause = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**failed))
        except httpx.TimeoutException as problem:
            raise TimedOut(f"no answer in {seconds:g} s") from problem
        except httpx.HTTPError as problem:
            raise Lost(str(problem) or type(problem).__name__) from problem
        else:
            assert response is not None
            if response.status_code == 200:
                return _read(call, response)
            headers = response.headers
            error = refusal(
                response.status_code,
                response.content,
                headers.get("retry-after"),
                headers.get("x-request-id"),
            )
            if not (isinstance(error, ServiceError) and error.status in RETRIED):
                raise error
            if error.retry_after is None:
                raise error
            pause = error.retry_after
        failed += 1
        if failed > retries or monotonic() + pause >= end or not budget.take():
            raise error
        if pause:
            yield Pause(pause)


def _headers(call: Call[T], left: float, request_id: str | None) -> dict[str, str]:
    headers = {"accept": "application/json"}
    if call.content is not None:
        headers["content-type"] = "application/json"
        milliseconds = int(left * SERVICE_SHARE * 1000)
        headers["x-request-timeout-ms"] = str(min(LONGEST_MS, max(1, milliseconds)))
    if request_id is not None:
        headers["x-request-id"] = request_id
    return headers


def _read(call: Call[T], response: httpx.Response) -> T:
    try:
        return call.read(json.loads(response.content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnswerError(f"the answer to {call.path} is not of a known form") from error
