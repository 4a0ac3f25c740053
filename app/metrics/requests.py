"""Outcomes of requests and the seconds of their stages, route by route."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from app.metrics.counters import Counts, Histogram
from app.workers.shared_numbers import SharedNumbers

LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STAGE_BUCKETS = (0.00002, 0.00005, 0.0001, 0.0002, *LATENCY_BUCKETS[:-1])
SCORING, OPERATION = ("predict", "rank", "infer", "explain"), "operation"
"""Routes; every endpoint that does not score is the last one."""
OUTCOMES = (
    "200",
    "202",
    "400",
    "401",
    "403",
    "404",
    "405",
    "413",
    "415",
    "422",
    "429",
    "500",
    "501",
    "503",
    "504",
    "gone",
)
CLASSES = {2: "2xx", 4: "4xx", 5: "5xx"}
REFUSALS = (
    "undecodable",
    "too_large",
    "wrong_media_type",
    "invalid",
    "queue_full",
    "deadline_out_of_reach",
    "not_ready",
    "engine_failed",
    "vocabulary_unavailable",
    "deadline_passed",
    "not_found",
    "internal",
    "not_offered",
)
"""Reasons for which scoring requests are refused; each is the ``reason`` of a ServiceError."""
STAGES = {
    "encode": "Time from a request's last byte until all its rows are indices",
    "queue": "Time until the engine began with the first row, or the request was given up",
    "response": "Time from the last score until the answer was written",
}


class RequestMetrics:
    """The counters of a route's requests; this one, for metrics that are off, counts nothing."""

    def count_answer(self, status: int) -> None:
        """Count an answer, before it is written."""

    def count_refusal(self, reason: str) -> None:
        """Count an error by its reason."""

    def count_departed(self) -> None:
        """Count a caller that has left."""

    def observe_latency(self, status: int, seconds: float) -> None:
        """Note how long a request took up to its answer, which has been written."""

    def observe_stages(self, encode: float, queue: float, response: float | None) -> None:
        """Note the seconds of a request's stages; ``response`` is None where it got no scores."""


class RouteMetrics(RequestMetrics):
    """Counts for one route."""

    def __init__(self, shared: SharedNumbers, route: str) -> None:
        self.outcomes = Counts(shared, f"{route} outcomes", OUTCOMES)
        self.seconds = {
            first: Histogram(shared, f"{route} {name} seconds", LATENCY_BUCKETS)
            for first, name in CLASSES.items()
        }

    def count_answer(self, status: int) -> None:
        self.outcomes.add(str(status))

    def count_departed(self) -> None:
        self.outcomes.add("gone")

    def observe_latency(self, status: int, seconds: float) -> None:
        self.seconds[status // 100].observe(seconds)


class ScoringMetrics(RouteMetrics):
    """Counts for a scoring route."""

    def __init__(self, shared: SharedNumbers, route: str) -> None:
        super().__init__(shared, route)
        self.refusals = Counts(shared, f"{route} refusals", REFUSALS)
        self.stages = {
            stage: Histogram(shared, f"{route} {stage} seconds", STAGE_BUCKETS) for stage in STAGES
        }
        self._encode, self._queue, self._response = (
            histogram.observe for histogram in self.stages.values()
        )

    def count_refusal(self, reason: str) -> None:
        self.refusals.add(reason)

    def observe_stages(self, encode: float, queue: float, response: float | None) -> None:
        self._encode(encode)
        self._queue(queue)
        if response is not None:
            self._response(response)


class RequestsCollector(Collector):
    """The request metrics of all routes, as Prometheus shows them."""

    def __init__(self, shared: SharedNumbers) -> None:
        self.scoring = {route: ScoringMetrics(shared, route) for route in SCORING}
        self.operation = RouteMetrics(shared, OPERATION)

    def collect(self) -> Iterable[Metric]:
        routes: Mapping[str, RouteMetrics] = {**self.scoring, OPERATION: self.operation}
        answered = CounterMetricFamily(
            "ctr_requests", "Requests answered", labels=["route", "outcome"]
        )
        latency = HistogramMetricFamily(
            "ctr_request_seconds",
            "Time from a request's headers to its answer, written",
            labels=["route", "status"],
        )
        for route, metrics in routes.items():
            for outcome, number in metrics.outcomes.totals().items():
                answered.add_metric([route, outcome], number)
            for first, name in CLASSES.items():
                latency.add_metric([route, name], *metrics.seconds[first].cumulative())
        refusals = CounterMetricFamily(
            "ctr_refused_requests", "Requests that got no scores", labels=["route", "reason"]
        )
        stages = {
            stage: HistogramMetricFamily(f"ctr_{stage}_seconds", text, labels=["route"])
            for stage, text in STAGES.items()
        }
        for route, scoring in self.scoring.items():
            for reason, number in scoring.refusals.totals().items():
                refusals.add_metric([route, reason], number)
            for stage, family in stages.items():
                family.add_metric([route], *scoring.stages[stage].cumulative())
        return [answered, latency, refusals, *stages.values()]
