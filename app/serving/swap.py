"""Another bundle takes the place of the one in use: watch, load, agree, swap, retire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from app.errors import BundleError, CtrError, EngineFailed, HeldBack, ValueProblem
from app.metrics.registry import RefusedBundles
from app.off_loop import run_off_loop, start_off_loop
from app.rollout.gate import Figures, Gate
from app.rollout.golden_change import Scorer, golden_change
from app.rollout.state_file import write_serving
from app.serving.agreement import Agreement
from app.serving.build import Builder
from app.serving.loading import Loaded, Loader
from app.serving.state import BundleInUse, ServingState
from app.serving.tuning import freeze_heap
from app.serving.versions import Attempt, Versions
from app.workers.descriptors import out_of_descriptors
from app.workers.wake_ups import until_next

REACH_SECONDS = 30.0
"""Seconds that another bundle's vocabulary may take to be found in Redis."""
HANGING_SECONDS = 10.0
"""Seconds that a look at the disk may take before it counts as hanging."""
RETIRE_SECONDS = 1.0
"""Time beyond the deadline of its requests after which a replaced bundle is closed, idle or not."""
RETIRE_CHECK_SECONDS = 0.05
"""Time between two looks at a replaced bundle that still has requests."""
MAX_RETIRING = 2
"""Replaced bundles that may be open; another swap waits until one of them is closed."""
log = logging.getLogger(__name__)


class Swapper:
    """Watches a directory of bundles, and serves whichever of them should be served."""

    def __init__(
        self,
        versions: Versions,
        loader: Loader,
        builder: Builder,
        state: ServingState,
        agreement: Agreement,
        refused_bundles: RefusedBundles,
        gate: Gate | None = None,
        *,
        poll_seconds: float,
        deadline_seconds: float,
    ) -> None:
        self.versions = versions
        self._loader = loader
        self._builder = builder
        self._state = state
        self._agreement = agreement
        self._refused_bundles = refused_bundles
        self._gate = gate
        self._poll_seconds = poll_seconds
        self._retire_seconds = deadline_seconds + RETIRE_SECONDS
        self._look_now = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """Look for another bundle at once instead of at the next poll."""
        self._look_now.set()

    async def watch(self) -> None:
        """Look for another bundle to serve, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(until_next(self._poll_seconds)):
                    await self._look_now.wait()
            self._look_now.clear()
            try:
                await self.swap_if_wanted()
            except Exception:
                # Without this task no other bundle would be served before a restart.
                log.exception("looking for another bundle failed")

    async def swap_if_wanted(self) -> None:
        """Serve another bundle, if another one should be served."""
        assert self._state.loaded is not None
        bundle = self._state.loaded.bundle
        attempt = await self._look(lambda: self.versions.wanted(bundle))
        if attempt is not None:
            await self.wait_for_room()
            await self._swap(attempt)

    async def _look(self, work: Callable[[], Attempt | None]) -> Attempt | None:
        """Look at the disk; where it does not answer, the log and ``/ready`` say so meanwhile."""
        looking = start_off_loop(work)
        try:
            async with asyncio.timeout(HANGING_SECONDS):
                return await asyncio.shield(looking)
        except TimeoutError:
            self.versions.problem = f"{self.versions.directory} does not answer"
            log.error("still serving the same bundle: %s", self.versions.problem)
        return await looking

    async def wait_for_room(self) -> None:
        """Wait until few enough replaced bundles are open: each has an engine with its threads."""
        while len(self._retiring) >= MAX_RETIRING:
            await asyncio.wait(self._retiring, return_when=asyncio.FIRST_COMPLETED)

    async def _swap(self, attempt: Attempt) -> None:
        """Put another bundle in the place of the one in use, or keep that and say why."""
        try:
            async with AsyncExitStack() as undo:
                loaded = await self._loader.load(attempt.path)
                await complete(loaded, undo)
                if self._gate is not None and not attempt.chosen:
                    await run_off_loop(lambda: self._pass(loaded))
                self._agreement.prepare(loaded.bundle.number)
                await self._agreement.wait(attempt)
                undo.pop_all()
        except HeldBack as error:
            self._hold(attempt, str(error))
        except Exception as error:
            self._refuse(attempt, error)
        else:
            await self.put_in_use(loaded)

    def _pass(self, new: Loaded) -> None:
        """Let a bundle through the gate.

        Raises:
            HeldBack: it breaks a bound.
        """
        assert self._gate is not None
        assert self._state.loaded is not None
        used = self._state.loaded
        problems = self._gate.figure_problems(
            Figures.of(new.bundle.manifest), Figures.of(used.bundle.manifest)
        )
        if self._gate.golden is not None:
            scorers = (Scorer(each.encoder, each.engine) for each in (new, used))
            try:
                change = golden_change(new.bundle.examples, *scorers)
            except (EngineFailed, ValueProblem) as error:
                problems.append(f"{used.bundle.version} cannot score its golden requests: {error}")
            else:
                problems += self._gate.golden_problems(change, used.bundle.version)
        if problems:
            raise HeldBack("; ".join(problems))

    def _hold(self, attempt: Attempt, reason: str) -> None:
        """Keep the bundle in use, and leave the other one to an operator."""
        assert self._state.loaded is not None
        kept = self._state.loaded.bundle
        log.warning("bundle %s is held: %s", attempt.path.name, reason)
        self.versions.hold(attempt, kept.version, reason)
        self._agreement.refuse(attempt, kept.number)

    def _refuse(self, attempt: Attempt, error: Exception) -> None:
        assert self._state.loaded is not None
        kept = self._state.loaded.bundle
        foreseen = isinstance(error, CtrError)
        reason = str(error) if foreseen else type(error).__name__
        log.error(
            "still serving %s: %s is refused: %s",
            kept.version,
            attempt.path.name,
            reason,
            exc_info=None if foreseen else error,
        )
        self._refused_bundles.add()
        self._state.refused = reason
        if not out_of_descriptors(error):
            # Otherwise it is tried again at the next look: the bundle may be right.
            self.versions.refuse(attempt, reason)
        self._agreement.refuse(attempt, kept.number)

    async def put_in_use(self, loaded: Loaded) -> None:
        """Score every request that begins from now on with this bundle, and retire the other."""
        before = self._state.in_use
        self._state.use(await self._builder.build(loaded))
        if self._gate is not None or self.versions.notes(loaded.bundle.path.name):
            version = loaded.bundle.path.name
            await run_off_loop(lambda: write_serving(self.versions.directory, version))
        # Whoever waits for all workers, as the caller who chose the bundle does, finds it noted.
        self._agreement.serve(loaded.bundle.number)
        freeze_heap()
        if before is not None:
            self.retire(before)

    def retire(self, bundle: BundleInUse) -> None:
        """Close a bundle that no request begins with any more, once it has none."""
        task = asyncio.create_task(self._retire(bundle))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, bundle: BundleInUse) -> None:
        """Close a bundle once every request that began with it has had its answer."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._retire_seconds
        # Swaps are rare; an event for this would cost each request something.
        while not bundle.idle and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(RETIRE_CHECK_SECONDS)
        await self._builder.close(bundle)

    async def close(self) -> None:
        """Stop retiring bundles; the builder closes them."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)


async def complete(loaded: Loaded, undo: AsyncExitStack) -> None:
    """Wait for what a bundle needs besides its files; ``undo`` closes it.

    Raises:
        CtrError: it cannot be had.
    """
    if loaded.remote is not None:
        undo.push_async_callback(loaded.remote.close)
        await _reach(loaded)
    await loaded.read_items(undo)


async def _reach(loaded: Loaded) -> None:
    """Wait for another bundle's vocabulary.

    Raises:
        BundleError: it is not in Redis, and the settings allow no substitute.
    """
    assert loaded.remote is not None
    try:
        async with asyncio.timeout(REACH_SECONDS):
            await loaded.reach_vocabulary()
    except TimeoutError:
        raise BundleError(f"its vocabulary: {loaded.remote.problem}") from None
