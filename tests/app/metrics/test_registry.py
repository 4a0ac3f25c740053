"""The registry shows every metric once, with the sum of all workers."""

from __future__ import annotations

from functools import partial

from app.metrics.registry import EVENTS, REMOTE_COUNTERS, Metrics
from app.metrics.requests import OPERATION
from app.workers.shared_numbers import SharedNumbers


def shown(metrics: Metrics) -> dict[str, float]:
    """Every sample without labels, by name."""
    return {
        sample.name: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.labels
    }


def test_every_counter_is_shown_under_its_name() -> None:
    """A count added to a name comes out under its metric."""
    metrics = Metrics(SharedNumbers())
    metrics.watch_remote(lambda: 5, lambda: True, lambda: True)
    for amount, name in enumerate(EVENTS, 1):
        metrics.events.add(name, amount)
    for amount, name in enumerate(REMOTE_COUNTERS, 1):
        metrics.remote.counts.add(name, amount)
    found = shown(metrics)
    for amount, name in enumerate(EVENTS, 1):
        assert found[f"ctr_{name}_total"] == amount
    for amount, (metric, _) in enumerate(REMOTE_COUNTERS.values(), 1):
        assert found[f"{metric}_total"] == amount


def test_hits_and_misses_are_all_look_ups() -> None:
    """A value that was looked up was either in the cache or not."""
    metrics = Metrics(SharedNumbers())
    metrics.watch_remote(lambda: 5, lambda: True, lambda: True)
    metrics.remote.counts.add("lookups", 10)
    metrics.remote.counts.add("misses", 3)
    found = shown(metrics)
    hits, misses = found["ctr_vocabulary_hits_total"], found["ctr_vocabulary_misses_total"]
    assert (hits, misses, hits + misses) == (7, 3, found["ctr_vocabulary_lookups_total"])


def test_polled_numbers_of_all_workers_are_shown() -> None:
    """Queues add up; Redis is up only while every worker asks it."""
    shared = SharedNumbers(2)
    for worker, (rows, up) in enumerate([(2, True), (3, False)]):
        shared.begin_worker(worker)
        metrics = Metrics(shared)
        metrics.watch_queue(partial(int, rows), lambda: 0)
        metrics.watch_remote(lambda: 1, partial(bool, up), lambda: True)
        metrics.poll()
    found = shown(metrics)
    assert (found["ctr_queued_rows"], found["ctr_redis_up"]) == (5, 0)
    assert found["ctr_vocabulary_cached"] == 2


def test_metrics_that_are_off_count_no_requests() -> None:
    """With metrics off a route's counters do nothing."""
    metrics = Metrics(SharedNumbers(), enabled=False)
    for route in ("predict", OPERATION):
        metrics.for_route(route).count_answer(200)
        metrics.for_route(route).observe_latency(200, 0.1)
    assert sum(metrics.requests.operation.outcomes.totals().values()) == 0
    assert sum(metrics.requests.scoring["predict"].outcomes.totals().values()) == 0
