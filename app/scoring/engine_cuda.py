"""The engine of a GPU: graphs of fixed sizes, two batches in flight, small batches on the CPU.

All but the device itself is the same over the CPU in a GPU's place, where it is tested.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from threading import Thread
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from app.bundle.graph_file import mapped, outside_tensors
from app.errors import BundleError, DeviceLost, EngineFailed
from app.features.arrays import Floats, Indices
from app.features.graph_inputs import CONTEXTS, Batch, Scores, graph_inputs
from app.features.layout import Layout, RowShape
from app.scoring.buckets import (
    Bucket,
    Padder,
    Part,
    Plan,
    axis_sizes,
    buckets,
    fewer_than,
    own_names,
    part_of,
)
from app.scoring.cost import CostModel
from app.scoring.engine import Engine, scores_of
from app.scoring.engine_device import Device, DeviceOptions, FixedGraph, failure_of
from app.scoring.job import Scoring

LANES = 2
"""Batches in flight: one is laid out and copied while the graph of the other runs."""
MEASURED_RUNS = 9
"""Runs of each bucket, and of each size on the CPU, whose median is compared."""
CPU_ROWS = (1, 16, 64, 256)
"""Rows of the batches by which the time on the CPU is predicted."""
Outcome = SimpleQueue[BaseException | None]
Work = SimpleQueue[tuple[FixedGraph, int, Outcome] | None]
"""Graphs to run over a lane, and where the outcome goes; None ends the thread."""


class Lane:
    """The host's buffers of one batch in flight, with room for the largest bucket."""

    def __init__(
        self,
        number: int,
        device: Device,
        layout: Layout,
        shapes: tuple[RowShape, RowShape],
        largest: int,
    ) -> None:
        self.number = number
        self.outcome: Outcome = SimpleQueue()
        sizes = axis_sizes(layout, shapes, Bucket(largest, largest))
        self._inputs: dict[str, Indices | Floats] = {}
        self._of_contexts = set()
        for each in graph_inputs(layout):
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in each.axes]
            self._inputs[each.name] = device.host(shape, getattr(np, each.dtype))
            if CONTEXTS in each.axes:
                self._of_contexts.add(each.name)
        self._outputs: dict[str, Floats] = {
            name: device.host([largest], np.float32) for name in Scores._fields
        }
        self.padder = Padder(self._inputs, *shapes)

    def inputs(self, bucket: Bucket) -> dict[str, Indices | Floats]:
        """Return the inputs by name, as large as a bucket."""
        return {
            name: array[: bucket.contexts if name in self._of_contexts else bucket.rows]
            for name, array in self._inputs.items()
        }

    def outputs(self, bucket: Bucket) -> dict[str, Floats]:
        """Return the outputs by name, as large as a bucket."""
        return {name: array[: bucket.rows] for name, array in self._outputs.items()}


class Flight(NamedTuple):
    """A part of a batch on the device: its rows, and the lane and the bucket that it took."""

    start: int
    stop: int
    bucket: Bucket
    lane: Lane


class Way(NamedTuple):
    """One way of several in which an engine scores."""

    score: Callable[[Batch], Scores]


class CudaEngine(Engine):
    """An engine whose larger batches run on a device.

    Several threads may score at once. ``device`` is CUDA's, or the CPU in its place.
    """

    in_flight = LANES

    def __init__(
        self,
        graph: Path,
        layout: Layout,
        context: RowShape,
        candidate: RowShape,
        device: Device,
        options: DeviceOptions | None = None,
        threads: int = 1,
    ) -> None:
        """Load the graph for the CPU and for each bucket, capture and measure.

        Raises:
            BundleError: a graph cannot be loaded, cannot have fixed sizes, or does not fit into
                the device's memory.
            EngineFailed: the device fails.
        """
        super().__init__(graph, layout, context, candidate, "cpu", threads)
        self.options = options or DeviceOptions()
        self._device = device
        self._lost: str | None = None
        shapes = context, candidate
        sizes = buckets(self.options.largest_rows)
        self._shared, limit = self._resident(graph, layout, len(sizes))
        axes = {each.name: each.shape for each in self._session.get_inputs()}
        self._graphs = {
            bucket: FixedGraph(
                device,
                graph,
                own_names(layout, axis_sizes(layout, shapes, bucket), axes),
                self._shared,
                threads,
                self.options,
                limit,
            )
            for bucket in sizes
        }
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for number in range(LANES):
            lane = Lane(number, device, layout, shapes, self.options.largest_rows)
            for bucket, each in self._graphs.items():
                each.bind(lane.inputs(bucket), lane.outputs(bucket))
            self._free.put(lane)
        self._work: Work = SimpleQueue()
        # The thread does not know the engine, which so ends with its last user.
        Thread(target=_run_graphs, args=[self._work], name="device", daemon=True).start()
        weakref.finalize(self, self._work.put, None)
        self._plan = Plan(self._measure_buckets(), self._measure_cpu())
        self._batch_rows = self._plan.gathered_rows()
        # Once: it looks at every number of rows, and /ready is asked often.
        self._first_rows = self._plan.first_on_device()

    @property
    def provider(self) -> str:
        """The execution provider of the device."""
        return self._device.provider

    @property
    def batch_rows(self) -> int:
        """The largest batch to gather: by the fitted cost, a short request may wait for one."""
        return self._batch_rows

    @property
    def operators(self) -> dict[Bucket, list[str]]:
        """The operators of each bucket's graph as it runs."""
        return {bucket: graph.operators for bucket, graph in self._graphs.items()}

    def ways(self) -> Sequence[Scoring]:
        """Return each way in which a batch may be scored: the CPU's, and the device's."""
        return Way(super().score), Way(self.score_on_device)

    def described(self) -> dict[str, Any] | None:
        """Return what operators are told of the device."""
        return {
            "tf32": "on" if self.options.tf32 else "off",
            "cuda_graphs": "on" if self.options.graphs else "off",
            "host_memory": "pinned" if getattr(self._device, "pinned", False) else "pageable",
            "buckets": [list(bucket) for bucket in self._graphs],
            "batch_rows": self.batch_rows,
            "cpu_below_rows": self._first_rows,
        }

    def score(self, batch: Batch) -> Scores:
        """Score a batch of any size; every index is checked against the table first.

        Raises:
            EngineFailed: as ``Engine.score``.
            DeviceLost: the device works no more in this process.
        """
        self.check_bounds(batch)
        parts = self._plan.parts(len(batch.candidate), len(batch.context) == 1)
        if len(parts) <= 1 and (not parts or parts[0].bucket is None):
            return self._on_cpu(batch)
        return self._in_parts(batch, parts)

    def _on_cpu(self, batch: Batch) -> Scores:
        return scores_of(self._session, self.feed(batch), len(batch.candidate))

    def score_on_device(self, batch: Batch) -> Scores:
        """Score a batch on the device, however small it is.

        Raises:
            EngineFailed, DeviceLost: as ``score``.
        """
        self.check_bounds(batch)
        one = len(batch.context) == 1
        return self._in_parts(batch, self._plan.device_parts(len(batch.candidate), one))

    def _in_parts(self, batch: Batch, parts: Sequence[Part]) -> Scores:
        """Score each part of a batch where it belongs, several at once."""
        if self._lost is not None:
            raise DeviceLost(self._lost)
        rows = len(batch.candidate)
        scores = Scores(np.empty(rows, np.float32), np.empty(rows, np.float32))
        flights: deque[Flight] = deque()
        start = 0
        try:
            for part in parts:
                stop = start + part.rows
                own = part_of(batch, start, stop)
                if part.bucket is None:
                    for all_of, found in zip(scores, self._on_cpu(own), strict=True):
                        all_of[start:stop] = found
                else:
                    lane = self._free_lane(flights, scores)
                    flights.append(Flight(start, stop, part.bucket, lane))
                    self._begin(own, part.bucket, lane)
                start = stop
            while flights:
                self._land(flights.popleft(), scores)
        except Exception as error:
            failure = error if isinstance(error, EngineFailed) else failure_of(error)
            if isinstance(failure, DeviceLost):
                self._lost = str(failure)
            raise failure from error
        finally:
            for flight in flights:
                # Its buffers are in use until its run has ended, however that ends.
                flight.lane.outcome.get()
                self._free.put(flight.lane)
        return scores

    def _free_lane(self, flights: deque[Flight], scores: Scores) -> Lane:
        """Return a lane; where none is free, one of the batch's own is landed first."""
        # Never wait with a lane in hand: two callers would wait for each other.
        while flights:
            try:
                return self._free.get_nowait()
            except Empty:
                self._land(flights.popleft(), scores)
        return self._free.get()

    def _begin(self, batch: Batch, bucket: Bucket, lane: Lane) -> None:
        graph = self._graphs[bucket]
        try:
            lane.padder.fill(batch, bucket)
            graph.take(lane.number, lane.inputs(bucket))
        except Exception as error:
            # Told like the end of a run, so that there is one way back for a lane.
            lane.outcome.put(error)
        else:
            self._work.put((graph, lane.number, lane.outcome))

    def _land(self, flight: Flight, scores: Scores) -> None:
        """Wait for a part's run and copy its scores; the lane is free again."""
        start, stop, bucket, lane = flight
        try:
            if (error := lane.outcome.get()) is not None:
                raise error
            outputs = lane.outputs(bucket)
            self._graphs[bucket].give(lane.number, outputs)
            for name, all_of in zip(Scores._fields, scores, strict=True):
                all_of[start:stop] = outputs[name][: stop - start]
        finally:
            self._free.put(lane)

    def _resident(
        self, graph: Path, layout: Layout, sessions: int
    ) -> tuple[Mapping[str, Any], int | None]:
        """Return the tables, once on the device for all sessions, and each session's own memory.

        Raises:
            BundleError: they need more memory than the device may use.
        """
        tables = {
            each.name: mapped(graph, each)
            for each in outside_tensors(graph)
            if each.shape[:1] == (layout.table_rows,)
        }
        limit = self.options.memory_bytes
        if limit is not None:
            limit = (limit - sum(table.nbytes for table in tables.values())) // sessions
            if limit <= 0:
                raise BundleError(
                    f"the tables of {graph.name} take more than the GPU's memory that the settings"
                    " allow: raise CTR_GPU_MEMORY_BYTES"
                )
        try:
            return {name: self._device.resident(table) for name, table in tables.items()}, limit
        except Exception as error:
            raise failure_of(error) from error

    def _measure_buckets(self) -> dict[Bucket, float]:
        """Run each bucket in each lane, which captures its graph, and return its seconds."""
        seconds = {}
        for bucket in self._graphs:
            batch, part = self._of_padding(*bucket), [Part(bucket.rows, bucket)]
            # Lanes take turns, so each has a run at least before those that are measured.
            for _ in range(LANES):
                self._in_parts(batch, part)
            seconds[bucket] = _median_seconds(partial(self._in_parts, batch, part))
        return seconds

    def _measure_cpu(self) -> Callable[[int, bool], float]:
        """Return the prediction of the seconds that rows take on the CPU."""
        if self.options.small_rows is not None:
            return fewer_than(self.options.small_rows)
        costs = {True: CostModel(decay=1.0), False: CostModel(decay=1.0)}
        for one, cost in costs.items():
            for rows in CPU_ROWS:
                batch = self._of_padding(rows, 1 if one else rows)
                self._on_cpu(batch)
                cost.observe(rows, _median_seconds(partial(self._on_cpu, batch)))
        return lambda rows, one: costs[one].seconds(rows)

    def _of_padding(self, rows: int, contexts: int) -> Batch:
        return Batch(
            np.zeros((contexts, self._context.width), np.int32),
            np.zeros((rows, self._candidate.width), np.int32),
            np.arange(rows, dtype=np.int32) % contexts,
        )


def _median_seconds(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(MEASURED_RUNS):
        began = perf_counter()
        run()
        taken.append(perf_counter() - began)
    return median(taken)


def _run_graphs(work: Work) -> None:
    """Run graph after graph: the one thread of a device, by which its graphs are captured."""
    while (item := work.get()) is not None:
        graph, lane, outcome = item
        error: BaseException | None = None
        try:
            graph.run(lane)
        except BaseException as raised:
            error = raised
        outcome.put(error)
        # Nothing of a replaced engine is kept until the next run.
        del item, graph, outcome, error
