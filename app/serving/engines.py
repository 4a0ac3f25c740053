"""The engine of a bundle, in the precision that the settings ask for or, by ``auto``, the faster.

How int8 compares with float32 depends on the processor (int8 needs VNNI or AMX) and on the network,
so ``auto`` measures both when a bundle is loaded. All workers of a service take the same precision:
the first that loads a bundle measures, and the others wait for its figure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import numpy as np

from app.bundle.bundle import Bundle
from app.bundle.manifest import INT8_GRAPH, Precision
from app.errors import BundleError, EngineFailed, ProviderError
from app.explain.explainer import Explainer
from app.features.arrays import Indices
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring.engine import CPU, Engine
from app.scoring.engine_cuda import CudaEngine
from app.scoring.engine_device import DeviceOptions, cuda_device
from app.scoring.split_engine import SplitEngine, ThroughParts
from app.serving.golden import verify_examples
from app.settings import Settings
from app.workers.cpus import cpu_quota
from app.workers.shared_numbers import SharedNumbers

SIZES = ((1, 1), (64, 64), (256, 1))
"""Rows and contexts of the batches that are measured: a lone request, gathered requests, a list."""
RUNS = 15
"""Runs of each size and precision, in turn; 0.2 s in all for layers of 400, 400 and 400."""


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """A verified and warm engine."""

    engine: Engine
    worst_difference: float
    """Largest difference of a golden example's logit from the trainer's."""
    split: SplitEngine | None = None
    """The split graphs, where the settings name a store of items and the bundle has them."""
    explainer: Explainer | None = None
    """The explainer, where the settings offer explanations."""
    reason: str | None = None
    """The reason for the engine's precision, where the settings leave it to the service."""


class Engines:
    """Starts engines as the settings say, in every worker alike."""

    def __init__(self, settings: Settings, shared: SharedNumbers) -> None:
        self._settings = settings
        self.shared = shared
        self._measured = shared.region("precision", 2)

    def start(self, bundle: Bundle, encoder: Encoder) -> StartedEngine:
        """Start the engine of a bundle.

        Raises:
            BundleError: the golden examples do not come out as they did.
            ProviderError: the provider that was asked for cannot be used.
        """
        precision = self._settings.precision
        if precision != "auto":
            return self.start_in(precision, bundle, encoder)
        float32 = self.start_in("float32", bundle, encoder)
        if INT8_GRAPH not in bundle.manifest.files:
            return replace(float32, reason="the bundle has no int8 graph")
        if float32.engine.provider != CPU:
            return replace(float32, reason="an int8 graph runs on the CPU")
        try:
            int8 = self.start_in("int8", bundle, encoder)
        except BundleError as error:
            return replace(float32, reason=f"its int8 graph cannot be used: {error}")
        ratio = self._ratio(bundle, encoder, int8.engine, float32.engine)
        reason = f"int8 takes {ratio:.2f} x the time of float32"
        return replace(int8 if ratio < 1 else float32, reason=reason)

    def start_in(self, precision: Precision, bundle: Bundle, encoder: Encoder) -> StartedEngine:
        """Start the engine of a bundle in one precision.

        Raises:
            BundleError, ProviderError: as ``start``, or the bundle has no such graph.
        """
        engine = self._engine(precision, bundle, encoder)
        worst = max(
            verify_examples(bundle, encoder, way, engine.tolerance, precision)
            for way in engine.ways()
        )
        engine.warm_up()
        explainer = None
        if self._settings.explain == "on" or self._settings.admin_port is not None:
            explainer = Explainer.of(bundle, encoder, engine)
        return StartedEngine(engine, worst, self._split(engine, bundle, encoder), explainer)

    def _engine(self, precision: Precision, bundle: Bundle, encoder: Encoder) -> Engine:
        """Return an engine on the provider that the settings ask for, or on the CPU with a reason.

        Raises:
            BundleError, ProviderError: as ``start``.
        """
        settings = self._settings
        graph, layout = bundle.graph_in(precision), bundle.vocabulary.layout
        words = graph, layout, *encoder.shapes
        threads = settings.engine_threads or engine_threads(cpu_quota(), settings.workers)
        if settings.provider == "cpu" or precision == "int8":
            return Engine(*words, settings.provider, threads, precision)
        try:
            return CudaEngine(*words, cuda_device(), device_options(settings), threads)
        except (ProviderError, BundleError, EngineFailed) as error:
            if settings.provider == "cuda":
                raise ProviderError(f"CUDA was asked for and cannot be used: {error}") from error
            engine = Engine(*words, "cpu", threads)
            engine.fallback = str(error)
            return engine

    def _split(self, engine: Engine, bundle: Bundle, encoder: Encoder) -> SplitEngine | None:
        """Return the verified split graphs of a bundle for the items of a store."""
        graphs, parts = bundle.split_graphs_in(engine.precision), bundle.manifest.parts
        if self._settings.store is None or engine.provider != CPU or not (graphs and parts):
            return None
        shapes = encoder.context.shape, encoder.candidate.shape
        split = SplitEngine(engine, graphs, parts, *shapes)
        through_parts = ThroughParts(split)
        verify_examples(bundle, encoder, through_parts, engine.tolerance, engine.precision)
        return split

    def _ratio(self, bundle: Bundle, encoder: Encoder, int8: Engine, float32: Engine) -> float:
        """Return how int8 compares, as the first worker that loaded this bundle measured it."""
        with self.shared.turn():
            known = self._measured.beside(bundle.number)
            ratio = largest_ratio(bundle, encoder, int8, float32) if known is None else known
            self._measured.array[:] = bundle.number, ratio
        return ratio


def largest_ratio(bundle: Bundle, encoder: Encoder, engine: Engine, other: Engine) -> float:
    """Return an engine's time over another's at the size where it compares worst.

    Times are medians of runs in turn over the bundle's golden rows.
    """
    examples = bundle.examples
    context = b"".join(encoder.context.row(each.context) for each in examples)
    candidate = b"".join(encoder.candidate.row(row) for each in examples for row in each.candidates)
    ratios = []
    for rows, contexts in SIZES:
        batch = Batch(
            _rows(context, encoder.context.shape.width, contexts),
            _rows(candidate, encoder.candidate.shape.width, rows),
            np.arange(rows, dtype=np.int32) % contexts,
        )
        times: dict[Engine, list[float]] = {engine: [], other: []}
        for _ in range(RUNS):
            for each, taken in times.items():
                began = perf_counter()
                each.score(batch)
                taken.append(perf_counter() - began)
        ratios.append(median(times[engine]) / median(times[other]))
    return max(ratios)


def device_options(settings: Settings) -> DeviceOptions:
    """Return what the settings say of a GPU."""
    return DeviceOptions(
        settings.gpu_batch_rows,
        settings.gpu_small_rows,
        settings.gpu_memory_bytes,
        settings.gpu_arena,
        settings.gpu_tf32 == "on",
        settings.gpu_graphs == "on",
    )


def _rows(packed: bytes, width: int, rows: int) -> Indices:
    """Return so many rows, the packed ones over and over again."""
    return np.resize(np.frombuffer(packed, np.int32), (rows, width))


def engine_threads(cpus: int, workers: int = 1) -> int:
    """Threads of an engine where none are asked for: a worker's CPUs but the event loop's.

    On two CPUs and 32 connections one thread answered 5,400 requests a second, two 4,700.
    """
    return max(1, cpus // workers - 1)
