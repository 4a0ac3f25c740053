"""The list of bundles says what serves, what waits and why, of a directory as of a link."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from app.errors import NotFound
from app.rollout.state_file import Ended, change_rollout, read_rollout
from app.serving.activation import LOOK_SECONDS, Activation
from tests.support.serving_parts import Parts, held_up, parts
from tests.support.turns import until

pytestmark = pytest.mark.anyio


def activation_of(worker: Parts) -> Activation:
    return Activation(worker.state, worker.swapper, worker.agreement, worker.trials)


def serving(worker: Parts) -> str:
    assert worker.state.loaded is not None
    return worker.state.loaded.bundle.version


async def test_a_bundle_with_other_requests_is_available_with_the_difference(
    tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """An operator sees why it was not taken up, and may activate it."""
    for each in (tiny_bundle, other_bundle):
        shutil.copytree(each, tmp_path / each.name)
    spec = tmp_path / other_bundle.name / "features.toml"
    spec.write_text(spec.read_text(encoding="utf-8").replace('"country"', '"nation"'))
    async with parts(tmp_path) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(tmp_path / tiny_bundle.name))
        await worker.swapper.swap_if_wanted()
        listed = activation_of(worker).list()
    assert listed.serving == tiny_bundle.name
    shown = {each.version: (each.state, each.reason) for each in listed.bundles}
    assert shown == {
        tiny_bundle.name: ("serving", None),
        other_bundle.name: ("available", "its requests differ: field 'country' is gone"),
    }


async def test_a_link_to_one_bundle_has_that_one_to_list(
    tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """Beside the one in use the one that it leads to now; no other can be activated."""
    link = tmp_path / "current"
    link.symlink_to(tiny_bundle)
    async with parts(link) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(tiny_bundle))
        activation = activation_of(worker)
        assert [each.version for each in activation.list().bundles] == [tiny_bundle.name]
        link.unlink()
        link.symlink_to(other_bundle)
        shown = {each.version: each.state for each in activation.list().bundles}
        assert shown == {tiny_bundle.name: "serving", other_bundle.name: "available"}
        with pytest.raises(NotFound, match="not a directory of them"):
            await activation.activate(other_bundle.name)
        assert (await activation.activate(tiny_bundle.name)).previous == tiny_bundle.name


async def test_an_activation_waits_until_each_worker_has_told_that_it_serves(
    bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """Before, all have told the same still: the bundle that they served."""
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    ended = {other_bundle.name: Ended("operator", "it was stopped", 1)}
    change_rollout(bundles, lambda found: msgspec.structs.replace(found, stopped=ended))
    async with parts(bundles) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        watching = asyncio.create_task(worker.swapper.watch())
        with held_up(bundles):
            activating = asyncio.create_task(activation_of(worker).activate(other_bundle.name))
            await until(lambda: serving(worker) == other_bundle.name)
            await asyncio.wait([activating], timeout=10 * LOOK_SECONDS)
            assert not activating.done()
        assert (await activating).version == other_bundle.name
        assert read_rollout(bundles).stopped == {}
        watching.cancel()
