"""Another bundle before the gate: it is judged beside the one in use, and serves or is held."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.bundle.directory import CURRENT
from app.errors import BundleError, EngineFailed, HeldBack, ValueProblem
from app.rollout.state_file import read_rollout
from app.serving import swap
from app.serving.agreement import Agreement
from app.serving.versions import Attempt
from app.workers.shared_numbers import SharedNumbers
from tests.support.serving_parts import parts, swapper

pytestmark = pytest.mark.anyio


async def test_a_bundle_that_does_not_pass_the_gate_is_held(
    bundles: Path, tiny_bundle: Path, other_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is no fault, is judged once, and serves as soon as it is chosen."""
    gate = tmp_path_factory.mktemp("gate") / "gate.toml"
    gate.write_text("[test]\nmin_auc = 1\n[golden]\nmax_changed_top = 0\n")
    async with parts(bundles, gate=gate) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        versions = worker.swapper.versions
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert versions.wanted(worker.state.loaded.bundle) is None
        assert worker.state.loaded.bundle.path.name == tiny_bundle.name
        reason = versions.held[other_bundle.name]
        assert "test.min_auc is 1" in reason
        assert "golden.max_changed_top is 0" in reason
        assert worker.state.refused is None
        assert worker.metrics.refused_bundles.collect()[0].samples[0].value == 0
        (bundles / CURRENT).write_text(f"{other_bundle.name}\n")
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded.bundle.path.name == other_bundle.name
        assert read_rollout(bundles).serving == other_bundle.name
        assert versions.wanted(worker.state.loaded.bundle) is None
        assert not versions.held


async def test_a_bundle_that_passes_the_gate_serves(
    bundles: Path, other_bundle: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = tmp_path_factory.mktemp("gate") / "gate.toml"
    gate.write_text("[same_test]\nauc_lost = 1\nlog_loss_added = 9\n[golden]\n")
    async with parts(bundles, gate=gate) as worker:
        await worker.swapper.put_in_use(await worker.loader.load(bundles / tiny_bundle.name))
        shutil.copytree(other_bundle, bundles / other_bundle.name)
        await worker.swapper.swap_if_wanted()
        assert worker.state.loaded is not None
        assert worker.state.loaded.bundle.path.name == other_bundle.name


def bundle(version: str) -> Any:
    """A loaded bundle of which each thing has its name and the version."""
    found = SimpleNamespace(
        version=version, manifest=f"manifest {version}", examples=f"examples {version}"
    )
    return SimpleNamespace(bundle=found, encoder=f"encoder {version}", engine=f"engine {version}")


@pytest.mark.parametrize("error", [EngineFailed("no device"), ValueProblem("no number")])
def test_golden_requests_that_the_bundle_in_use_cannot_score_hold_the_other(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the other one, which an operator may choose all the same."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(swap, "golden_change", fail)
    monkeypatch.setattr(swap, "Figures", SimpleNamespace(of=lambda manifest: manifest))
    gate = SimpleNamespace(golden=object(), figure_problems=lambda *_: ["its AUC"])
    made = swapper(gate=gate, state=SimpleNamespace(loaded=bundle("1")))
    with pytest.raises(
        HeldBack, match=r"^its AUC; 1 cannot score its golden requests: no (device|number)$"
    ):
        made._pass(bundle("2"))


def test_the_gate_judges_the_new_bundle_beside_the_one_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the figures of both, and by the scores of both for the new one's golden requests."""
    asked: list[object] = []

    def change(*given: object) -> str:
        asked.append(given)
        return "change"

    def problems(*given: object) -> list[str]:
        asked.append(given)
        return []

    monkeypatch.setattr(swap, "golden_change", change)
    monkeypatch.setattr(swap, "Figures", SimpleNamespace(of=lambda manifest: manifest))
    gate = SimpleNamespace(golden=object(), figure_problems=problems, golden_problems=problems)
    made = swapper(gate=gate, state=SimpleNamespace(loaded=bundle("1")))
    made._pass(bundle("2"))
    assert asked == [
        ("manifest 2", "manifest 1"),
        ("examples 2", ("encoder 2", "engine 2"), ("encoder 1", "engine 1")),
        ("change", "1"),
    ]


async def test_a_worker_that_holds_a_bundle_ends_the_waiting_of_the_others() -> None:
    """It may pass the gate in one worker and not in another: it serves in none."""
    shared = SharedNumbers(2)
    first = Agreement(shared)
    shared.begin_worker(1)
    other = Agreement(shared)
    other.prepare(2)
    held: list[object] = []
    used = SimpleNamespace(bundle=SimpleNamespace(version="1", number=1))
    made = swapper(
        versions=SimpleNamespace(hold=lambda *given: held.append(given)),
        agreement=first,
        state=SimpleNamespace(loaded=used),
    )
    attempt = Attempt(Path("bundles/2"), (), 0)
    made._hold(attempt, "it is worse")
    assert held == [(attempt, "1", "it is worse")]
    async with asyncio.timeout(30):
        with pytest.raises(BundleError, match="another worker cannot serve it"):
            await other.wait(attempt)
    other.prepare(1)
    await other.wait(attempt)
