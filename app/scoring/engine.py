"""Index rows → logits and scores, by onnxruntime; no other module of ``app`` imports it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from app.bundle.manifest import Precision
from app.errors import BundleError, EngineFailed, ProviderError
from app.features.arrays import Floats, Indices
from app.features.graph_inputs import Batch, Scores, feed, graph_inputs
from app.features.layout import Layout, RowShape
from app.scoring.job import Scoring

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_largest = np.maximum.reduce
_WARNING, _FATAL = 2, 4
"""Least severe lines of onnxruntime's own log: as it begins, and none."""
_NOT_LOADED = re.compile(r"^Failed to load ([^\s:]+):", re.MULTILINE)
_SOURCE = re.compile(r"^/\S+:\d+ .*\(.*?\) ")
"""The place in onnxruntime's source with which some of its messages begin."""
# A program that uses this package may have imported onnxruntime before it.
ort.disable_telemetry_events()
TOLERANCE = {CPU: 1e-4, CUDA: 1e-3}
"""Largest difference of a logit from the trainer's, by provider (float32)."""
INT8_TOLERANCE = 1e-3
"""Largest difference of an int8 graph's logit from the logit of the same graph at export."""


def _below(indices: Indices, bound: int) -> bool:
    return not indices.size or int(_largest(indices.view(np.uint32), axis=None)) < bound


def _indices(rows: Indices, shape: RowShape) -> Indices:
    return rows[:, : shape.indices] if shape.values else rows


class Engine:
    """One onnxruntime session.

    ``provider`` is the execution provider that the session really uses. ``fallback`` is the
    reason where ``auto`` could not use CUDA, else None.
    """

    in_flight = 1
    """Batches that it can score at once."""

    def __init__(
        self,
        graph: Path,
        layout: Layout,
        context: RowShape,
        candidate: RowShape,
        provider: str = "cpu",
        threads: int = 1,
        precision: Precision = "float32",
    ) -> None:
        """Load a graph.

        Raises:
            ProviderError: ``cuda`` was asked for and cannot be used, as always for int8.
            BundleError: the graph cannot be loaded, or has other inputs than the layout.
        """
        self.threads = threads
        self.precision = precision
        self.fallback: str | None = None
        self._table_rows = layout.table_rows
        self._context, self._candidate = context, candidate
        if provider != "cpu":
            on_cpu_only = "an int8 graph runs on the CPU" if precision == "int8" else None
            self.fallback = on_cpu_only or cuda_problem()
            if provider == "cuda" and self.fallback:
                raise ProviderError(f"CUDA was asked for and cannot be used: {self.fallback}")
        self._session = self.load(graph, use_cuda=provider != "cpu" and self.fallback is None)
        if provider != "cpu" and self.fallback is None and self.provider != CUDA:
            self.fallback = "onnxruntime could not create a CUDA session; its log says why"
            if provider == "cuda":
                raise ProviderError(f"CUDA was asked for and cannot be used: {self.fallback}")
        self._check_inputs(layout)

    @property
    def provider(self) -> str:
        """The execution provider in use, as the session reports it."""
        return str(self._session.get_providers()[0])

    @property
    def batch_rows(self) -> int | None:
        """The largest batch to gather; None leaves it to the settings."""
        return None

    def ways(self) -> Sequence[Scoring]:
        """Return each way in which a batch may be scored; golden requests are, in all of them."""
        return (self,)

    def described(self) -> dict[str, Any] | None:
        """Return what operators are told of a device; None without one."""
        return None

    @property
    def tolerance(self) -> float:
        """Largest difference of a logit on this provider from the logit at export."""
        return INT8_TOLERANCE if self.precision == "int8" else TOLERANCE[self.provider]

    def load(self, graph: Path, use_cuda: bool = False) -> ort.InferenceSession:
        """Return a session of a graph with as many threads as this engine has.

        Raises:
            BundleError: the graph cannot be loaded.
        """
        options = session_options(self.threads)
        providers: list[str | tuple[str, dict[str, str]]] = [CPU]
        if use_cuda:
            providers.insert(0, (CUDA, {"use_tf32": "0"}))
        try:
            return ort.InferenceSession(str(graph), options, providers=providers)
        except Exception as error:
            raise BundleError(f"{graph.name} cannot be loaded: {error}") from error

    def _check_inputs(self, layout: Layout) -> None:
        wanted = {each.name for each in graph_inputs(layout)}
        present = {node.name for node in self._session.get_inputs()}
        if present != wanted:
            raise BundleError(
                f"the graph's inputs {sorted(present)} are not the spec's {sorted(wanted)}"
            )

    def score(self, batch: Batch) -> Scores:
        """Score a batch; every index is checked against the table first.

        Raises:
            EngineFailed: an index is out of bounds, the run failed, or it did not give one
                score for each row.
        """
        self.check_bounds(batch)
        return scores_of(self._session, self.feed(batch), len(batch.candidate))

    def feed(self, batch: Batch) -> dict[str, Indices | Floats]:
        """Return the arrays that the graph takes, by input."""
        return feed(batch, self._context, self._candidate)

    def check_bounds(self, batch: Batch) -> None:
        """Check every index.

        Raises:
            EngineFailed: an index is outside the table.
        """
        # As unsigned numbers, negative indices are above every bound: one comparison checks both.
        if not (
            _below(_indices(batch.context, self._context), self._table_rows)
            and _below(_indices(batch.candidate, self._candidate), self._table_rows)
            and _below(batch.row_context, len(batch.context))
        ):
            raise EngineFailed("an index is outside the table")

    def warm_up(self, rows: Sequence[int] = (1, 2, 3, 16, 64, 256, 1000)) -> None:
        """Run once at several sizes, so that the first callers do not wait for allocations."""
        for count in rows:
            for contexts in {1, count}:
                self.score(
                    Batch(
                        np.zeros((contexts, self._context.width), np.int32),
                        np.zeros((count, self._candidate.width), np.int32),
                        np.arange(count, dtype=np.int32) % contexts,
                    )
                )


def session_options(threads: int) -> ort.SessionOptions:
    """Return the options that all sessions have."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def run(
    session: ort.InferenceSession, outputs: Sequence[str], arrays: Mapping[str, Indices | Floats]
) -> list[Floats]:
    """Return some outputs of a graph.

    Raises:
        EngineFailed: the run failed.
    """
    try:
        found: list[Floats] = session.run(outputs, arrays)
    except Exception as error:
        raise EngineFailed(f"the engine failed: {type(error).__name__}") from error
    return found


def scores_of(
    session: ort.InferenceSession, arrays: Mapping[str, Indices | Floats], rows: int
) -> Scores:
    """Return a graph's logit and score of each row.

    Raises:
        EngineFailed: the run failed, or did not give one score for each row.
    """
    logit, score = run(session, Scores._fields, arrays)
    if logit.shape != (rows,) or score.shape != logit.shape:
        raise EngineFailed("the engine did not return one score for each row")
    return Scores(logit, score)


def cuda_problem() -> str | None:
    """Return the reason why CUDA cannot be used on this machine; None if it can."""
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime was built without CUDA"
    missing: list[str] = []
    if hasattr(ort, "preload_dlls"):
        # It prints what it cannot load.
        with redirect_stdout(StringIO()) as printed:
            ort.preload_dlls()
        missing = _NOT_LOADED.findall(printed.getvalue())
    # What it writes into the log by itself is no line of ours.
    ort.set_default_logger_severity(_FATAL)
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", 0)
    except Exception as error:
        reason = _SOURCE.sub("", str(error).splitlines()[0])[:200]
        if missing:
            reason = f"{', '.join(missing)} cannot be loaded"
        return f"no usable CUDA device ({reason})"
    finally:
        ort.set_default_logger_severity(_WARNING)
    return None


def refuse_mixed_distributions() -> None:
    """Refuse an environment that has both onnxruntime distributions.

    They install into the same directory, so the one installed last replaces the other's files.

    Raises:
        ProviderError: both are installed.
    """
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    if len(found) > 1:
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other;"
            " uninstall both, then install one of them"
        )
