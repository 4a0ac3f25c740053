"""The engine of a GPU: parity with the CPU, capture, latency, bounds, and a device that is full.

The ways that are compared, by name:

- ``graphs``: fixed-size graphs with bound buffers, each a CUDA graph that is replayed;
- ``binding``: the same without CUDA graphs;
- ``plain``: a session of the graph of any size, to which arrays are given and copied;
- ``chosen``: what serves, which scores small batches on the CPU where that was faster;
- ``cpu``: the CPU's engine.

The bundle is the Criteo-shaped one of the benchmarks unless another is named. With ``--device cpu``
the CPU takes the GPU's place, for a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from app.bundle.bundle import Bundle
from app.errors import BundleError, CtrError, EngineFailed
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import (
    CPU,
    CUDA,
    TOLERANCE,
    Engine,
    cuda_problem,
    scores_of,
    session_options,
)
from app.scoring.engine_cuda import CudaEngine
from app.scoring.engine_device import CudaDevice, Device, DeviceOptions, HostDevice
from app.serving.golden import verify_examples
from app.workers.cpus import cpu_quota
from tests.bench.serving.shape import make
from tests.support.environments import ROOT

ROWS = (1, 64, 1_000, 8_000)
LARGEST_ROWS = 8_192
REPEATS = 200
REFUSED = 2
"""Exit code where there is no CUDA."""
CALLERS = (1, 2, 4)
CALLERS_ROWS = 1_000
TIGHT_BYTES = (2**20, 2**28)
"""Bounds of the device's memory that an engine is started under: a MiB, and some room."""


class Way(NamedTuple):
    """One of the ways in which a batch is scored."""

    score: Callable[[Batch], Scores]


class Plain:
    """A session of a device that is given arrays: neither fixed sizes nor bound buffers."""

    def __init__(self, graph: Path, cpu: Engine, provider: str) -> None:
        providers: list[Any] = [(CUDA, {"use_tf32": "0"})] if provider == CUDA else []
        self._session = ort.InferenceSession(
            str(graph), session_options(cpu.threads), providers=[*providers, CPU]
        )
        assert self._session.get_providers()[0] == provider
        self._cpu = cpu

    def score(self, batch: Batch) -> Scores:
        """Score a batch; every index is checked first, as elsewhere."""
        self._cpu.check_bounds(batch)
        return scores_of(self._session, self._cpu.feed(batch), len(batch.candidate))


def random_batch(encoder: Encoder, table_rows: int, rows: int, contexts: int, seed: int) -> Batch:
    """Rows of any indices of the table, with ``contexts`` contexts in turn."""
    rng = np.random.default_rng(seed)
    sides = ((contexts, encoder.context.shape.width), (rows, encoder.candidate.shape.width))
    context, candidate = (rng.integers(1, table_rows, size, dtype=np.int32) for size in sides)
    return Batch(context, candidate, np.arange(rows, dtype=np.int32) % contexts)


def median_us(run: Callable[[], object], repeats: int) -> float:
    """Median microseconds of a call, after a tenth of the calls uncounted."""
    times = []
    for _ in range(repeats + repeats // 10 + 1):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return statistics.median(times[repeats // 10 + 1 :]) * 1e6


def refuses(way: Way, batch: Batch) -> bool:
    """Return whether a batch is refused before it runs."""
    try:
        way.score(batch)
    except EngineFailed:
        return True
    return False


def used_bytes() -> int | None:
    """Return the memory in use on the first GPU; None where nvidia-smi does not say it."""
    words = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def compare(
    ways: Mapping[str, Way], bundle: Bundle, encoder: Encoder, repeats: int = REPEATS
) -> dict[str, Any]:
    """Compare every way with ``cpu`` and time all of them; return the figures by name."""
    table_rows = bundle.vocabulary.layout.table_rows
    latency: dict[str, dict[str, float]] = {}
    worst = dict.fromkeys(ways, 0.0)
    for rows in ROWS:
        for contexts in sorted({1, rows}):
            batch = random_batch(encoder, table_rows, rows, contexts, seed=rows + contexts)
            expected = ways["cpu"].score(batch).logit
            times = {}
            # Lists take long on the CPU; a quarter of the runs tells enough.
            runs = repeats if rows < CALLERS_ROWS else max(5, repeats // 4)
            for name, way in ways.items():
                found = way.score(batch).logit
                worst[name] = max(worst[name], float(np.abs(found - expected).max()))
                times[f"{name}_us"] = median_us(lambda b=batch, w=way: w.score(b), runs)  # type: ignore[misc]
            kind = "one context" if contexts == 1 else "a context for each row"
            latency[f"{rows} rows, {kind}"] = times
    return {
        "worst_logit_difference_from_cpu": worst,
        "latency": latency,
        "index_out_of_range_refused": outside(ways, table_rows, encoder),
    }


def outside(ways: Mapping[str, Way], table_rows: int, encoder: Encoder) -> dict[str, bool]:
    """Return whether all ways refuse indices outside the table."""
    inside = random_batch(encoder, table_rows, 4, 2, seed=1)
    found = {}
    for name, index in {"table size": table_rows, "1e9": 10**9, "negative": -1}.items():
        candidate = inside.candidate.copy()
        candidate[2, 0] = index
        bad = inside._replace(candidate=candidate)
        found[name] = all(refuses(way, bad) for way in ways.values())
    return found


def together(
    ways: Mapping[str, Way], table_rows: int, encoder: Encoder, repeats: int
) -> dict[str, dict[str, float]]:
    """Return rows per second of several callers at once, by way and number of callers."""
    batch = random_batch(encoder, table_rows, CALLERS_ROWS, 1, seed=3)
    found: dict[str, dict[str, float]] = {}
    for name, way in ways.items():
        for callers in CALLERS:
            count = callers * max(5, repeats // 4)
            with ThreadPoolExecutor(callers) as pool:
                begun = perf_counter()
                for done in pool.map(lambda _, w=way: w.score(batch), range(count)):  # type: ignore[misc]
                    assert len(done.logit) == CALLERS_ROWS
                seconds = perf_counter() - begun
            found.setdefault(name, {})[str(callers)] = count * CALLERS_ROWS / seconds
    return found


def started(
    words: Sequence[Any], device: Device, options: DeviceOptions
) -> tuple[CudaEngine, dict[str, Any]]:
    """Start an engine; return it with its seconds and memory, and what it says of itself."""
    before, begun = used_bytes(), perf_counter()
    engine = CudaEngine(*words, device, options, threads=cpu_quota())
    seconds, after = perf_counter() - begun, used_bytes()
    used = None if before is None or after is None else after - before
    return engine, {"start_seconds": seconds, "gpu_bytes": used, "engine": engine.described()}


def without_memory(words: Sequence[Any], device: Device) -> dict[str, Any]:
    """Return what happens under small bounds of the device's memory, and what is left in use.

    An engine either refuses in a line or scores: it neither ends the process nor keeps memory.
    """
    found: dict[str, Any] = {}
    for limit in TIGHT_BYTES:
        before = used_bytes()
        try:
            engine, _ = started(
                words, device, DeviceOptions(largest_rows=LARGEST_ROWS, memory_bytes=limit)
            )
            outcome = f"starts, {engine.provider}"
            del engine
        except CtrError as error:
            outcome = f"{type(error).__name__}: {error}"
        found[str(limit)] = {"outcome": outcome, "before": before, "after": used_bytes()}
    return found


def check(path: Path, device: Device, repeats: int) -> dict[str, Any]:
    """Measure everything over a bundle; return the figures.

    Raises:
        BundleError: the bundle cannot be used, or the engine cannot start.
    """
    bundle = Bundle.open(path)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    layout = bundle.vocabulary.layout
    words = (bundle.graph, layout, encoder.context.shape, encoder.candidate.shape)
    cpu = Engine(*words, provider="cpu", threads=cpu_quota())
    figures: dict[str, Any] = {
        "provider": device.provider, "tolerance": TOLERANCE[device.provider],
        "table_rows": layout.table_rows, "starts": {},
    }  # fmt: skip
    ways = {}
    for name, graphs in (("graphs", True), ("binding", False)):
        options = DeviceOptions(largest_rows=LARGEST_ROWS, graphs=graphs)
        engine, figures["starts"][name] = started(words, device, options)
        ways[name] = Way(engine.score_on_device)
        if graphs:
            ways["chosen"] = Way(engine.score)
    ways["plain"] = Way(Plain(bundle.graph, cpu, device.provider).score)
    ways["cpu"] = Way(cpu.score)
    figures["golden_examples_worst_difference"] = {
        name: verify_examples(bundle, encoder, way, figures["tolerance"])
        for name, way in ways.items()
    }
    figures |= compare(ways, bundle, encoder, repeats)
    figures["rows_per_second"] = together(ways, layout.table_rows, encoder, repeats)
    del ways, engine
    figures["without_memory"] = without_memory(words, device)
    return figures


def main(words: Sequence[str] | None = None) -> int:
    """Check and print the figures; 2 where there is no CUDA, 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu.engine", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--bundle", type=Path, help="default: the Criteo-shaped one")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="runs of each size")
    options = parser.parse_args(words)
    device: Device = HostDevice()
    if options.device == "cuda":
        problem = cuda_problem()
        if problem is not None:
            print(f"gpu-check: refused: CUDA cannot be used here: {problem}", file=sys.stderr)
            return REFUSED
        device = CudaDevice()
    path = options.bundle or make(ROOT / "data" / "criteo-shape")[0]
    try:
        figures = check(path, device, options.repeats)
    except BundleError as error:
        print(f"gpu-check: the engine cannot be used: {error}", file=sys.stderr)
        return 1
    text = json.dumps({"rehearsal": options.device == "cpu", **figures}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    close = max(figures["worst_logit_difference_from_cpu"].values()) <= figures["tolerance"]
    return 0 if close and all(figures["index_out_of_range_refused"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
