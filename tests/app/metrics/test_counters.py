"""Counters and histograms count in one worker and show the sum of all."""

from __future__ import annotations

import pytest

from app.metrics.counters import Counts, Histogram
from app.workers.shared_numbers import SharedNumbers


def test_counts_of_all_workers_add_up() -> None:
    """``add`` counts in one worker, ``totals`` adds up all of them."""
    shared = SharedNumbers(2)
    first = Counts(shared, "counts", ["a", "b"])
    shared.begin_worker(1)
    second = Counts(shared, "counts", ["a", "b"])
    first.add("a")
    second.add("a")
    second.add("b", 10)
    assert (first["a"], first["b"], second["b"]) == (1, 0, 10)
    assert first.totals() == second.totals() == {"a": 2, "b": 10}


def test_a_name_without_a_counter_is_an_error() -> None:
    """A mistyped name is noticed at its first use."""
    with pytest.raises(KeyError):
        Counts(SharedNumbers(), "counts", ["a"]).add("b")


def test_counts_are_shown_by_label() -> None:
    """Each counter is a value of the label."""
    counts = Counts(SharedNumbers(), "counts", ["a", "b"])
    counts.add("b", 3)
    family = counts.labelled("ctr_things", "Things", "kind")
    assert {sample.labels["kind"]: sample.value for sample in family.samples} == {"a": 0, "b": 3}


def test_a_bound_belongs_to_its_bucket() -> None:
    """A value counts up to the first bound that it does not exceed; the sum is of all values."""
    histogram = Histogram(SharedNumbers(), "seconds", (1.0, 2.0))
    for value in (1.0, 1.5, 5.0):
        histogram.observe(value)
    assert histogram.cumulative() == ([("1.0", 1.0), ("2.0", 2.0), ("+Inf", 3.0)], 7.5)
