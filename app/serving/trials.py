"""The bundle on trial in this worker: loaded, watched by its guard, ended, as ``ROLLOUT`` says.

Every worker of every service over a directory follows the file. The workers of one service besides
tell each other by shared numbers which trial they have loaded, so that requests take part in all
workers or in none, and which has ended, so that one that finds a broken bound ends it for all.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app.bundle.bundle import Bundle
from app.bundle.contract import differences
from app.bundle.directory import is_bundle
from app.errors import BundleError, CtrError
from app.features.keys import text_key
from app.metrics.registry import Metrics
from app.metrics.shadow import ShadowCounts
from app.metrics.trial import ROLES, ShownTrial, SideCounts
from app.off_loop import run_off_loop
from app.rollout.guard import CAUSES, Cause, GuardWatch
from app.rollout.shares import KeyReader, Shares
from app.rollout.state_file import Candidate, Ended, Rollout, change_rollout, look_at_rollout
from app.serving.build import Builder
from app.serving.loading import Loader
from app.serving.shadow import Shadow
from app.serving.state import BundleInUse, ServingState
from app.serving.swap import Swapper, complete
from app.serving.trial import Canary, Trial, TrialRuns
from app.serving.tuning import freeze_heap
from app.workers.shared_numbers import SharedNumbers
from app.workers.wake_ups import until_next

TICK_SECONDS = 0.1
"""Time between two looks at the guard, and at what the other workers say."""
TOGETHER_SECONDS = 30.0
"""Time that a worker which starts waits for the others to have loaded the bundle on trial."""
HELD_AGAINST: frozenset[Cause] = frozenset(CAUSES) - {"promoted", "replaced"}
"""Causes of an end after which a bundle is not taken up by itself."""
log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class OnTrial:
    """A bundle on trial, loaded, and the bundle in use that it is measured by."""

    candidate: Candidate
    bundle: BundleInUse
    runs: TrialRuns
    live: BundleInUse | None = None
    watch: GuardWatch | None = None


class Trials:
    """Has this worker take part in the trial of the file ``ROLLOUT``."""

    def __init__(
        self,
        directory: Path,
        loader: Loader,
        builder: Builder,
        swapper: Swapper,
        state: ServingState,
        metrics: Metrics,
        shared: SharedNumbers,
        poll_seconds: float,
    ) -> None:
        self._directory = directory
        self._loader = loader
        self._builder = builder
        self._swapper = swapper
        self._state = state
        self._metrics = metrics
        self._shared = shared
        self._poll_seconds = poll_seconds
        self._loaded = shared.region("trial loaded", 1)
        self._running = shared.region("trial running", 1)
        self._ended = shared.region("trial ended", 2)
        self._look_now = asyncio.Event()
        self._holding = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()
        self.rollout = Rollout()
        """The file as it was last read."""
        self.on_trial: OnTrial | None = None

    @property
    def taking_part(self) -> Trial | None:
        """The trial that requests take part in."""
        return self._state.trial

    def is_running(self, candidate: Candidate) -> bool:
        """True if requests take part in a trial, with the share that it has, in all workers."""
        return self._running.own[0] == _number(candidate) and self._running.equal()

    def is_over(self, candidate: Candidate) -> bool:
        """True if no worker has requests take part in a trial."""
        return candidate.began not in self._loaded.each()

    def look(self) -> None:
        """Look at the file at once instead of at the next poll."""
        self._look_now.set()

    async def start(self, live: Bundle) -> None:
        """Load what is on trial, before the first request: no user may change sides meanwhile.

        A service that starts waits for its other workers, but not for long.
        """
        await self._follow(live)
        with suppress(TimeoutError):
            async with asyncio.timeout(TOGETHER_SECONDS):
                while self.on_trial is not None and not self._together:
                    if self.cause_of_end(self.on_trial.candidate) is not None:
                        break
                    await asyncio.sleep(TICK_SECONDS)

    def begin(self) -> None:
        """Let requests take part from the first one on, where all workers could."""
        if self.on_trial is not None:
            self._tick(self.on_trial)

    async def follow(self) -> None:
        """Follow the file, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(until_next(self._poll_seconds)):
                    await self._look_now.wait()
            self._look_now.clear()
            try:
                assert self._state.loaded is not None
                await self._follow(self._state.loaded.bundle)
            except Exception:
                log.exception("following the trial failed")

    async def guard(self) -> None:
        """Watch over what is on trial, until cancelled; without a trial this never wakes up."""
        while True:
            await self._holding.wait()
            on_trial = self.on_trial
            if on_trial is None:
                self._holding.clear()
                continue
            try:
                self._tick(on_trial)
            except Exception:
                log.exception("watching over the trial failed")
            await asyncio.sleep(TICK_SECONDS)

    async def _follow(self, live: Bundle) -> None:
        """Do what the file says now."""
        found = await run_off_loop(lambda: look_at_rollout(self._directory))
        if found is None:
            return  # The log has it; what was known holds on.
        self.rollout = found
        wanted = found.candidate
        if wanted is not None and (cause := self.cause_of_end(wanted)) is not None:
            # It has ended here, and the file could not be written, or not yet.
            await self._write_end(wanted, cause, f"it was stopped: {cause}")
            wanted = None
        # Read here, and again below: during each look at the disk the guard may end the trial.
        held = self.on_trial
        if held is not None and (wanted is None or wanted.began != held.candidate.began):
            self._end(held, *self._end_by_file(held.candidate, found))
        if wanted is None:
            return
        held = self.on_trial
        path = self._directory / wanted.version
        if held is None:
            await self._load(wanted, path, live)
        elif held.candidate != wanted:
            held.candidate, held.live = wanted, None
        elif not await run_off_loop(lambda: is_bundle(path)) and self.on_trial is held:
            self.stop(held, "gone", "its directory is gone")

    def _end_by_file(self, candidate: Candidate, found: Rollout) -> tuple[Cause, str]:
        ended = found.stopped.get(candidate.version)
        if ended is not None:
            return ended.cause, ended.reason
        if found.serving == candidate.version:
            return "promoted", "it serves"
        return "replaced", "it is on trial no longer"

    async def _load(self, candidate: Candidate, path: Path, live: Bundle) -> None:
        """Load what is to be on trial; where it cannot be, the trial ends for all."""
        if path.name == live.path.name:
            await self._write_end(candidate, "promoted", "it serves")
            return
        runs = TrialRuns()
        try:
            await self._swapper.wait_for_room()
            async with AsyncExitStack() as undo:
                loaded = await self._loader.load(path, item_parts=False)
                await complete(loaded, undo)
                if changes := differences(live.spec, loaded.bundle.spec):
                    raise BundleError(f"its requests differ: {'; '.join(changes)}")
                bundle = await self._builder.build_beside(
                    loaded, runs, counted=candidate.mode == "canary"
                )
                undo.pop_all()
        except Exception as error:
            foreseen = isinstance(error, CtrError)
            reason = str(error) if foreseen else type(error).__name__
            log.error(
                "bundle %s cannot be on trial: %s",
                path.name,
                reason,
                exc_info=None if foreseen else error,
            )
            self._note_end(candidate, "loading")
            await self._write_end(candidate, "loading", reason)
            return
        freeze_heap()
        self.on_trial = OnTrial(candidate, bundle, runs)
        self._loaded.own[0] = candidate.began
        self._holding.set()

    @property
    def _together(self) -> bool:
        """True if all workers have loaded the same bundle for the same trial."""
        return self._loaded.equal()

    def cause_of_end(self, candidate: Candidate) -> Cause | None:
        """Return why a trial has ended in a worker of this service, if it has."""
        code = self._ended.beside(candidate.began)
        return None if code is None else CAUSES[int(code)]

    def _tick(self, held: OnTrial) -> None:
        candidate, in_use = held.candidate, self._state.in_use
        cause = self.cause_of_end(candidate)
        if cause is not None:
            self._end(held, cause, "another worker found it")
            return
        if held.runs.problem is not None:
            self.stop(held, "engine", held.runs.problem)
            return
        if in_use is None or not self._together:
            return
        if held.live is not in_use:
            self._measure_by(held, in_use)
            return
        canary = self._state.trial
        if held.watch is not None and isinstance(canary, Canary):
            told = self._metrics.feedback.of(candidate.version)
            own = canary.counts.figures()._replace(
                events=told.labels, predicted=told.predicted, clicks=told.clicks
            )
            broken = held.watch.look(time.monotonic(), canary.live_counts.figures(), own)
            if broken is not None:
                self.stop(held, *broken)

    def _measure_by(self, held: OnTrial, live: BundleInUse) -> None:
        """Let requests take part beside the bundle that is in use now."""
        candidate, spec = held.candidate, held.bundle.loaded.bundle.spec
        version = live.loaded.bundle.version
        if live.loaded.bundle.path.name == candidate.version:
            self.stop(held, "promoted", "it serves")
            return
        if changes := differences(live.loaded.bundle.spec, spec):
            self.stop(held, "contract", f"its requests differ: {'; '.join(changes)}")
            return
        number = _number(candidate.began, version)
        self._close_shadow()
        sides = shadow_counts = None
        if candidate.key is None:
            self._state.trial = shadow = self._shadow(held, number)
            shadow_counts = shadow.counts
        else:
            self._state.trial = canary = self._canary(held, candidate.key, number)
            sides = canary.live_counts, canary.counts
        held.live, held.watch = live, GuardWatch(candidate.guard)
        self._running.own[0] = _number(candidate)
        self._metrics.trial.shown = ShownTrial(
            candidate.version, candidate.mode, candidate.share, version, sides, shadow_counts
        )
        log.info(
            "%s %s takes %g of the requests beside %s",
            candidate.mode,
            candidate.version,
            candidate.share,
            version,
        )

    def _canary(self, held: OnTrial, key: str, number: int) -> Canary:
        candidate, spec = held.candidate, held.bundle.loaded.bundle.spec
        live_counts, counts = (SideCounts(self._shared, role, number) for role in ROLES)
        return Canary(
            held.bundle.scorer,
            KeyReader(key, text_key(spec, key)),
            Shares(candidate.version, candidate.share),
            live_counts,
            counts,
        )

    def _shadow(self, held: OnTrial, number: int) -> Shadow:
        counts = ShadowCounts(self._shared, number)
        return Shadow(held.bundle.scorer, held.candidate.share, counts, self._state)

    def _close_shadow(self) -> None:
        if isinstance(self._state.trial, Shadow):
            self._state.trial.close()

    def stop(self, held: OnTrial, cause: Cause, reason: str) -> None:
        """End a trial here at once, and in all other workers and services as soon as they see."""
        self._end(held, cause, reason)
        task = asyncio.create_task(self._write_end(held.candidate, cause, reason))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _note_end(self, candidate: Candidate, cause: Cause) -> None:
        """Tell the other workers of an end."""
        # The number last: who reads it reads the cause too.
        self._ended.own[1] = CAUSES.index(cause)
        self._ended.own[0] = candidate.began
        self._metrics.trial.count_end(cause)

    def _end(self, held: OnTrial, cause: Cause, reason: str) -> None:
        """Let no more requests take part; those that do have their answers first."""
        candidate = held.candidate
        level = logging.WARNING if cause in HELD_AGAINST else logging.INFO
        log.log(level, "the %s %s ends: %s", candidate.mode, candidate.version, reason)
        self._close_shadow()
        self._state.trial = self.on_trial = None
        self._metrics.trial.shown = None
        self._running.own[0] = self._loaded.own[0] = 0
        self._note_end(candidate, cause)
        self._swapper.retire(held.bundle)

    async def _write_end(self, candidate: Candidate, cause: Cause, reason: str) -> None:
        ended = None
        if cause in HELD_AGAINST:
            ended = Ended(cause, reason, int(1000 * time.time()))

        def change(found: Rollout) -> Rollout:
            changed = found.without_trial(candidate, ended)
            if cause == "promoted" and changed != found:
                return msgspec.structs.replace(changed, serving=candidate.version)
            return changed

        try:
            self.rollout = await run_off_loop(lambda: change_rollout(self._directory, change))
        except OSError as error:
            log.error(
                "the end of the trial of %s cannot be written, so other services over %s go on: %s",
                candidate.version,
                self._directory,
                error.strerror,
            )

    async def close(self) -> None:
        """Wait for what is being written; the builder closes the bundle."""
        self._close_shadow()
        await asyncio.gather(*self._writing, return_exceptions=True)


def _number(*decisive: object) -> int:
    """Return a number of what decides it, the same in all workers, exact as a float."""
    return int.from_bytes(hashlib.sha256(msgspec.json.encode(decisive)).digest()[:6])
