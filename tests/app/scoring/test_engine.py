"""The engine tells its provider, and runs nothing that could read beside the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.errors import BundleError, EngineFailed, ProviderError
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring import engine as module
from app.scoring.engine import CPU, CUDA, TOLERANCE, Engine

NO_CUDA = module.cuda_problem()
TABLE_END = "first index behind the table"


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def start(bundle: Bundle) -> Callable[..., Engine]:
    """Loads the bundle's graph."""
    encoder = Encoder(bundle.spec, bundle.vocabulary)

    def start(provider: str = "cpu", graph: Path = bundle.graph) -> Engine:
        shapes = encoder.context.shape, encoder.candidate.shape
        return Engine(graph, bundle.vocabulary.layout, *shapes, provider)

    return start


@pytest.fixture(scope="module")
def engine(start: Callable[..., Engine]) -> Engine:
    return start()


def batch(bundle: Bundle, contexts: int = 2, rows: int = 3) -> Batch:
    """A batch of missing values."""
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    context = np.frombuffer(encoder.context.row({"placement": "top"}), np.int32)
    candidate = np.frombuffer(encoder.candidate.row({}), np.int32)
    return Batch(
        np.tile(context, (contexts, 1)),
        np.tile(candidate, (rows, 1)),
        (np.arange(rows) % max(contexts, 1)).astype(np.int32),
    )


def test_cpu_is_what_it_says(engine: Engine) -> None:
    """Where CPU was asked for, CPU runs, and nothing fell back."""
    assert (engine.provider, engine.fallback) == (CPU, None)
    assert engine.tolerance == TOLERANCE[CPU] == 1e-4


@pytest.mark.skipif(NO_CUDA is None, reason="this machine has a usable GPU")
def test_without_cuda_auto_says_why_and_cuda_refuses(start: Callable[..., Engine]) -> None:
    """The provider is the session's own word; a fallback has its reason."""
    engine = start("auto")
    assert engine.provider == CPU
    assert engine.fallback == NO_CUDA
    with pytest.raises(ProviderError, match="CUDA was asked for"):
        start("cuda")


@pytest.mark.skipif(NO_CUDA is not None, reason=f"no CUDA: {NO_CUDA}")
def test_with_cuda_both_use_it(start: Callable[..., Engine]) -> None:
    """On a GPU, auto and cuda run there, and say so."""
    for provider in ("auto", "cuda"):
        engine = start(provider)
        assert (engine.provider, engine.fallback) == (CUDA, None)


def test_a_cuda_library_without_a_device_is_no_cuda(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Engine]
) -> None:
    """The list of built-in providers is no proof: a device must take an array."""
    monkeypatch.setattr(module.ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(module.ort, "preload_dlls", lambda: None)

    def refuse(*_: object) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device\nand a long trace")

    monkeypatch.setattr(module.ort.OrtValue, "ortvalue_from_numpy", refuse)
    with pytest.raises(ProviderError, match="no usable CUDA device") as caught:
        start("cuda")
    assert "\n" not in str(caught.value)
    assert start("auto").provider == CPU


@pytest.mark.parametrize("index", [TABLE_END, -1, 10**9, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("side", ["context", "candidate"])
@pytest.mark.parametrize("place", [0, -1])
def test_an_index_outside_the_table_never_runs(
    engine: Engine, bundle: Bundle, index: int | str, side: str, place: int
) -> None:
    """Too large, negative or absurd, in a single slot or a list: refused before the run."""
    end = bundle.vocabulary.layout.table_rows
    wrong = batch(bundle)
    rows = getattr(wrong, side).copy()
    rows[-1, place] = end if index == TABLE_END else index
    with pytest.raises(EngineFailed, match="outside the table"):
        engine.score(wrong._replace(**{side: rows}))
    rows[-1, place] = end - 1
    assert len(engine.score(wrong._replace(**{side: rows})).logit) == 3


@pytest.mark.parametrize("owner", [2, -1, 10**9])
def test_a_row_of_no_context_never_runs(engine: Engine, bundle: Bundle, owner: int) -> None:
    """row_context is bound by the number of contexts."""
    wrong = batch(bundle)
    with pytest.raises(EngineFailed):
        engine.score(wrong._replace(row_context=np.array([0, 1, owner], np.int32)))
    with pytest.raises(EngineFailed):
        engine.score(batch(bundle, contexts=0, rows=1))


@pytest.mark.parametrize("contexts", [0, 1, 5])
def test_no_rows_give_no_scores(engine: Engine, bundle: Bundle, contexts: int) -> None:
    """A batch without candidates is scored like any other."""
    scores = engine.score(batch(bundle, contexts, 0))
    assert scores.logit.shape == scores.score.shape == (0,)


def test_a_score_is_the_sigmoid_of_its_logit(engine: Engine, bundle: Bundle) -> None:
    """Both outputs are float32, finite, and agree."""
    scores = engine.score(batch(bundle))
    assert scores.logit.dtype == scores.score.dtype == np.float32
    np.testing.assert_allclose(scores.score, 1 / (1 + np.exp(-scores.logit)), atol=1e-6)


def test_what_is_no_graph_is_refused_by_name(start: Callable[..., Engine], tmp_path: Path) -> None:
    """A file that onnxruntime cannot read is a bundle's error."""
    path = tmp_path / "score.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"score\.onnx cannot be loaded"):
        start(graph=path)
