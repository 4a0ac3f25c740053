"""The bundles of the directory, and the operator's choice among them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from app.bundle.directory import (
    CURRENT,
    complete_bundles,
    is_bundle,
    read_current,
    write_current,
)
from app.bundle.manifest import read_manifest
from app.errors import ActivationRefused, BundleError, NotFound, NotReady
from app.off_loop import run_off_loop
from app.serving.agreement import Agreement
from app.serving.state import ServingState
from app.serving.swap import Swapper
from app.serving.trial_figures import ShownTrial, show_trial
from app.serving.trials import Trials

ACTIVATION_SECONDS = 180.0
"""Seconds that a bundle may take to be loaded, and agreed on by all workers."""
LOOK_SECONDS = 0.02
log = logging.getLogger(__name__)


State = Literal["serving", "canary", "shadow", "refused", "held", "unreadable", "available"]


class Listed(BaseModel):
    """A bundle of the directory; ``reason`` says what is wrong with it, if anything is."""

    version: str
    created: str | None
    network: str | None
    state: State
    reason: str | None


class Listing(BaseModel):
    """All bundles, the newest first; ``current`` is what the file ``CURRENT`` holds."""

    serving: str | None
    current: str | None
    bundles: list[Listed]
    trial: ShownTrial | None = None


class Activated(BaseModel):
    """The bundle in use now, and the one before."""

    version: str
    previous: str


class Activation:
    """Lists and activates the bundles that a service may serve.

    The file ``CURRENT`` is what decides, for all workers and after a restart; this only writes it
    and watches what comes of it.
    """

    def __init__(
        self, state: ServingState, swapper: Swapper, agreement: Agreement, trials: Trials
    ) -> None:
        self._state = state
        self._swapper = swapper
        self._agreement = agreement
        self._trials = trials
        self._directory = swapper.versions.directory
        self._busy = asyncio.Lock()

    def list(self) -> Listing:
        """Look at every bundle; it reads the disk.

        Raises:
            ActivationRefused: the directory cannot be read.
        """
        serving = self._state.loaded.bundle.path if self._state.loaded else None
        if is_bundle(self._directory):
            shown = {self._directory.resolve(), *([serving] if serving else [])}
            return Listing(
                serving=serving.name if serving else None,
                current=None,
                bundles=[self._listed(path, serving) for path in sorted(shown)],
            )
        found = [self._listed(path, serving) for path in self._found()]
        found.sort(key=lambda each: (each.created or "", each.version), reverse=True)
        current = None
        with suppress(OSError):
            current = read_current(self._directory)
        return Listing(
            serving=serving.name if serving else None,
            current=None if current is None else current[:80].decode("utf-8", "replace").strip(),
            bundles=found,
            trial=show_trial(self._trials),
        )

    def _found(self) -> Sequence[Path]:
        try:
            return complete_bundles(self._directory)
        except BundleError as error:
            raise ActivationRefused(str(error)) from error

    def _listed(self, path: Path, serving: Path | None) -> Listed:
        try:
            manifest = read_manifest(path)
        except BundleError as error:
            return Listed(
                version=path.name, created=None, network=None, state="unreadable", reason=str(error)
            )
        versions = self._swapper.versions
        refusal = None if path == serving else versions.refusals.get(path)
        hold = versions.held.get(path.name)
        rollout = self._trials.rollout
        ended, candidate = rollout.stopped.get(path.name), rollout.candidate
        difference = versions.waiting.get(path.name)
        state: State = "available"
        reason = f"its requests differ: {difference}" if difference else None
        if path == serving:
            state = "serving"
        elif candidate is not None and candidate.version == path.name:
            state, reason = candidate.mode, None
        elif ended is not None:
            state, reason = "held", f"its trial ended: {ended.reason}"
        elif refusal:
            state, reason = "refused", refusal.reason
        elif hold:
            state, reason = "held", hold
        return Listed(
            version=path.name,
            created=manifest.created,
            network=manifest.network,
            state=state,
            reason=reason,
        )

    def path_of(self, version: str) -> Path:
        """The directory of a bundle that :meth:`list` names."""
        directory = self._directory
        return (directory.resolve().parent if is_bundle(directory) else directory) / version

    @property
    def directory(self) -> Path:
        """The directory of bundles, or the one bundle that the service was started with."""
        return self._directory

    async def find(self, version: str) -> Path:
        """Return a bundle of the directory.

        Raises:
            NotFound: there is none of that version.
            ActivationRefused: the directory cannot be read.
        """
        if await run_off_loop(lambda: is_bundle(self._directory)):
            raise NotFound("the service was started with one bundle, not a directory of them")
        if version not in {path.name for path in await run_off_loop(self._found)}:
            raise NotFound("there is no such bundle")
        return self._directory / version

    async def activate(self, version: str) -> Activated:
        """Serve a bundle, and keep to it; return when all workers do.

        Raises:
            NotFound: there is none of that version.
            NotReady: no bundle is served yet.
            ActivationRefused: it cannot be served, and the one before still is; or another
                activation is under way.
        """
        loaded = self._state.loaded
        if loaded is None:
            raise NotReady(self._state.not_ready)
        before = loaded.bundle.path
        if version == before.name and await run_off_loop(lambda: is_bundle(self._directory)):
            return Activated(version=version, previous=version)
        await self.find(version)
        if self._busy.locked():
            raise ActivationRefused("another activation is under way")
        async with self._busy:
            log.info("bundle %s is asked for; %s is in use", version, before.name)
            await self._point(version)
            return Activated(version=version, previous=before.name)

    async def follow_newest(self) -> None:
        """Undo the choice of a bundle: the newest is taken up again, or the next that comes.

        Raises:
            ActivationRefused: ``CURRENT`` cannot be removed, or an activation is under way.
        """
        if await run_off_loop(lambda: is_bundle(self._directory)):
            raise ActivationRefused(
                "the service was started with one bundle, not a directory of them"
            )
        if self._busy.locked():
            raise ActivationRefused("another activation is under way")
        async with self._busy:
            try:
                await run_off_loop(lambda: write_current(self._directory, None))
            except OSError as error:
                raise ActivationRefused(f"{CURRENT} cannot be removed: {error.strerror}") from error
            self._swapper.look()
        log.info("the newest bundle is followed again")

    async def _point(self, version: str) -> None:
        """Write ``CURRENT`` and wait; put back what it was if that comes to nothing."""
        try:
            kept = await run_off_loop(lambda: read_current(self._directory))
            chosen = await run_off_loop(
                lambda: write_current(self._directory, f"{version}\n".encode())
            )
        except OSError as error:
            raise ActivationRefused(f"{CURRENT} cannot be written: {error.strerror}") from error
        try:
            async with asyncio.timeout(ACTIVATION_SECONDS):
                await self._served(self._directory / version, chosen)
        except BaseException as error:
            await run_off_loop(lambda: write_current(self._directory, kept))
            self._swapper.look()
            if isinstance(error, TimeoutError):
                raise ActivationRefused(
                    f"it was not served within {ACTIVATION_SECONDS:g} s"
                ) from None
            raise

    async def _served(self, path: Path, chosen: int) -> None:
        """Wait until a bundle is served by all.

        Raises:
            ActivationRefused: it was refused after ``CURRENT`` had been written.
        """
        refusals = self._swapper.versions.refusals
        self._swapper.look()
        while not self._served_by_all(path):
            refusal = refusals.get(path)
            if refusal is not None and refusal.attempt.chosen == chosen:
                raise ActivationRefused(refusal.reason)
            await asyncio.sleep(LOOK_SECONDS)

    def _served_by_all(self, path: Path) -> bool:
        if self._state.loaded is None:
            return False
        bundle = self._state.loaded.bundle
        return bundle.path == path and self._agreement.reached(bundle.number)
