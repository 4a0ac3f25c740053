"""The bundle that each worker has prepared, serves or has refused, shown to the other workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from app.bundle.bundle import Bundle
from app.bundle.directory import is_bundle
from app.errors import BundleError
from app.serving.versions import Attempt
from app.workers.shared_numbers import SharedNumbers

AGREE_SECONDS, LOOK_SECONDS = 120.0, 0.02
"""Seconds that a worker waits for the others to have loaded a bundle too, and between looks."""


class Agreement:
    """A swap happens in all workers or in none: each waits until the others could do it too.

    The workers tell each other by numbers in shared memory, of which each writes its own only:
    the number of the bundle that it could serve at once, of the one that it serves, and of the
    last attempt that it refused.
    """

    def __init__(self, shared: SharedNumbers) -> None:
        self._shared = shared
        self._prepared = shared.region("prepared bundle", 1)
        self._serving = shared.region("serving bundle", 1)
        self._refused = shared.region("refused attempt", 1)

    def prepare(self, bundle: int) -> None:
        """Tell the others that this worker could serve a bundle, or serves it again."""
        self._prepared.own[0] = bundle

    def serve(self, bundle: int) -> None:
        """Tell the others that this worker serves a bundle."""
        self._serving.own[0] = bundle

    def refuse(self, attempt: Attempt, serving: int) -> None:
        """Tell the others that this worker refused an attempt, and which bundle it keeps.

        A worker that took the refused bundle's number with it into its death would have its
        successor load that bundle.
        """
        self._refused.own[0] = attempt.number
        self._prepared.own[0] = serving

    def reached(self, bundle: int) -> bool:
        """True if all workers have told that they serve a bundle."""
        return all(each == bundle for each in self._serving.each())

    async def wait(self, attempt: Attempt) -> None:
        """Wait until every worker has prepared the same bundle.

        Raises:
            BundleError: one of them refused it, or is not done in time.
        """
        try:
            async with asyncio.timeout(AGREE_SECONDS):
                while not self._prepared.equal():
                    if attempt.number in self._refused.each():
                        raise BundleError("another worker cannot serve it")
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise BundleError("another worker is not able to serve it yet") from None

    def in_use(self, bundle: Path, opened: Bundle | None = None) -> Path | None:
        """Return the bundle that the other workers serve, for one that takes a dead one's place.

        The newest bundle, or the one that ``CURRENT`` or a link leads to, is no answer: it may
        have been refused. ``bundle`` is a directory of bundles, or a link to one that has others
        beside it; ``opened`` is the one that the service began with.
        """
        if not self._shared.started or not bundle.is_dir():
            return None
        numbers = {int(number) for number in self._prepared.each()}
        if opened is not None and opened.number in numbers:
            return opened.path
        ends = {f"-{number:012x}" for number in numbers}
        directory = bundle.resolve().parent if is_bundle(bundle) else bundle
        return next((path for path in directory.glob("[0-9]*") if path.name[-13:] in ends), None)
