"""From a bundle on disk to one that can serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import AddressError, ProviderError
from app.metrics.registry import Metrics
from app.serving.loading import Loader, engine_threads, load, open_bundle
from app.settings import Settings
from app.workers.shared_numbers import SharedNumbers

pytestmark = pytest.mark.anyio


async def test_a_loaded_bundle_is_verified_and_warm(tiny_bundle: Path) -> None:
    """Its golden examples agree within the tolerance, with the threads that were asked for."""
    metrics = Metrics(SharedNumbers())
    loader = Loader(Settings(bundle=tiny_bundle, engine_threads=2), metrics.remote)
    loaded = await loader.load(tiny_bundle)
    assert loaded.bundle.path == tiny_bundle
    assert loaded.worst_difference <= loaded.engine.tolerance
    assert loaded.engine.threads == 2
    assert loaded.remote is None
    assert loaded.seconds > 0


async def test_a_new_engine_serves_the_same_bundle(tiny_bundle: Path) -> None:
    """Nothing else is loaded again."""
    loader = Loader(Settings(bundle=tiny_bundle), Metrics(SharedNumbers()).remote)
    loaded = await loader.load(tiny_bundle)
    renewed = await loader.with_new_engine(loaded)
    assert renewed.engine is not loaded.engine
    assert (renewed.bundle, renewed.encoder) == (loaded.bundle, loaded.encoder)


def test_an_opened_bundle_is_shared_only_where_its_vocabulary_is_in_memory(
    tiny_bundle: Path,
) -> None:
    """Through Redis each worker has an encoder of its own, over its own cache."""
    assert open_bundle(Settings(bundle=tiny_bundle), tiny_bundle).encoder is not None
    remote = Settings(bundle=tiny_bundle, redis_url="redis://127.0.0.1:1")
    assert open_bundle(remote, tiny_bundle).encoder is None


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"redis_url": "http://127.0.0.1"}, AddressError, "setting redis_url: "),
        ({"provider": "cuda"}, ProviderError, "CUDA"),
    ],
    ids=["redis", "cuda"],
)
def test_what_the_settings_ask_for_and_cannot_be_is_an_error(
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    """The error names the setting or the provider; nothing else is used instead."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    chosen = Settings(bundle=tiny_bundle, **settings)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        load(chosen, Metrics(SharedNumbers()).remote, open_bundle(chosen, tiny_bundle))


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (8, 4, 1), (2, 4, 1)],
)
def test_an_engine_leaves_a_cpu_to_its_event_loop(cpus: int, workers: int, threads: int) -> None:
    """A worker's part of the CPUs, less one, but at least one thread."""
    assert engine_threads(cpus, workers) == threads
