"""CUDA for this service: the provider in use, parity with the CPU, latency, bounds.

Refuses to run where onnxruntime cannot use CUDA: a figure from a CPU would be worth nothing.
The bundle is the Criteo-shaped one of the benchmark.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from app.bundle.bundle import Bundle
from app.errors import EngineFailed
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring.engine import CPU, CUDA, TOLERANCE, Engine, cuda_problem
from app.serving.golden import verify_examples
from tests.bench.serving.shape import make

ROOT = Path(__file__).resolve().parents[2]
ROWS = (1, 64, 1_000, 8_000)
REPEATS = 200
REFUSED = 2
"""Exit code where there is no CUDA."""


def random_batch(encoder: Encoder, table_rows: int, rows: int, contexts: int, seed: int) -> Batch:
    """Rows of any indices of the table, with ``contexts`` contexts in turn."""
    rng = np.random.default_rng(seed)
    sides = ((contexts, encoder.context.shape.width), (rows, encoder.candidate.shape.width))
    context, candidate = (rng.integers(1, table_rows, size, dtype=np.int32) for size in sides)
    return Batch(context, candidate, np.arange(rows, dtype=np.int32) % contexts)


def median_us(run: Callable[[], object]) -> float:
    """Median microseconds of a call, after a tenth of the calls uncounted."""
    times = []
    for _ in range(REPEATS + REPEATS // 10):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return statistics.median(times[REPEATS // 10 :]) * 1e6


def refuses(engine: Engine, batch: Batch) -> bool:
    """Return whether an engine refuses a batch before it runs."""
    try:
        engine.score(batch)
    except EngineFailed:
        return True
    return False


def check(engine: Engine, cpu: Engine, bundle: Bundle, encoder: Encoder) -> dict[str, Any]:
    """Compare and time an engine beside the CPU's; return the figures by name."""
    table_rows = bundle.vocabulary.layout.table_rows
    latency: dict[str, dict[str, float]] = {}
    worst = 0.0
    for rows in ROWS:
        for contexts in sorted({1, rows}):
            batch = random_batch(encoder, table_rows, rows, contexts, seed=rows + contexts)
            found, expected = engine.score(batch).logit, cpu.score(batch).logit
            worst = max(worst, float(np.abs(found - expected).max()))
            kind = "one context" if contexts == 1 else "a context for each row"
            latency[f"{rows} rows, {kind}"] = {
                "engine_us": median_us(lambda batch=batch: engine.score(batch)),  # type: ignore[misc]
                "cpu_us": median_us(lambda batch=batch: cpu.score(batch)),  # type: ignore[misc]
            }
    inside = random_batch(encoder, table_rows, 4, 2, seed=1)
    outside = {}
    for name, index in {"table size": table_rows, "1e9": 10**9, "negative": -1}.items():
        candidate = inside.candidate.copy()
        candidate[2, 3] = index
        bad = inside._replace(candidate=candidate)
        outside[name] = refuses(engine, bad) and refuses(cpu, bad)
    return {
        "provider": engine.provider,
        "tf32": "off",
        "golden_examples_worst_difference": verify_examples(
            bundle, encoder, engine, engine.tolerance
        ),
        "worst_logit_difference_from_cpu": worst,
        "tolerance": TOLERANCE[engine.provider],
        "latency": latency,
        "index_out_of_range_refused": outside,
    }


def main() -> int:
    """Check CUDA and print the figures; 2 where there is none, 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    problem = cuda_problem()
    if problem is not None:
        print(f"gpu-check: refused: CUDA cannot be used here: {problem}", file=sys.stderr)
        return REFUSED
    path, _ = make(ROOT / "data" / "criteo-shape")
    bundle = Bundle.open(path)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    words = (bundle.graph, bundle.vocabulary.layout, encoder.context.shape, encoder.candidate.shape)
    engine = Engine(*words, provider="cuda")
    cpu = Engine(*words, provider="cpu")
    assert (engine.provider, cpu.provider) == (CUDA, CPU)
    figures = check(engine, cpu, bundle, encoder)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    close = figures["worst_logit_difference_from_cpu"] <= figures["tolerance"]
    return 0 if close and all(figures["index_out_of_range_refused"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
