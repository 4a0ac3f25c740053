"""The bundle in use, and the service's readiness with the reason where it is not ready."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from app.errors import DeviceLost, NotOffered, NotReady
from app.explain.explaining import Explaining
from app.remote.vocabulary import RemoteVocabulary
from app.scoring.batcher import MicroBatcher
from app.scoring.scorer import Scorer
from app.serving.loading import Loaded
from app.serving.trial import Trial
from app.workers.shared_numbers import SharedNumbers

FAILURES = 3
"""Failed runs in a row after which the service is not ready and the engine is rebuilt."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class BundleInUse:
    """A loaded bundle with the batcher and the scorer that its requests go through."""

    loaded: Loaded
    batcher: MicroBatcher
    scorer: Scorer
    explaining: Explaining | None = None
    """Explanations of its scores, where the settings offer them."""

    @property
    def idle(self) -> bool:
        """True if none of its requests is being read, queued or scored."""
        return self.scorer.reading == 0 and self.batcher.idle


class ServingState:
    """The bundle in use, which every request looks up here when it begins.

    It is touched on the event loop only. The starter, a swap and the healer set ``in_use``; the
    batcher of the bundle in use reports each run.
    """

    def __init__(self, shared: SharedNumbers) -> None:
        self._shared = shared
        self._failures = 0
        self.in_use: BundleInUse | None = None
        self.trial: Trial | None = None
        """The trial that requests take part in, while there is one."""
        self.awaited_vocabulary: RemoteVocabulary | None = None
        """The vocabulary that the first bundle waits for."""
        self.refused: str | None = None
        """The reason for which another bundle could not take the place of this one."""
        self.draining = False
        self.failure: str | None = None
        """The reason for which the service cannot start or continue: it ends."""
        self.ending = asyncio.Event()
        """Wakes the server that is to end."""
        self.engine_failing = asyncio.Event()
        self.engine_hangs = False
        """A run of the engine does not end, and its thread cannot be taken back."""
        self.device_lost = False
        """The engine's device works no more in this process."""

    @property
    def loaded(self) -> Loaded | None:
        """The bundle in use, if there is one."""
        return None if self.in_use is None else self.in_use.loaded

    @property
    def scorer(self) -> Scorer:
        """The scorer of the bundle in use.

        Raises:
            NotReady: no bundle is in use yet.
        """
        if self.in_use is None:
            raise NotReady(self.not_ready)
        return self.in_use.scorer

    @property
    def idle(self) -> bool:
        """True if the bundle in use has no requests."""
        return self.in_use is None or self.in_use.idle

    @property
    def explaining(self) -> Explaining:
        """Explanations of the bundle in use.

        Raises:
            NotReady: no bundle is in use yet.
            NotOffered: the settings do not offer them.
        """
        if self.in_use is None:
            raise NotReady(self.not_ready)
        if self.in_use.explaining is None:
            raise NotOffered("explanations are switched off: see CTR_EXPLAIN")
        return self.in_use.explaining

    @property
    def not_ready(self) -> str:
        """The reason why the service is not ready."""
        if self.engine_hangs:
            return "the engine hangs"
        if self.device_lost:
            return "the GPU is lost"
        if self.engine_failing.is_set():
            return "the engine fails"
        if self.in_use is not None:
            return "other workers are still being started"
        if self.awaited_vocabulary is None:
            return "the bundle is still being loaded"
        return f"the vocabulary is not there yet: {self.awaited_vocabulary.problem}"

    @property
    def lacks_vocabulary(self) -> bool:
        """True if the first bundle waits for a vocabulary that is not there."""
        awaited = self.awaited_vocabulary
        return awaited is not None and awaited.breaker.open_after_probe

    @property
    def ready(self) -> bool:
        """True if this worker is ready, and the others are or have been."""
        works = not (self.engine_failing.is_set() or self.engine_hangs or self.device_lost)
        return self.in_use is not None and works and self._shared.started

    def use(self, bundle: BundleInUse) -> None:
        """Let every request that begins from now on be scored by this bundle."""
        self.in_use = bundle
        self.awaited_vocabulary = None
        self.refused = None
        self.engine_ran()

    def fail(self, problem: str) -> None:
        """End the service, which cannot start or continue."""
        self.failure = problem
        self.ending.set()

    def engine_ran(self) -> None:
        """Note that a run of the engine gave scores."""
        if self._failures:
            self._failures = 0
            self.engine_failing.clear()

    def engine_hung(self) -> None:
        """Note that a run does not end: this process must, so that another one replaces it."""
        self.engine_hangs = True
        self.fail("the engine hangs: a run did not end in time")

    def engine_failed(self, error: BaseException) -> None:
        """Note a failed run; after ``FAILURES`` of them in a row the engine counts as failing.

        After a lost device no engine of this process works on it: another process must.
        """
        if isinstance(error, DeviceLost) and not self.device_lost:
            self.device_lost = True
            self.fail(str(error))
        self._failures += 1
        if self._failures == FAILURES:
            log.error("the engine failed %d times in a row: %s", FAILURES, error)
            self.engine_failing.set()
