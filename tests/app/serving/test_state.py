"""The bundle in use, and whether the service is ready or why not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import NotReady
from app.serving.state import FAILURES, BundleInUse, ServingState
from app.workers.shared_numbers import SharedNumbers


def in_use() -> BundleInUse:
    """A bundle in use of which nothing is asked here."""
    return BundleInUse(*cast(Any, (SimpleNamespace(), SimpleNamespace(), SimpleNamespace())))


def fail(state: ServingState, times: int) -> None:
    for _ in range(times):
        state.engine_failed(RuntimeError("the device is gone"))


def test_nothing_is_scored_before_a_bundle_is_in_use() -> None:
    """Asking for the scorer says why there is none: loading, or waiting for the vocabulary."""
    state = ServingState(SharedNumbers())
    with pytest.raises(NotReady, match="the bundle is still being loaded"):
        _ = state.scorer
    assert not state.lacks_vocabulary
    breaker = SimpleNamespace(open_after_probe=True)
    state.awaited_vocabulary = cast(
        Any, SimpleNamespace(problem="it refuses the login", breaker=breaker)
    )
    assert state.lacks_vocabulary
    with pytest.raises(NotReady, match="the vocabulary is not there yet: it refuses the login"):
        _ = state.scorer
    bundle = in_use()
    state.use(bundle)
    assert state.scorer is bundle.scorer
    assert state.loaded is bundle.loaded


def test_ready_once_every_worker_was() -> None:
    """A worker that has its bundle is not ready before the others are; a later death of one does
    not change that."""
    shared = SharedNumbers(2)
    state = ServingState(shared)
    state.use(in_use())
    shared.set_ready()
    assert not state.ready
    assert state.not_ready == "other workers are still being started"
    shared.begin_worker(1)
    shared.set_ready()
    assert state.ready
    shared.begin_worker(1)
    assert state.ready


def test_failures_in_a_row_make_it_unready() -> None:
    """One failure may be an accident; a success between failures forgives them."""
    shared = SharedNumbers()
    state = ServingState(shared)
    state.use(in_use())
    shared.set_ready()
    fail(state, FAILURES - 1)
    state.engine_ran()
    fail(state, FAILURES - 1)
    assert state.ready
    fail(state, 1)
    assert not state.ready
    assert state.engine_failing.is_set()
    assert state.not_ready == "the engine fails"
    state.engine_ran()
    assert state.ready


def test_another_bundle_starts_without_the_failures_of_the_one_before() -> None:
    """A new engine has not failed, and what was refused before it is no news."""
    state = ServingState(SharedNumbers())
    state.use(in_use())
    fail(state, FAILURES)
    state.refused = "no golden examples"
    state.use(in_use())
    assert not state.engine_failing.is_set()
    assert state.refused is None
