"""Batches go into buckets that hold them, the soonest way, and padding is the padding row."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest

from app.features.graph_inputs import Batch, graph_inputs
from app.scoring.buckets import (
    SMALLEST_ROWS,
    STEP,
    Bucket,
    Padder,
    Plan,
    axis_sizes,
    buckets,
    fewer_than,
    part_of,
)
from tests.support.graphs import LAYOUTS, PLACES, dataset, shape

LINEAR = {bucket: 100 + 1.0 * bucket.rows for bucket in buckets(4096)}
FLAT = dict.fromkeys(buckets(4096), 100.0)


def never(rows: int, one_context: bool) -> float:
    """The CPU's time where it is to score nothing."""
    return inf


@pytest.mark.parametrize("largest", [1, 2, 63, 64, 65, 256, 1000, 4096])
def test_buckets_reach_the_largest_by_steps(largest: int) -> None:
    """Each number of rows has a bucket of one context and one of as many as rows."""
    found = buckets(largest)
    rows = sorted({bucket.rows for bucket in found})
    assert rows[-1] == largest
    assert rows[0] == min(largest, SMALLEST_ROWS)
    assert all(after <= before * STEP for before, after in pairwise(rows))
    assert sorted(found) == sorted({Bucket(n, each) for n in rows for each in (1, n)})


@pytest.mark.parametrize("seconds", [LINEAR, FLAT], ids=["linear", "flat"])
@pytest.mark.parametrize("one", [True, False])
def test_the_parts_of_a_batch_are_its_rows(seconds: dict[Bucket, float], one: bool) -> None:
    """Every part fits its bucket, whose contexts suffice; no row is left and none is twice."""
    for plan in (Plan(seconds, never), Plan(seconds, fewer_than(64))):
        for rows in (*range(300), 1000, 1025, 4095, 4096, 4097, 20_000):
            for parts in (plan.parts(rows, one), plan.device_parts(rows, one)):
                assert sum(part.rows for part in parts) == rows
                for part in parts:
                    assert part.rows > 0
                    if part.bucket is not None:
                        assert part.rows <= part.bucket.rows
                        assert part.bucket.contexts == (1 if one else part.bucket.rows)


def test_the_soonest_way_is_taken() -> None:
    """Where a run costs little beside its rows, a batch is cut; where it does not, it is padded."""
    assert [part.rows for part in Plan(LINEAR, never).parts(300, True)] == [256, 44]
    assert [part.rows for part in Plan(FLAT, never).parts(300, True)] == [300]
    assert Plan(FLAT, never).parts(300, True)[0].bucket == Bucket(1024, 1)


def test_the_rest_of_a_batch_may_be_the_cpus() -> None:
    """As small batches are, where it is predicted to be sooner."""
    plan = Plan(LINEAR, lambda rows, one: 3.0 * rows)
    assert plan.parts(20, True) == [(20, None)]
    assert plan.parts(64, False) == [(64, (64, 64))]
    assert plan.parts(276, True) == [(256, (256, 1)), (20, None)]
    assert plan.first_on_device() == 55
    assert all(part.bucket for part in plan.device_parts(20, True))


def test_a_device_that_is_never_sooner_gets_nothing() -> None:
    """Up to the largest bucket the CPU scores; a larger batch goes to the device all the same."""
    plan = Plan(LINEAR, lambda rows, one: 0.001 * rows)
    assert plan.parts(4095, True) == [(4095, None)]


def test_the_gathered_batch_is_short_enough() -> None:
    """The largest bucket whose predicted run ends in time, and the smallest in any case."""
    seconds = {bucket: 1e-4 + 1e-6 * bucket.rows for bucket in buckets(4096)}
    plan = Plan(seconds, never)
    assert plan.gathered_rows(0.002) == 1024
    assert plan.gathered_rows(1.0) == 4096
    assert plan.gathered_rows(1e-9) == 64


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_batch_leaves_of_a_bucket_is_padding(name: str) -> None:
    """Whatever was there before; every word of the batch is at its place."""
    layout = LAYOUTS[name]
    shapes = (
        shape(layout.context, layout.context_lists),
        shape(layout.candidate, layout.candidate_lists),
    )
    largest = Bucket(32, 32)
    sizes = axis_sizes(layout, shapes, largest)
    assert all(size == PLACES for axis, size in sizes.items() if "places" in axis)
    arrays = {}
    for each in graph_inputs(layout):
        axes = [sizes[axis] if isinstance(axis, str) else axis for axis in each.axes]
        arrays[each.name] = np.full(axes, 77, each.dtype)
    padder = Padder(arrays, *shapes)
    rng = np.random.default_rng(3)
    for seed in range(60):
        bucket = Bucket(*[(8, 1), (8, 8), (32, 32)][seed % 3])
        rows, contexts = rng.integers(0, bucket.rows + 1), rng.integers(1, bucket.contexts + 1)
        context = dataset(layout, int(contexts), seed)
        candidate = dataset(layout, int(rows), seed + 1)
        owners = rng.integers(0, contexts, rows).astype(np.int32)
        padder.fill(Batch(context.context_rows, candidate.candidate_rows, owners), bucket)
        expected = {
            "context": context.context,
            "candidate": candidate.candidate,
            "row_context": owners,
            **{f"context_list_{n}": each for n, each in enumerate(context.context_lists)},
            **{f"candidate_list_{n}": each for n, each in enumerate(candidate.candidate_lists)},
            "context_value": context.context_value,
            "candidate_value": candidate.candidate_value,
        }
        for input_name, array in arrays.items():
            end = bucket.contexts if input_name.startswith("context") else bucket.rows
            content = expected[input_name]
            np.testing.assert_array_equal(array[: len(content)], content)
            assert not array[len(content) : end].any()


def test_a_part_has_the_contexts_of_its_rows() -> None:
    """No more of them than it has rows; each row keeps its own."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        contexts, rows = rng.integers(1, 40), rng.integers(1, 40)
        batch = Batch(
            np.arange(contexts, dtype=np.int32)[:, None] * 10,
            np.arange(rows, dtype=np.int32)[:, None],
            rng.integers(0, contexts, rows).astype(np.int32),
        )
        start = int(rng.integers(0, rows))
        stop = int(rng.integers(start + 1, rows + 1))
        part = part_of(batch, start, stop)
        assert len(part.context) <= max(1, stop - start)
        assert part.row_context.dtype == np.int32
        np.testing.assert_array_equal(part.candidate, batch.candidate[start:stop])
        np.testing.assert_array_equal(
            part.context[part.row_context], batch.context[batch.row_context[start:stop]]
        )
