"""The training benchmark's own logic, and the product at a very small work."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.data.slot_counts import slot_columns
from model.training.fit import fit
from tests.bench.training import __main__ as command
from tests.bench.training import (
    absences,
    busy,
    criteo,
    frappe,
    memory,
    negatives,
    networks,
    running,
    with_product,
)
from tests.bench.training.running import DEEPCTR_TORCH, FUXICTR, PEERS, PRODUCT, Failed, Library
from tests.bench.training.work import Rows, Work, judged, read_rows, write_rows
from tests.support import environments
from tests.support.clicks import CONFIG, LAYOUT, dataset
from tests.support.environments import ROOT
from tests.support.networks import with_means
from tests.support.starting import run

pytestmark = pytest.mark.slow

ABSENT = Library("absent", "no_such_runner")


class ForkedLibrary(Library):
    """The product whose program is forked from a process that has its modules."""

    def ended(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run its program to the end."""
        return run(*words[2:])


FORKED = ForkedLibrary(PRODUCT.name, PRODUCT.runner)


def few(rows: int = 3_000, seed: int = 1) -> Rows:
    """Rows of four fields that click where the first field's index is even."""
    index = np.random.default_rng(seed).integers(2, 12, (rows, 4)).astype(np.int32)
    return Rows(index, (index[:, 0] % 2 == 0).astype(np.uint8), [12] * 4)


def rates(*values: float) -> list[dict[str, float]]:
    """The figures of turns with these rates."""
    return [{"rows_per_second": value} for value in values]


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Both forms hold the same rows, each column under its field's name."""
    rows = few(10)
    write_rows(tmp_path / "rows", rows)
    found = read_rows(tmp_path / "rows")
    np.testing.assert_array_equal(found.index, rows.index)
    np.testing.assert_array_equal(found.label, rows.label)
    assert found.sizes == rows.sizes
    columns = np.load(tmp_path / "rows" / "columns.npz")
    assert set(columns) == {"C0", "C1", "C2", "C3", "label"}
    np.testing.assert_array_equal(columns["C2"], rows.index[:, 2])


def test_the_work_travels_whole() -> None:
    """A runner reads what it was given."""
    work = Work("rows", 2, usual=True, hidden=(3, 4), precision="bfloat16", target=0.9)
    assert Work.from_json(work.to_json()) == work


def test_the_shape_is_criteo_s() -> None:
    """39 fields, about a million table rows, frequent values first, something to learn."""
    rows = criteo.draw_rows(4_096)
    assert rows.index.shape == (4_096, 39)
    assert sum(rows.sizes) == pytest.approx(1_000_000, rel=0.001)
    assert rows.index.min() >= 2
    assert (rows.index.max(0) < rows.sizes).all()
    assert 0.15 < rows.label.mean() < 0.4
    counts = np.bincount(rows.index[:, 0])
    assert counts.argmax() == 2


def test_the_product_learns_through_its_own_trainer(tmp_path: Path) -> None:
    """A run in a process of its own gives a rate, a loss below chance and each evaluation."""
    write_rows(tmp_path / "rows", few())
    write_rows(tmp_path / "held", few(500, 2))
    work = Work(
        str(tmp_path / "rows"), 1, epochs=4, batch_size=64, embedding_size=4, hidden=(8,),
        learning_rate=0.01, validation=str(tmp_path / "held"), target=0.999,
    )  # fmt: skip
    figures = PRODUCT.run(work)
    assert figures["evaluations"][-1]["auc"] > 0.999
    assert len(figures["evaluations"]) < 4
    seconds = [evaluation["seconds"] for evaluation in figures["evaluations"]]
    assert seconds == sorted(seconds)
    work = Work(str(tmp_path / "rows"), 1, batch_size=64, embedding_size=4, hidden=(8,))
    figures = FORKED.run(work)
    assert figures["rows_per_second"] > 0
    assert figures["train_loss"] < math.log(2)
    assert "auc" not in figures


def test_the_named_network_is_judged_on_the_test_part(tmp_path: Path) -> None:
    """Its settings reach the trainer; AUC and log loss are those of rows that it never saw."""
    for part, seed in (("rows", 1), ("held", 2), ("test", 3)):
        write_rows(tmp_path / part, few(3_000 if part == "rows" else 500, seed))
    work = Work(
        str(tmp_path / "rows"), 1, epochs=4, batch_size=64, embedding_size=4, hidden=(8,),
        learning_rate=0.01, validation=str(tmp_path / "held"), target=1.1,
        test=str(tmp_path / "test"), network="dcn_v2", cross_layers=3,
    )  # fmt: skip
    settings = with_product.settings(work)
    assert (settings.network, settings.cross_layers) == ("dcn_v2", 3)
    figures = FORKED.run(work)
    assert figures["auc"] > 0.999
    assert figures["log_loss"] < 0.1


def test_scores_are_judged_as_scikit_learn_judges_them() -> None:
    """Ties and scores of 0 and 1 included."""
    from sklearn.metrics import log_loss, roc_auc_score  # a second of import, wanted here only

    random = np.random.default_rng(1)
    label = (random.random(500) < 0.3).astype(np.uint8)
    score = np.round(random.random(500), 1)
    found = judged(score, label)
    assert found["auc"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    inside = np.clip(score, 1e-7, 1 - 1e-7)
    assert found["log_loss"] == pytest.approx(log_loss(label, inside), abs=1e-12)


def test_networks_are_shown_in_each_way(tmp_path: Path) -> None:
    """FuxiCTR and the product have the same settings; the last row has the shipped ones."""
    works = networks.works(tmp_path, 2, 7)
    for network, ways in works.items():
        assert list(ways) == list(networks.WAYS)
        theirs, same, shipped = ways.values()
        assert theirs == same != shipped
        assert {work.network for work in ways.values()} == {network}
        assert {(work.seed, work.target) for work in ways.values()} == {(7, 1.0)}
    turn = {"auc": 0.98, "log_loss": 0.15, "seconds": 9.6}
    better = {"auc": 0.985, "log_loss": 0.14, "seconds": 10.0}
    lines = networks.table({"deepfm": {FUXICTR.name: [turn, better], PRODUCT.name: [turn]}})
    assert "| deepfm | fuxictr | 0.9825 ± 0.0035 | 0.1450 ± 0.0071 | 10 |" in lines
    assert "| deepfm | product | 0.9800 | 0.1500 | 10 |" in lines


def test_the_better_peer_counts() -> None:
    """It is the one with the higher median; each ratio is the median of the turns' own."""
    found = {
        criteo.FLOAT32: rates(60.0, 50.0, 10.0),
        running.BFLOAT16: rates(90.0, 100.0, 20.0),
        FUXICTR.name: rates(20.0, 10.0, 2.0),
        DEEPCTR_TORCH.name: rates(5.0, 6.0, 30.0),
    }
    summary = criteo.summary(found, PEERS)
    assert summary["best_peer"] == FUXICTR.name
    assert summary["over_best_peer"] == {criteo.FLOAT32: 5.0, running.BFLOAT16: 10.0}
    assert summary["rows_per_second"][FUXICTR.name] == 10.0
    table = criteo.table({criteo.SAME: summary})
    assert f"| same work | {FUXICTR.name} | 10 | 5.00 |" in table.splitlines()
    assert command.headlines({"criteo": {criteo.SAME: summary, criteo.USUAL: summary}}) == {
        "criteo_rows_per_second_over_best_peer": 5.0,
        "criteo_rows_per_second_over_best_peer_bfloat16": 10.0,
        "criteo_rows_per_second_over_best_peer_as_usual": 5.0,
        "criteo_rows_per_second_over_best_peer_bfloat16_as_usual": 10.0,
    }


def evaluations(*auc: float) -> dict[str, Any]:
    """A run whose evaluations came every ten seconds."""
    return {"evaluations": [{"seconds": 10.0 * (i + 1), "auc": a} for i, a in enumerate(auc)]}


def test_the_first_evaluation_at_the_target_ends_the_time() -> None:
    """Later ones do not count; who never gets there has no time, and then there is no ratio."""
    quick, slow, never = (
        evaluations(0.9, 0.984),
        evaluations(0.9, 0.95, 0.98, 0.99),
        evaluations(0.9),
    )
    found = frappe.summary({PRODUCT.name: [quick], FUXICTR.name: [slow]})
    assert found["seconds"] == {PRODUCT.name: [20.0], FUXICTR.name: [40.0]}
    assert found["over_fuxictr"] == {PRODUCT.name: 0.5}
    found = frappe.summary({PRODUCT.name: [quick, never], FUXICTR.name: [slow, slow]})
    assert found["over_fuxictr"] == {PRODUCT.name: None}
    assert "| product | 20.0, never |" in frappe.table(found).splitlines()


def test_negatives_are_compared_seed_by_seed() -> None:
    """The difference is each seed's own; the furthest mean score counts in either direction."""
    runs = {
        negatives.ALL: [(0.98, 1.0), (0.90, 1.0)],
        negatives.EPOCHS: [(0.97, 1.01), (0.89, 0.96)],
        negatives.STEPS: [(0.98, 1.0), (0.91, 1.02)],
        negatives.LIGHT: [(0.98, 1.0), (0.92, 0.98)],
    }
    found = negatives.summary({
        name: [{"auc": auc, "mean_score_over_rate": score} for auc, score in pairs]
        for name, pairs in runs.items()
    })  # fmt: skip
    assert found[negatives.EPOCHS]["auc_difference"]["mean"] == pytest.approx(-0.01)
    assert found[negatives.EPOCHS]["auc_difference"]["deviation"] == pytest.approx(0, abs=1e-12)
    assert found[negatives.EPOCHS]["furthest_mean_score"] == pytest.approx(0.04)
    assert found[negatives.STEPS]["auc_difference"]["mean"] == pytest.approx(0.005)
    assert len(negatives.table(found).splitlines()) == 6
    assert command.headlines({"negatives": found}) == {
        "negatives_tenth_auc_difference": pytest.approx(0.01),
        "negatives_tenth_furthest_mean_score": pytest.approx(0.02),
    }


def test_each_row_loses_one_field() -> None:
    """Every field is absent in its share of the rows, a list too; labels stay."""
    layout, data = with_means(LAYOUT), dataset(900)
    missing = [slot.missing for slot in layout.slots]
    lossy = absences.with_one_replaced(layout, data, missing, seed=1)
    columns = slot_columns(layout, lossy)
    absent = np.stack([(each.indices == each.slot.missing).any(1) for each in columns], 1)
    assert (absent.sum(1) == 1).all()
    assert absent.sum(0).min() > 250
    (genres,) = lossy.candidate_lists
    assert not genres[absent[:, 2], 1:].any()
    assert np.array_equal(lossy.label, data.label)
    few_absent = absences.without_some(layout, data, 0.1, seed=1).context == layout.slots[0].missing
    assert 0.05 < few_absent.mean() < 0.15


def test_only_what_stands_for_untrained_rows_differs() -> None:
    """Rows of trained values score the same in every way, and the network stays as it is."""
    layout, data = with_means(LAYOUT), dataset(300)
    result = fit(layout, data, dataset(100, 1), replace(CONFIG, network="fm"), progress=False)
    before = result.network.table.detach().clone()
    start = torch.full_like(before, 3.0)
    whole = absences.by_way(result.network, start, data)
    for logit in whole.values():
        np.testing.assert_array_equal(logit, whole[absences.MEAN])
    missing = [slot.missing for slot in layout.slots]
    lossy = absences.with_one_replaced(layout, data, missing, seed=1)
    found = absences.by_way(result.network, start, lossy)
    assert not np.array_equal(found[absences.RANDOM], found[absences.MEAN])
    assert not np.array_equal(found[absences.ZERO], found[absences.MEAN])
    assert torch.equal(result.network.table, before)


def test_absences_are_compared_seed_by_seed() -> None:
    """Each way's change is that of the same seed; a way that was not measured has no figure."""
    runs = [
        {way: {"auc": 0.7 + start, "log_loss": loss + start}
         for way, loss in ((absences.RANDOM, 0.6), (absences.ZERO, 0.5), (absences.MEAN, 0.4))}
        for start in (0.0, 0.1)
    ]  # fmt: skip
    lines = absences.table({"frappe, absent": {"fm": runs}}).splitlines()
    assert lines[2] == (
        "| frappe, absent | fm | log loss | 0.6500 | -0.1000 ± 0.0000 | -0.2000 ± 0.0000 |  |"
    )
    assert len(lines) == 4


def test_a_peer_that_does_not_run_is_named(tmp_path: Path) -> None:
    """Its last words are the reason; there are no figures."""
    write_rows(tmp_path / "rows", few(10))
    with pytest.raises(Failed, match=r"^absent does not run: .*no_such_runner"):
        ABSENT.run(Work(str(tmp_path / "rows"), 1))


def test_a_failure_is_told_and_nothing_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command goes on with the other parts, ends with 1 and has no figure of the failed one."""
    pinned = tmp_path / "fuxictr.txt"
    pinned.write_text("absent @ file:///nowhere/absent-1.0-py3-none-any.whl\n")
    monkeypatch.setattr(environments, "HOME", tmp_path / "peers")
    absent = Library("absent", "with_fuxictr", pinned)
    monkeypatch.setattr(criteo, "PRODUCT", absent)
    monkeypatch.setattr(command, "has_bfloat16", lambda: False)
    file = tmp_path / "figures.json"
    assert command.main(["criteo", "--rows", "8", "--repetitions", "1", "--json", str(file)]) == 1
    found = json.loads(file.read_text())
    [problem] = found["problems"]
    assert problem.startswith("criteo: same work, product: absent cannot be installed: ")
    assert "criteo_rows_per_second_over_best_peer" not in found
    assert f"FAILED: {problem}" in capsys.readouterr().out


@pytest.mark.long
def test_the_command_writes_what_it_measured(tmp_path: Path) -> None:
    """A short run of the product alone: both tables' rates, their ratio and where it was."""
    file = tmp_path / "figures.json"
    words = ["vocabulary", "--rows", "8192", "--repetitions", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.training", *words, "--json", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    part = found["vocabulary"]
    [used], [twice] = part["rows_per_second"]["used"], part["rows_per_second"]["twice"]
    assert found["unused_vocabulary_doubled_step_time"] == pytest.approx(used / twice)
    assert part["table_rows"]["twice"] == 2 * part["table_rows"]["used"]
    assert found["machine"]["threads"] == 1
    assert found["problems"] == []
    assert "unused_vocabulary_doubled_step_time = " in done.stdout


@pytest.mark.parametrize(
    "words", [["critea"], ["--rows", "0"], ["--repetitions", "-1"], ["--threads", "x"]]
)
def test_wrong_arguments_are_refused(words: list[str]) -> None:
    """Nothing is measured."""
    with pytest.raises(SystemExit, match="2"):
        command.arguments(words)


@pytest.mark.parametrize("peer", PEERS)
def test_the_peers_have_the_product_s_torch(peer: Library) -> None:
    """All run the same matrix products; the peers are of the versions that are spoken of."""
    assert peer.pinned is not None
    pinned = peer.pinned.read_text().splitlines()
    ours = (ROOT / "constraints.txt").read_text().splitlines()
    for library in ("torch", "numpy"):
        [version] = [line for line in pinned if line.startswith(f"{library}==")]
        assert version in ours
    assert {"fuxictr": "fuxictr==2.3.10", "deepctr-torch": "deepctr-torch==0.3.0"}[
        peer.name
    ] in pinned


def test_turns_alternate() -> None:
    """Every work has its turn before any has its second."""
    order: list[str] = []

    def work(name: str) -> dict[str, float]:
        order.append(name)
        return {"rows_per_second": float(len(order))}

    found = running.in_turn(
        2, {"a": lambda: work("a"), "b": lambda: work("b")}, lambda _: None, "t"
    )
    assert order == ["a", "b", "a", "b"]
    assert [turn["rows_per_second"] for turn in found["b"]] == [2.0, 4.0]


@pytest.mark.long
def test_the_memory_of_every_stage_is_watched(tmp_path: Path) -> None:
    """A small run has a peak and a rate for each, and the model's own memory is taken off."""
    found = memory.measure(tmp_path, 20_000, 1, lambda _: None)
    stages = ["read", "count", "encode", "train"]
    assert list(found["rows_per_second"]) == stages
    assert list(found["peak_bytes"]) == [*stages, memory.EXPORT]
    assert all(peak > 10 * 2**20 for peak in found["peak_bytes"].values())
    assert found["beyond_model_bytes"] >= found["peak_bytes"]["encode"]
    assert found["table_rows"] > 5_000
    assert "beyond the model" in memory.table(found)


@pytest.mark.long
def test_training_beside_busy_processes(tmp_path: Path) -> None:
    """All trainers have rates alone and beside a busy process a core, in a table."""
    found = busy.measure(tmp_path, 1, 2, lambda _: None, rows=4_000)
    for figures in found.values():
        for scene in ("alone", "beside"):
            assert min(figures["rows_per_second"][scene].values()) > 0
        assert set(figures["kept_beside_busy"]) == set(busy.SPINCOUNTS)
    assert len(busy.table(found).splitlines()) == 2 + 2 * 3


def test_kept_is_the_share_of_the_rate_alone_without_a_bound() -> None:
    """Medians over the turns; alone, of the ratios of each turn."""
    found = busy.summary({
        "alone": {busy.BOUNDED: [9.0, 10, 30], busy.UNBOUNDED: [10.0, 10, 20]},
        "beside": {busy.BOUNDED: [4.0, 5, 9], busy.UNBOUNDED: [1.0, 2, 3]},
    })  # fmt: skip
    assert found["alone_over_unbounded"] == 1.0
    assert found["kept_beside_busy"] == {busy.BOUNDED: 0.5, busy.UNBOUNDED: 0.2}
