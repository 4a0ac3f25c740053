"""The engine tells its provider, and runs nothing that could read beside the table."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.errors import BundleError, EngineFailed, ProviderError
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.scoring import engine as module
from app.scoring.engine import CPU, CUDA, TOLERANCE, Engine, cpu_quota

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


V1 = "sys/fs/cgroup/cpu"
V2 = "sys/fs/cgroup"
SERVICE = {"proc/self/cgroup": "0::/system.slice/ctr.service\n"}
CONTAINER = {"proc/self/cgroup": "4:cpu,cpuacct:/docker/0a\n0::/docker/0a\n"}


@pytest.mark.parametrize(
    ("files", "cores", "quota"),
    [
        ({f"{V2}/cpu.max": "200000 100000\n"}, 16, 2),
        ({f"{V2}/cpu.max": "150000 100000\n"}, 16, 1),
        ({f"{V2}/cpu.max": "50000 100000\n"}, 16, 1),
        ({f"{V2}/cpu.max": "max 100000\n"}, 16, 16),
        ({f"{V2}/cpu.max": "800000 100000\n"}, 4, 4),
        ({f"{V2}/cpu.max": "rubbish"}, 3, 3),
        ({f"{V1}/cpu.cfs_quota_us": "300000\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 16, 3),
        ({f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"}, 5, 5),
        ({f"{V1}/cpu.cfs_quota_us": "300000\n"}, 6, 6),
        ({**SERVICE, f"{V2}/system.slice/ctr.service/cpu.max": "200000 100000\n"}, 16, 2),
        ({**SERVICE, f"{V2}/system.slice/cpu.max": "500000 100000\n",
          f"{V2}/system.slice/ctr.service/cpu.max": "max 100000\n"}, 16, 5),
        ({**SERVICE, f"{V2}/system.slice/other.service/cpu.max": "200000 100000\n"}, 16, 16),
        ({**CONTAINER, f"{V1}/docker/0a/cpu.cfs_quota_us": "250000\n",
          f"{V1}/docker/0a/cpu.cfs_period_us": "100000\n"}, 16, 2),
        ({**CONTAINER, f"{V1}/cpu.cfs_quota_us": "400000\n",
          f"{V1}/cpu.cfs_period_us": "100000\n"}, 16, 4),
        ({**CONTAINER, f"{V2}/cpu.max": "300000 100000\n"}, 16, 3),
        ({"proc/self/cgroup": "0::/../outside\n", f"{V2}/cpu.max": "200000 100000\n"}, 16, 2),
        ({}, 7, 7),
    ],
)  # fmt: skip
def test_threads_follow_the_quota_not_the_machine(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    cores: int,
    quota: int,
) -> None:
    """The least that any of a process' cgroups allows counts, of either version; at least one."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "Path", lambda text: tmp_path / text.lstrip("/"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert cpu_quota() == quota
