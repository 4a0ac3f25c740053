"""The engine of a bundle, in the precision that was asked for or the faster one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import INT8_GRAPH
from app.features.encoder import Encoder
from app.serving import engines
from app.serving.engines import Engines, StartedEngine, engine_threads, largest_ratio
from app.settings import Settings
from app.workers.shared_numbers import SharedNumbers


def started(bundle: Path, shared: SharedNumbers | None = None) -> StartedEngine:
    """Start the engine of a bundle with ``precision=auto``, as a worker does."""
    opened = Bundle.open(bundle)
    settings = Settings(bundle=bundle, precision="auto")
    found = Engines(settings, shared or SharedNumbers())
    return found.start(opened, Encoder(opened.spec, opened.vocabulary))


def test_auto_measures_both_and_says_so(tiny_bundle: Path) -> None:
    """The figure and the choice agree."""
    found = started(tiny_bundle)
    assert found.reason is not None
    assert found.reason.startswith("int8 takes ")
    ratio = float(found.reason.split()[2])
    assert ratio > 0
    if ratio != 1:
        assert found.engine.precision == ("int8" if ratio < 1 else "float32")
    assert found.worst_difference <= found.engine.tolerance


@pytest.mark.parametrize(("ratio", "precision"), [(0.6, "int8"), (1.2, "float32")])
def test_the_first_worker_measures_for_all(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, precision: str
) -> None:
    """Scores do not depend on the worker; another bundle is measured for itself."""
    measured = iter((ratio, 2.0))
    monkeypatch.setattr(engines, "largest_ratio", lambda *given: next(measured))
    shared = SharedNumbers(2)
    for worker in (0, 1, 0):
        shared.begin_worker(worker)
        found = started(tiny_bundle, shared)
        assert found.engine.precision == precision
        assert found.reason == f"int8 takes {ratio:.2f} x the time of float32"
    assert started(tiny_bundle).engine.precision == "float32"


def test_auto_takes_float32_where_int8_cannot_be_used(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is told: no such graph, or one whose golden requests score differently."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    opened = Bundle.open(bundle)
    encoder = Encoder(opened.spec, opened.vocabulary)
    found = Engines(Settings(bundle=bundle, precision="auto"), SharedNumbers())
    for example in opened.examples:
        assert example.int8_logits is not None
        example.int8_logits[0] += 1
    differing = found.start(opened, encoder)
    assert differing.engine.precision == "float32"
    assert str(differing.reason).startswith("its int8 graph cannot be used: ")
    del opened.manifest.files[INT8_GRAPH]
    without = found.start(opened, encoder)
    assert (without.engine.precision, without.reason) == (
        "float32",
        "the bundle has no int8 graph",
    )


def test_the_ratio_is_that_of_the_size_where_an_engine_compares_worst(tiny_bundle: Path) -> None:
    """An engine that is slow with lists alone is slow."""
    opened = Bundle.open(tiny_bundle)
    encoder = Encoder(opened.spec, opened.vocabulary)
    found = Engines(Settings(bundle=tiny_bundle), SharedNumbers())
    one, slow = (found.start(opened, encoder).engine for _ in range(2))
    score = slow.score

    def score_lists_slowly(batch):  # type: ignore[no-untyped-def]
        for _ in range(50 if len(batch.candidate) == 256 else 1):
            scores = score(batch)
        return scores

    slow.score = score_lists_slowly  # type: ignore[method-assign]
    assert largest_ratio(opened, encoder, slow, one) > 5


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (8, 4, 1), (2, 4, 1)],
)
def test_an_engine_leaves_a_cpu_to_its_event_loop(cpus: int, workers: int, threads: int) -> None:
    """A worker's part of the CPUs, less one, but at least one thread."""
    assert engine_threads(cpus, workers) == threads
