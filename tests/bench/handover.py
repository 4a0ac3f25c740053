"""What it would cost to feed one engine process from others: ``python -m tests.bench.handover``.

One process lays a batch into shared memory and waits; the other scores it there, on the CPU, and
answers. The figures stand beside the same batch scored in process, and beside the engine of a GPU
over the CPU in its place, whose padding and thread they show.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine
from app.scoring.engine_cuda import CudaEngine
from app.scoring.engine_device import DeviceOptions, HostDevice
from tests.bench.gpu.engine import random_batch

ROWS = (1, 64, 1_000)
LARGEST = 1_024
RUNS = 300


def engine_of(bundle: Bundle, on_device: bool = False) -> Engine:
    """Load a bundle's graph on one thread."""
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    words = bundle.graph, bundle.vocabulary.layout, *encoder.shapes
    options = DeviceOptions(largest_rows=LARGEST, small_rows=0)
    return CudaEngine(*words, HostDevice(), options) if on_device else Engine(*words)


class Slot:
    """A batch and its scores in shared memory; a byte through a pipe says that it is there."""

    def __init__(self, memory: mmap.mmap, widths: tuple[int, int]) -> None:
        words = np.frombuffer(memory, np.int32)
        self._sizes = words[:2]
        ends = np.cumsum([2, LARGEST * widths[0], LARGEST * widths[1], *[LARGEST] * 3])
        parts = [words[start:stop] for start, stop in pairwise(ends)]
        self._context, self._candidate = (
            part.reshape(LARGEST, width) for part, width in zip(parts, widths, strict=False)
        )
        self._owners = parts[2]
        self._logit, self._score = (part.view(np.float32) for part in parts[3:])

    @staticmethod
    def bytes(widths: tuple[int, int]) -> int:
        return 4 * (2 + LARGEST * (sum(widths) + 3))

    def put(self, batch: Batch) -> None:
        self._sizes[:] = len(batch.context), len(batch.candidate)
        self._context[: len(batch.context)] = batch.context
        self._candidate[: len(batch.candidate)] = batch.candidate
        self._owners[: len(batch.candidate)] = batch.row_context

    def batch(self) -> Batch:
        contexts, rows = self._sizes
        return Batch(self._context[:contexts], self._candidate[:rows], self._owners[:rows])

    def answer(self, scores: Scores) -> None:
        self._logit[: len(scores.logit)], self._score[: len(scores.score)] = scores

    def scores(self) -> Scores:
        rows = int(self._sizes[1])
        return Scores(self._logit[:rows].copy(), self._score[:rows].copy())


def serve(path: Path, slot: Slot, asked: int, answered: int) -> None:
    """Score what lies in shared memory until the pipe is closed: the engine process."""
    engine = engine_of(Bundle.open(path))
    while os.read(asked, 1):
        slot.answer(engine.score(slot.batch()))
        os.write(answered, b".")
    os._exit(0)


@contextmanager
def through_a_process(path: Path) -> Iterator[Callable[[Batch], Scores]]:
    """Give a function that scores batches in another process."""
    bundle = Bundle.open(path)
    shapes = Encoder(bundle.spec, bundle.vocabulary).shapes
    widths = shapes[0].width, shapes[1].width
    slot = Slot(mmap.mmap(-1, Slot.bytes(widths)), widths)
    (asked, ask), (answered, answer) = os.pipe(), os.pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=serve, args=(path, slot, asked, answer))
    process.start()
    os.close(asked)

    def score(batch: Batch) -> Scores:
        slot.put(batch)
        os.write(ask, b".")
        os.read(answered, 1)
        return slot.scores()

    try:
        yield score
    finally:
        process.kill()
        process.join()
        for descriptor in (ask, answered, answer):
            os.close(descriptor)


def median_us(run: Callable[[], object]) -> float:
    """Median microseconds of a call, after some that are not counted."""
    times = []
    for number in range(RUNS + RUNS // 10):
        begun = perf_counter()
        run()
        if number >= RUNS // 10:
            times.append(perf_counter() - begun)
    return round(median(times) * 1e6, 1)


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Return the figures of each number of rows, of one context."""
    with through_a_process(path) as process_score:
        bundle = Bundle.open(path)
        encoder = Encoder(bundle.spec, bundle.vocabulary)
        plain, fixed = engine_of(bundle), engine_of(bundle, on_device=True)
        found = {}
        for rows in ROWS:
            table_rows = bundle.vocabulary.layout.table_rows
            batch = random_batch(encoder, table_rows, rows, 1, seed=rows)
            expected = plain.score(batch).logit
            assert np.array_equal(process_score(batch).logit, expected)
            assert np.abs(fixed.score(batch).logit - expected).max() < 1e-4
            inside = median_us(lambda batch=batch: plain.score(batch))  # type: ignore[misc]
            outside = median_us(lambda batch=batch: process_score(batch))  # type: ignore[misc]
            padded = median_us(lambda batch=batch: fixed.score(batch))  # type: ignore[misc]
            found[f"{rows} rows"] = {
                "in_process_us": inside,
                "other_process_us": outside,
                "hand_over_us": round(outside - inside, 1),
                "fixed_sizes_us": padded,
            }
        return found


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle, or a directory of bundles")
    options = parser.parse_args()
    print(json.dumps(measure(newest(options.bundle)), indent=1))


if __name__ == "__main__":
    main()
