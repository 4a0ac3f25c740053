"""The operator's choice of a bundle on trial: begin, change, stop, promote."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from app.bundle.contract import differences
from app.bundle.manifest import SPEC
from app.errors import ActivationRefused, BundleError, Detail, Invalid, NotReady, SpecError
from app.features.spec import Categorical, FeatureSpec
from app.off_loop import run_off_loop
from app.rollout.guard import Guard, guard_problem
from app.rollout.shares import KeyReader
from app.rollout.state_file import (
    ROLLOUT,
    Candidate,
    Ended,
    Mode,
    Rollout,
    Share,
    change_rollout,
    read_rollout,
)
from app.serving.activation import ACTIVATION_SECONDS, LOOK_SECONDS, Activated, Activation
from app.serving.state import ServingState
from app.serving.trials import Trials

END_SECONDS = 5.0
"""Time that all workers may take to end a trial; a dead one may have to be replaced first."""
log = logging.getLogger(__name__)


class CanaryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request for a canary."""

    share: Share
    key: str
    guard: Guard = Guard()


class ShadowBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request for a shadow."""

    share: Share


class TrialChoice:
    """Begins and ends trials. The file ``ROLLOUT`` is what decides, for all services over its
    directory; this writes it and watches what comes of it in this service.
    """

    def __init__(self, state: ServingState, activation: Activation, trials: Trials) -> None:
        self._state = state
        self._activation = activation
        self._trials = trials
        self._busy = asyncio.Lock()

    async def canary(self, version: str, body: CanaryBody) -> None:
        """Let a bundle answer a share of the requests; return when it does in all workers.

        Of one that does already, the share and the guard change.

        Raises:
            NotFound: there is none of that version.
            Invalid: the key is none, or a bound of the guard.
            ActivationRefused: it cannot be, or another bundle is on trial.
            NotReady: no bundle serves yet.
        """
        problem = guard_problem(body.guard)
        if problem is not None:
            raise Invalid("the guard is invalid", [Detail("guard", problem)])
        self._check_key(body.key)
        await self._begin(version, "canary", body.share, body.key, body.guard)

    async def shadow(self, version: str, body: ShadowBody) -> None:
        """Let a bundle score a share of the requests after their answers; as :meth:`canary`."""
        await self._begin(version, "shadow", body.share, None, Guard())

    async def stop(self, version: str) -> None:
        """End the trial of a bundle, which is not taken up by itself any more.

        Raises:
            ActivationRefused: it is not on trial, or the end cannot be written.
        """
        candidate = await self._candidate(version)
        ended = Ended("operator", "an operator ended it", int(1000 * time.time()))
        held = self._trials.on_trial
        if held is not None and held.candidate.began == candidate.began:
            self._trials.stop(held, ended.cause, ended.reason)
        await self._change(lambda found: found.without_trial(candidate, ended))
        self._trials.look()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while not self._trials.is_over(candidate):  # noqa: ASYNC110 - workers share no event
                    await asyncio.sleep(LOOK_SECONDS)

    async def promote(self, version: str) -> Activated:
        """Serve the bundle on trial to everybody; return when all workers do.

        Raises:
            ActivationRefused: it is not on trial, or cannot be served: the trial goes on.
        """
        candidate = await self._candidate(version)
        activated = await self._activation.activate(version)
        await self._change(
            lambda found: msgspec.structs.replace(found.without_trial(candidate), serving=version)
        )
        self._trials.look()
        return activated

    async def _candidate(self, version: str) -> Candidate:
        directory = self._activation.directory
        await self._activation.find(version)
        found = await run_off_loop(lambda: read_rollout(directory))
        if found.candidate is None or found.candidate.version != version:
            raise ActivationRefused("it is not on trial")
        return found.candidate

    def _check_key(self, key: str) -> None:
        """Check the key of a canary.

        Raises:
            Invalid: requests cannot be divided by it.
        """
        spec = self._live_spec()
        field = next((each for each in spec.fields if each.name == key), None)
        problem = None
        if field is None or field.side != "context" or not isinstance(field, Categorical):
            known = [each.name for each in spec.side("context") if isinstance(each, Categorical)]
            problem = f"expected a categorical context field: one of {', '.join(known[:20])}"
        else:
            try:
                KeyReader(key, str)
            except ValueError:
                problem = "requests cannot be divided by a field of this name"
        if problem is not None:
            raise Invalid("the key is invalid", [Detail("key", problem)])

    def _live_spec(self) -> FeatureSpec:
        if self._state.loaded is None:
            raise NotReady(self._state.not_ready)
        return self._state.loaded.bundle.spec

    async def _begin(
        self, version: str, mode: Mode, share: float, key: str | None, guard: Guard
    ) -> None:
        live = self._live_spec()
        path = await self._activation.find(version)
        await run_off_loop(lambda: _check_contract(live, path))
        if self._busy.locked():
            raise ActivationRefused("another trial is being begun")
        async with self._busy:
            candidate = await self._write(version, mode, share, key, guard)
            log.info("bundle %s is to be a %s of %g of the requests", version, mode, share)
            try:
                async with asyncio.timeout(ACTIVATION_SECONDS):
                    await self._running(candidate)
            except TimeoutError:
                ended = Ended("loading", "it took too long to load", int(1000 * time.time()))
                await self._change(lambda found: found.without_trial(candidate, ended))
                self._trials.look()
                raise ActivationRefused(
                    f"it was not loaded within {ACTIVATION_SECONDS:g} s"
                ) from None

    async def _write(
        self, version: str, mode: Mode, share: float, key: str | None, guard: Guard
    ) -> Candidate:
        assert self._state.loaded is not None
        serving = self._state.loaded.bundle.path.name
        if serving == version:
            raise ActivationRefused("it serves already")

        def change(found: Rollout) -> Rollout:
            now = found.candidate
            if now is not None and now.version != version:
                raise ActivationRefused(f"{now.version} is on trial: stop it first")
            began = int(1000 * time.time())
            if now is not None:
                same = now.mode == mode and now.key == key
                began = now.began if same else max(began, now.began + 1)
            return msgspec.structs.replace(
                found.without(version),
                serving=serving,
                candidate=Candidate(version, mode, share, began, key, guard),
            )

        written = await self._change(change)
        assert written.candidate is not None
        return written.candidate

    async def _change(self, change: Callable[[Rollout], Rollout]) -> Rollout:
        directory = self._activation.directory
        try:
            written = await run_off_loop(lambda: change_rollout(directory, change))
        except OSError as error:
            raise ActivationRefused(f"{ROLLOUT} cannot be written: {error.strerror}") from error
        self._trials.rollout = written
        return written

    async def _running(self, candidate: Candidate) -> None:
        """Wait until requests take part in a trial.

        Raises:
            ActivationRefused: it has ended before.
        """
        trials = self._trials
        trials.look()
        while not trials.is_running(candidate):
            now = trials.rollout.candidate
            ended = trials.rollout.stopped.get(candidate.version)
            if ended is not None and now is None:
                raise ActivationRefused(ended.reason)
            if trials.cause_of_end(candidate) is not None:
                trials.look()
            await asyncio.sleep(LOOK_SECONDS)


def _check_contract(live: FeatureSpec, path: Path) -> None:
    """Check that a bundle takes the requests of the one in use.

    Raises:
        ActivationRefused: it does not, or its spec cannot be read.
    """
    try:
        found = differences(live, FeatureSpec.load(path / SPEC))
    except (SpecError, BundleError) as error:
        raise ActivationRefused(str(error)) from error
    if found:
        raise ActivationRefused(f"its requests differ: {'; '.join(found)}")
