"""From a bundle on disk to one that can serve: opened, verified on its provider, warm."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from app.bundle.bundle import Bundle
from app.bundle.verified_files import VerifiedFiles
from app.catalogue.follower import Follower
from app.errors import AddressError
from app.explain.explainer import Explainer
from app.features.encoder import Encoder
from app.features.hot_values import serving_encoder
from app.features.keys import TextKey
from app.metrics.registry import Metrics, RemoteMetrics
from app.off_loop import run_off_loop
from app.profiles.stored import StoredProfiles
from app.remote.address import Address
from app.remote.link import open_link
from app.remote.vocabulary import CONNECTIONS, RemoteVocabulary
from app.scoring.engine import Engine, refuse_mixed_distributions
from app.scoring.job import Scoring
from app.scoring.part_scoring import PartScoring
from app.scoring.split_engine import SplitEngine
from app.serving.engines import Engines
from app.serving.item_parts import parts_opener
from app.serving.stored import item_key, stored_profiles
from app.settings import Settings


class Opened(NamedTuple):
    """A bundle whose hashes agree, and its encoder where the vocabulary is kept in memory.

    Workers can share it: nothing of it knows a thread, a loop or an engine.
    """

    bundle: Bundle
    encoder: Encoder | None


def open_bundle(settings: Settings, path: Path) -> Opened:
    """Open a bundle.

    Raises:
        BundleError: it does not verify.
    """
    bundle = Bundle.open(path, mapped=True, verified=VerifiedFiles(settings.verified_files))
    in_memory = settings.redis_url is None
    return Opened(bundle, serving_encoder(bundle.spec, bundle.vocabulary) if in_memory else None)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A verified bundle with its encoder and its warm engine.

    ``worst_difference`` is the largest distance of a golden example's logit from the trainer's,
    ``seconds`` what loading took.
    """

    bundle: Bundle
    encoder: Encoder
    engine: Engine
    worst_difference: float
    seconds: float
    remote: RemoteVocabulary | None = None
    precision_reason: str | None = None
    """The reason for the engine's precision, where the settings leave it to the service."""
    items: Follower | None = None
    """The catalogue, where the settings name a store."""
    split: SplitEngine | None = None
    """The split graphs, where items are scored through them."""
    profiles: StoredProfiles | None = None
    """The profiles of the store, where the settings say which field is their key."""
    item_key: tuple[str, TextKey] | None = None
    """The field of an instance that has an item's id, and how its values are read."""
    explainer: Explainer | None = None
    """The explainer of its scores, where the settings offer explanations."""

    @property
    def scoring(self) -> Scoring:
        """The scorer of batches: the engine, and the split graphs where item parts are held."""
        parts = None if self.items is None else self.items.catalogue.parts
        if self.split is None or parts is None:
            return self.engine
        return PartScoring(self.engine, self.split, parts.arrays)

    async def read_items(self, undo: AsyncExitStack, may_be_gone: bool = False) -> None:
        """Read the catalogue, where the settings name a store, and reach its profiles; ``undo``
        closes both.

        The store ``may_be_gone`` where other workers serve already what they have read of it.

        Raises:
            CtrError: the store cannot be used.
        """
        if self.items is not None:
            undo.push_async_callback(self.items.close)
            await self.items.fill(may_be_gone)
        if self.profiles is not None:
            undo.push_async_callback(self.profiles.close)
            await self.profiles.reach()

    async def reach_vocabulary(self) -> None:
        """Begin to ask Redis, and wait for the vocabulary there unless something may replace it.

        With the bundle's own copy in reserve there is no reason to wait for more than a first try.
        """
        assert self.remote is not None
        self.remote.start()
        await self.remote.breaker.probed()
        if self.remote.fallback != "snapshot":
            await self.remote.breaker.reached()


class Loader:
    """Loads bundles in a thread, so that the event loop goes on serving."""

    def __init__(self, settings: Settings, metrics: Metrics, engines: Engines) -> None:
        self._settings = settings
        self._metrics = metrics
        self._engines = engines

    async def load(
        self, path: Path, opened: Opened | None = None, *, item_parts: bool = True
    ) -> Loaded:
        """Load a bundle; ``opened`` is the one at ``path``, if it was opened before.

        Without ``item_parts`` the items of a catalogue are scored from their indices.

        Raises:
            CtrError: it cannot be served; as ``open_bundle`` and ``load``.
        """
        settings = self._settings

        def work() -> Loaded:
            found = opened or open_bundle(settings, path)
            return load(settings, self._metrics, self._engines, found, item_parts)

        return await run_off_loop(work)

    async def with_new_engine(self, loaded: Loaded) -> Loaded:
        """Return the same bundle with a new engine, in the precision that it had.

        Raises:
            BundleError, ProviderError: as ``Engines.start``.
        """
        engines, precision = self._engines, loaded.engine.precision
        started = await run_off_loop(
            lambda: engines.start_in(precision, loaded.bundle, loaded.encoder)
        )
        return replace(
            loaded,
            engine=started.engine,
            split=started.split,
            explainer=started.explainer,
            worst_difference=started.worst_difference,
        )


def load(
    settings: Settings,
    metrics: Metrics,
    engines: Engines,
    opened: Opened,
    item_parts: bool = True,
) -> Loaded:
    """Verify an opened bundle on the provider that will serve, and warm it up.

    Raises:
        BundleError: its golden examples do not come out as they did.
        StoreError: what a store has is asked for without one.
        AddressError: the settings do not say how to reach Redis.
        ProviderError: the provider that was asked for cannot be used.
    """
    start = perf_counter()
    refuse_mixed_distributions()
    remote: RemoteVocabulary | None = None
    bundle, encoder = opened
    if encoder is None:
        remote = remote_vocabulary(settings, bundle, metrics.remote)
        encoder = Encoder(bundle.spec, bundle.vocabulary, remote.cache.tables)
        remote.learn(bundle, encoder)
    started = engines.start(bundle, encoder)
    split = started.split if item_parts else None
    items = None
    if settings.store is not None:
        opener = parts_opener(settings, engines.shared, bundle, split)
        url = settings.store.get_secret_value()
        items = Follower(url, bundle.spec, encoder.candidate, remote, opener)
    return Loaded(
        bundle,
        encoder,
        started.engine,
        started.worst_difference,
        perf_counter() - start,
        remote,
        started.reason,
        items,
        split,
        stored_profiles(settings, bundle, encoder, metrics),
        item_key(settings, bundle, encoder),
        started.explainer,
    )


def remote_vocabulary(
    settings: Settings, bundle: Bundle, remote_metrics: RemoteMetrics
) -> RemoteVocabulary:
    """Prepare to read the bundle's vocabulary through Redis; nothing is connected yet.

    Raises:
        AddressError: the settings do not say how to reach it.
    """
    assert settings.redis_url is not None
    url = settings.redis_url.get_secret_value()
    try:
        link = open_link(Address.parse(url), CONNECTIONS, settings.redis_password_file)
    except AddressError as error:
        raise AddressError(f"setting redis_url: {error}") from error
    return RemoteVocabulary(
        bundle,
        link,
        settings.vocabulary_fallback,
        settings.vocabulary_cache,
        settings.redis_timeout_ms / 1000,
        remote_metrics,
    )
