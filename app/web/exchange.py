"""One scoring request on its way: its times, its answer, and what is counted of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import msgspec
import numpy as np
from pydantic import BaseModel

from app.errors import ServiceError
from app.features.encoder import Encoder
from app.features.graph_inputs import Scores
from app.feedback.request_log import RequestLog
from app.metrics.requests import RequestMetrics
from app.scoring.job import Ids, ListedItems
from app.scoring.scorer import Scorer
from app.scoring.steps import Steps
from app.scoring.trace import Trace
from app.web.access_log import AccessLog
from app.web.schemas import ErrorBody
from app.web.slow_requests import SlowRequests

Header = tuple[bytes, bytes]
RouteName = Literal["predict", "rank", "explain", "infer"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """A scoring endpoint as it is in every service: its paths, and its way from body to body."""

    name: RouteName
    """The label of its metrics."""
    paths: Mapping[str, str]
    """The documentation of each path; ``{name}`` in one stands for any word without / and :."""
    prepare: Callable[[Scorer, bytes, Exchange], Steps[None]]
    render: Callable[[Exchange, Scores], str]
    render_alone: Callable[[Exchange, float, float], str]
    """As ``render``, for the logit and the score of the only row."""
    request: type[BaseModel]
    response: type[BaseModel]
    error: type[BaseModel] = ErrorBody
    media: tuple[bytes, ...] = (b"application/json",)
    """The types that a body may be announced as."""
    exchange: Callable[..., Any] | None = None
    """Makes the exchanges of a route whose answers have another form; ``asgi`` alone does."""
    short: Callable[[Scorer, bytes, Exchange], bool] = lambda scorer, body, exchange: False
    """Prepares a body in one step; False if it may take more than one: nothing was done then."""


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A route of one service, with what counts and logs its requests."""

    route: Route
    metrics: RequestMetrics
    slow_requests: SlowRequests
    access_log: AccessLog
    request_log: RequestLog | None = None


class Exchange(ABC):
    """One request and its answer; an ``app.scoring.job.ScoringRequest``.

    An adapter gives ``write``, which is called exactly once, and ``departed``, and calls ``sent``
    when the answer has been handed to the connection. The first answer counts: an engine may fail
    a list, or its deadline pass, while the rest of it is being read.

    All of it is touched on the event loop only. ``ScoringEndpoints`` sets the request's head and
    ``received``, the scorer ``encoded``, ``rows``, ``ids``, ``listed``, ``top_k``, ``degraded``
    and ``without_profiles``, the batcher ``begun`` and ``ended``.
    """

    # What a request begins with; only what differs from it is kept for each.
    received = encoded = begun = ended = 0.0
    status = 0
    """The answer's status; stays 0 where the caller had gone by then."""
    _reason = ""
    request_id = b"-"
    deadline = 0.0
    version = ""
    answered = degraded = without_profiles = of_page = False
    rows = 0
    ids: Ids | None = None
    listed: ListedItems | None = None
    top_k: int | None = None
    trace: Trace | None = None
    encoder: Encoder | None = None
    """The encoder of the scorer, where there is a trace."""
    versions: Sequence[str] | None = None
    """The version that scored each instance, where they were divided."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._start = perf_counter()

    @abstractmethod
    def departed(self) -> bool:
        """True if the caller has closed its connection."""

    @abstractmethod
    def write(self, status: int, body: bytes, headers: Sequence[Header]) -> None:
        """Send the answer, with these headers besides the usual ones."""

    def scored(self, scores: Scores) -> None:
        """Answer with scores."""
        if not self.answered:
            self.answer_by(self.endpoint.route.render, scores)
            if self.trace is not None:
                self._log_request(self.trace, scores)

    def scored_alone(self, logit: float, score: float) -> None:
        """Answer with the score of the only row."""
        if not self.answered:
            self.answer_by(self.endpoint.route.render_alone, logit, score)
            if self.trace is not None:
                only = Scores(np.array([logit], np.float32), np.array([score], np.float32))
                self._log_request(self.trace, only)

    def answer_by(self, render: Callable[..., str], *found: object) -> None:
        """Answer with what was found, as ``render`` gives it; there is no answer yet."""
        try:
            body = render(self, *found).encode()
        except Exception as error:
            self.failed(error)
        else:
            self._answer(200, body)

    def _log_request(self, trace: Trace, scores: Scores) -> None:
        """Hand a request that was answered over to the request log."""
        self.trace = None
        request_log, route = self.endpoint.request_log, self.endpoint.route.name
        if route == "explain" or route == "infer" or request_log is None or self.encoder is None:
            return
        if self.status == 200:
            request_log.take(
                self.request_id,
                self.version,
                route,
                self.encoder,
                trace,
                scores,
                self.ids,
                self.listed,
                self.top_k,
                self.lacking,
            )

    def begin_trace(self, scorer: Scorer, body: bytes) -> None:
        """Keep what the request log needs of a request, if it may have to be logged."""
        trace = self.trace_of(body)
        if trace is not None:
            self.trace, self.encoder = trace, scorer.encoder

    def trace_of(self, body: bytes) -> Trace | None:
        """Return the trace of a body, or of a part of it, if it may have to be logged."""
        request_log = self.endpoint.request_log
        return None if request_log is None else request_log.trace(self.request_id, body)

    def log_half(
        self,
        scorer: Scorer,
        trace: Trace,
        scores: Scores,
        listed: ListedItems | None,
        places: Sequence[int],
    ) -> None:
        """Hand the instances of a divided request that one bundle scored over to the log."""
        request_log, route = self.endpoint.request_log, self.endpoint.route.name
        if route == "explain" or route == "infer" or request_log is None:
            return
        if self.status == 200:
            request_log.take(
                self.request_id,
                scorer.version,
                route,
                scorer.encoder,
                trace,
                scores,
                None,
                listed,
                None,
                self.lacking,
                places,
            )

    @property
    def lacking(self) -> list[str]:
        """The things that the scores had to do without."""
        return ["vocabulary"] * self.degraded + ["profiles"] * self.without_profiles

    def failed(self, error: BaseException) -> None:
        """Answer with an error; an unforeseen one is logged and told as an internal error."""
        if self.answered:
            return
        if not isinstance(error, ServiceError):
            log.error("request %s failed", self.request_id.decode(), exc_info=error)
            error = ServiceError("internal error")
        self._reason = error.reason
        headers = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        if not self.departed():
            self.endpoint.metrics.count_refusal(error.reason)
        self._answer(error.status, self.error_body(error), headers)

    def error_body(self, error: ServiceError) -> bytes:
        """Return the body that tells an error."""
        return msgspec.json.encode(error.body())

    def _answer(self, status: int, body: bytes, headers: Sequence[Header] = ()) -> None:
        self.answered = True
        if self.departed():
            self.endpoint.metrics.count_departed()
        else:
            self.status = status
            self.endpoint.metrics.count_answer(status)
        self.write(status, body, headers)

    def sent(self) -> None:
        """Count and log the request's times, now that its answer is on the connection."""
        status, endpoint = self.status, self.endpoint
        if not status:
            return
        now = perf_counter()
        taken = now - self._start
        endpoint.metrics.observe_latency(status, taken)
        if encoded := self.encoded:
            queued = (self.begun or now) - encoded
            endpoint.metrics.observe_stages(
                encoded - self.received,
                queued if queued > 0.0 else 0.0,
                now - self.ended if status == 200 else None,
            )
        if taken > endpoint.slow_requests.seconds:
            endpoint.slow_requests.log(self._log_fields(now))
        if status >= endpoint.access_log.least_status:
            endpoint.access_log.log(self._access_fields(taken))

    def _access_fields(self, taken: float) -> dict[str, object]:
        """The access log's line: nothing out of the body."""
        fields: dict[str, object] = {
            "request": self.request_id.decode(),
            "route": self.endpoint.route.name,
            "status": self.status,
            "rows": self.rows,
            "total_ms": round(1000 * taken, 3),
        }
        return {**fields, "reason": self._reason} if self._reason else fields

    def _log_fields(self, now: float) -> dict[str, object]:
        """The log line of a slow request: its times, and nothing out of its body."""
        stage_ends = {
            "read": self.received,
            "encode": self.encoded,
            # The engine may have begun with the first rows while others were encoded.
            "queue": max(self.begun, self.encoded) if self.begun else 0.0,
            "engine": self.ended,
            "response": now,
        }
        fields: dict[str, object] = {
            "request": self.request_id.decode(),
            "route": self.endpoint.route.name,
            "status": self.status,
            "rows": self.rows,
            "version": self.version,
            "total_ms": round(1000 * (now - self._start), 3),
        }
        before = self._start
        for stage, end in stage_ends.items():
            # A stage without an end is the one in which the request was answered: it has the rest.
            unfinished = end < before
            fields[f"{stage}_ms"] = round(1000 * ((now if unfinished else end) - before), 3)
            if unfinished:
                break
            before = end
        return fields
