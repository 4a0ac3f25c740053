"""The list of bundles says what serves, what waits and why, of a directory as of a link."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.errors import NotFound
from app.serving.activation import Activation
from tests.support.serving_parts import Parts, parts

pytestmark = pytest.mark.anyio


def activation_of(worker: Parts) -> Activation:
    return Activation(worker.state, worker.swapper, worker.agreement, worker.trials)


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
