"""From a bundle on disk to one that can serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import AddressError, ProviderError
from app.features import hot_values
from app.features.field_encoders import CategoricalEncoder
from app.metrics.registry import Metrics
from app.serving.engines import Engines
from app.serving.loading import Loader, load, open_bundle
from app.settings import Settings
from app.workers.shared_numbers import SharedNumbers

pytestmark = pytest.mark.anyio


def make_loader(settings: Settings) -> Loader:
    shared = SharedNumbers()
    return Loader(settings, Metrics(shared), Engines(settings, shared))


async def test_a_loaded_bundle_is_verified_and_warm(tiny_bundle: Path) -> None:
    """Its golden examples agree within the tolerance, with the threads that were asked for."""
    loader = make_loader(Settings(bundle=tiny_bundle, engine_threads=2))
    loaded = await loader.load(tiny_bundle)
    assert loaded.bundle.path == tiny_bundle
    assert loaded.worst_difference <= loaded.engine.tolerance
    assert loaded.engine.threads == 2
    assert loaded.remote is None
    assert loaded.seconds > 0


async def test_a_large_vocabulary_is_served_from_its_hot_values(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a few values in memory the golden examples come out as they did."""
    monkeypatch.setattr(hot_values, "WHOLE_VALUES", 0)
    monkeypatch.setattr(hot_values, "KEPT_VALUES", 10)
    loaded = await make_loader(Settings(bundle=tiny_bundle)).load(tiny_bundle)
    assert loaded.worst_difference <= loaded.engine.tolerance
    lookups = [
        encoder.lookup
        for encoder in loaded.encoder.context.encoders
        if isinstance(encoder, CategoricalEncoder) and encoder.lookup.find is not None
    ]
    assert lookups
    assert all(len(lookup.known) <= 10 + len([None, ""]) for lookup in lookups)


async def test_a_new_engine_serves_the_same_bundle(tiny_bundle: Path) -> None:
    """Nothing else is loaded again."""
    loader = make_loader(Settings(bundle=tiny_bundle))
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
    opened = open_bundle(chosen, tiny_bundle)
    shared = SharedNumbers()
    with pytest.raises(error, match=message):
        load(chosen, Metrics(shared), Engines(chosen, shared), opened)
