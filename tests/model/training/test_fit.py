"""The trainer learns, repeats itself exactly, and gives back the best network it saw."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model import progress
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.group import Group
from model.networks.mlp import Mlp
from model.quality.figures import auc, log_loss
from model.training import fit as fitting
from model.training.evaluation import Evaluation, predict
from model.training.fit import batch_count, fit, reproducible, require_rows
from model.training.learning_rate import learning_rate
from model.training.trainer import Trainer, TrainingError
from tests.support.clicks import CONFIG, LAYOUT, NUMBERS, PRICE, dataset, priced
from tests.support.networks import long_but

pytestmark = pytest.mark.slow


def train(config: TrainConfig, rows: int = 300, **data: Any) -> Any:
    """Fit quietly on random rows."""
    return fit(LAYOUT, dataset(rows, **data), dataset(200, seed=1), config, progress=False)


def test_the_pairwise_part_learns_an_interaction() -> None:
    """Parity of two fields cannot be told by either alone; the network ranks it nearly right."""
    config = replace(CONFIG, epochs=10, learning_rate=0.05, embedding_l2=0.0)
    # No hidden unit reaches the logit: what is learnt, the FM term has learnt.
    trainer = Trainer(LAYOUT, dataset(2_000), config)
    assert isinstance(trainer.network.mlp, Mlp)
    trainer.network.mlp.output.weight.requires_grad_(False).zero_()
    steps = config.epochs * 32
    for step, rows in enumerate(trainer.shuffled(32)):
        trainer.step(rows, learning_rate(step / steps, config))
    held_out = dataset(2_000, seed=1)
    area = auc(held_out.label, predict(trainer.network, held_out))
    assert area is not None
    assert area > 0.93


def test_the_seed_decides_the_first_weights() -> None:
    """One seed starts from one table, another from another, whatever torch drew before."""

    def first_table(seed: int) -> torch.Tensor:
        torch.rand(seed)
        tables: list[torch.Tensor] = []
        fit(
            LAYOUT,
            dataset(300),
            dataset(200, seed=1),
            replace(CONFIG, seed=seed, epochs=1),
            progress=False,
            begin=lambda network: tables.append(network.table.detach().clone()),
        )
        return tables[0]

    one, again, other = first_table(1), first_table(1), first_table(2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_each_evaluation_is_told_and_may_end_the_training() -> None:
    """Whoever watches sees what the history holds; an error of theirs comes through."""
    seen: list[Evaluation] = []
    data = dataset(300), dataset(200, seed=1)
    result = fit(LAYOUT, *data, CONFIG, progress=False, after=seen.append)
    assert tuple(seen) == result.history

    def stop(evaluation: Evaluation) -> None:
        raise InterruptedError(f"at step {evaluation.step}")

    with pytest.raises(InterruptedError, match=f"at step {seen[0].step}"):
        fit(LAYOUT, *data, CONFIG, progress=False, after=stop)


@pytest.mark.parametrize("name", long_but("lr", "fm", "ffm", "deepfm", "din"))
def test_parity_of_two_fields_is_learnt_by_all_but_lr(name: str) -> None:
    """XOR is what an interaction is: one weight for each feature cannot rank it at all."""
    config = replace(CONFIG, network=name, epochs=20, learning_rate=0.05, embedding_l2=0.0)
    result = fit(LAYOUT, xor(1_000), xor(1_000, seed=1), config, progress=False)
    area = auc(xor(1_000, seed=2).label, predict(result.network, xor(1_000, seed=2)))
    assert area is not None
    assert 0.4 < area < 0.6 if name == "lr" else area > 0.95


def xor(rows: int, seed: int = 0) -> Dataset:
    """Return random rows that are clicks where user and item differ in parity, without lists."""
    data = dataset(rows, seed)
    label = (data.context[:, 0] + data.candidate[:, 0]) % 2
    empty = tuple(np.zeros_like(column) for column in data.candidate_lists)
    return replace(data, candidate_lists=empty, label=label.astype(np.uint8))


def test_fit_beats_the_base_rate() -> None:
    """A short run ends well below the entropy of the labels, and reports its speed."""
    config = replace(CONFIG, epochs=8, learning_rate=0.05, metric="log_loss")
    result = train(config, rows=1_000)
    assert result.best.log_loss < 0.4
    assert result.best.auc > 0.9
    assert result.rows_per_second > 0
    assert not result.network.training


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_weights(threads: int) -> None:
    """Two runs on the same data, lists with repeats included, agree to the last bit."""
    config = replace(CONFIG, threads=threads, oov_rate=0.1)
    first, second = (train(config).network.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_another_seed_gives_other_weights() -> None:
    """The seed reaches initialisation and order."""
    first, second = (train(replace(CONFIG, seed=seed)).network.table for seed in (1, 2))
    assert not torch.equal(first, second)


def test_the_callers_random_state_and_threads_are_untouched() -> None:
    """A fit neither reads nor moves torch's global generator, and puts the threads back."""
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(replace(CONFIG, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_training_has_the_threads_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the caller has those of before."""
    before = torch.get_num_threads()
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with reproducible(1, before + 2):
        assert asked == [before + 2]
    assert asked == [before + 2, before]


def test_the_best_weights_are_restored() -> None:
    """Where a huge step makes the network worse, the weights of the best evaluation come back."""
    config = replace(CONFIG, learning_rate=0.3, warmup=0.0, epochs=30, dropout=0.0, patience=0)
    validation = dataset(300, seed=1)
    result = fit(LAYOUT, dataset(80), validation, config, progress=False)
    logit = predict(result.network, validation) - np.float32(result.bias_added)
    best = max(evaluation.auc or 0.0 for evaluation in result.history)
    assert result.best is not result.history[-1]
    assert result.best.auc == best
    assert auc(validation.label, logit) == pytest.approx(best, abs=1e-3)
    assert log_loss(validation.label, logit) == pytest.approx(result.best.log_loss, abs=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_stops_training(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Such weights are never the best; the step is named."""
    usual = fitting.evaluated
    monkeypatch.setattr(fitting, "evaluated", lambda *given: replace(usual(*given), log_loss=value))
    with pytest.raises(TrainingError, match=rf"the validation loss is {value} at step 2,"):
        train(CONFIG)


def test_networks_are_made_alike_before_they_are_evaluated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The processes of a group evaluate one network together."""
    told: list[str] = []
    usual = fitting.evaluated

    def evaluated(*given: Any) -> Evaluation:
        told.append("evaluated")
        return usual(*given)

    monkeypatch.setattr(fitting, "evaluated", evaluated)
    monkeypatch.setattr(Trainer, "level", lambda trainer: told.append("made alike"))
    train(CONFIG)
    assert told == ["made alike", "evaluated"] * 4


def test_training_stops_when_patience_runs_out() -> None:
    """Patience counts evaluations since the best; 0 waits for ever."""
    config = replace(CONFIG, learning_rate=0.3, epochs=40, patience=3, evaluations_per_epoch=1)
    result = train(config, rows=80)
    assert result.stopped_early
    assert result.history[-4] is result.best
    assert not train(replace(config, epochs=5, patience=0), rows=80).stopped_early


def test_evaluations_are_spread_over_every_epoch() -> None:
    """Three evaluations per epoch come a third of an epoch apart; the last is the last step."""
    config = replace(CONFIG, batch_size=10, evaluations_per_epoch=3, patience=0)
    history = train(config, rows=90).history
    assert [evaluation.step for evaluation in history] == [3, 6, 9, 12, 15, 18]
    assert history[-1].epoch == 2.0


def test_log_loss_can_choose_the_best() -> None:
    """With ``metric = "log_loss"`` a better AUC at a worse loss does not win."""
    history = train(replace(CONFIG, metric="log_loss", epochs=4)).history
    good = replace(history[0], auc=0.7, log_loss=0.5)
    ranked = replace(history[0], auc=0.8, log_loss=0.6)
    assert ranked.beats(good, "auc")
    assert good.beats(ranked, "log_loss")
    assert replace(good, log_loss=0.4).beats(good, "auc")
    assert not good.beats(good, "auc")


def test_few_clicks_choose_by_log_loss() -> None:
    """Where two clicks cannot rank the epochs, the weights are those of the lowest log loss."""
    few = dataset(300, seed=1)
    few.label[np.flatnonzero(few.label)[2:]] = 0
    config = replace(CONFIG, learning_rate=0.1, epochs=6, patience=0)
    result = fit(LAYOUT, dataset(300), few, config, progress=False)
    assert len({evaluation.auc for evaluation in result.history}) > 1
    assert result.best.log_loss == min(evaluation.log_loss for evaluation in result.history)


def test_validation_rows_of_one_class_fall_back_to_log_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an AUC the lowest log loss decides, and a warning says so."""
    validation = replace(dataset(50, seed=1), label=np.zeros(50, np.uint8))
    result = fit(LAYOUT, dataset(300), validation, CONFIG, progress=False)
    assert "warning: the validation labels are all of one class" in capsys.readouterr().err
    assert result.best.auc is None
    assert result.best.log_loss == min(e.log_loss for e in result.history)


@pytest.mark.parametrize("value", [0, 1])
def test_training_rows_of_one_class_are_learnt(value: int) -> None:
    """Labels of one class start from a finite bias and end with a finite loss."""
    only = replace(dataset(100), label=np.full(100, value, np.uint8))
    result = fit(LAYOUT, only, dataset(50, seed=1), CONFIG, progress=False)
    assert np.isfinite([e.log_loss for e in result.history]).all()


@pytest.mark.parametrize("rows", [2, 3, 64, 65, 129])
def test_batch_norm_survives_any_number_of_rows(rows: int) -> None:
    """One row more than a batch leaves no batch of a single row."""
    assert CONFIG.batch_norm
    result = train(CONFIG, rows=rows)
    assert np.isfinite(result.best.log_loss)


def test_batches_are_of_nearly_equal_size() -> None:
    """No batch is above the size asked for, unless one of a single row had to be avoided."""
    assert [batch_count(rows, 64) for rows in (1, 2, 64, 65, 128, 129)] == [1, 1, 1, 2, 2, 3]
    assert batch_count(3, 2) == 1


def test_each_process_of_a_group_has_two_rows_of_every_batch() -> None:
    """Batches grow where they would have fewer, and too few rows are refused."""
    assert [batch_count(rows, 2, 2) for rows in (4, 7, 8, 12)] == [1, 1, 2, 3]
    require_rows(6, dataset(9), CONFIG, Group(0, 3))
    with pytest.raises(TrainingError, match="5 training rows are too few for 3 processes"):
        require_rows(5, dataset(9), CONFIG, Group(0, 3))
    require_rows(1, dataset(9), replace(CONFIG, batch_norm=False))


def test_too_few_rows_are_refused() -> None:
    """An empty part, and a single row under batch norm, are errors that say so."""
    none, one = dataset(0), dataset(1)
    with pytest.raises(TrainingError, match="training part has no rows"):
        fit(LAYOUT, none, dataset(9), CONFIG)
    with pytest.raises(TrainingError, match="validation part has no rows"):
        fit(LAYOUT, dataset(9), none, CONFIG)
    with pytest.raises(TrainingError, match="two training rows"):
        fit(LAYOUT, one, dataset(9), CONFIG)


def test_data_may_be_read_only() -> None:
    """Columns mapped from a file that may not be written train and validate like any other."""
    data = dataset(100)
    data.label.flags.writeable = False
    for column in (data.context, data.candidate, *data.candidate_lists):
        column.flags.writeable = False
    result = fit(LAYOUT, data, data, CONFIG, progress=False)
    assert np.isfinite(predict(result.network, data)).all()


def test_an_interrupt_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the fit at once and leaves torch's threads as they were."""

    def interrupt(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    threads = torch.get_num_threads()
    monkeypatch.setattr(Trainer, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(replace(CONFIG, threads=threads + 1))
    assert torch.get_num_threads() == threads


def test_bfloat16_is_for_the_products_of_training_alone() -> None:
    """It learns nearly the same; what it leaves behind is float32 and scores in float32."""
    runs = {}
    for precision in ("float32", "bfloat16"):
        config = replace(CONFIG, precision=precision, epochs=6, dropout=0.0)
        runs[precision] = train(config, rows=2_000)
    brief, usual = runs["bfloat16"].network, runs["float32"].network
    dtypes = {value.dtype for value in brief.state_dict().values()}
    assert dtypes == {torch.float32, torch.int64, torch.bool}
    held_out = dataset(2_000, seed=2)
    found, expected = predict(brief, held_out), predict(usual, held_out)
    assert not np.array_equal(found, expected)
    area, other = auc(held_out.label, found), auc(held_out.label, expected)
    assert area is not None
    assert other is not None
    assert other > 0.9
    assert area > other - 0.01
    brief.mlp.brief = False
    np.testing.assert_array_equal(predict(brief, held_out), found)


@pytest.mark.parametrize("name", ["lr", "deepfm"])
def test_a_number_is_learnt(name: str) -> None:
    """Each row has its own number, in training as in validation."""
    config = replace(CONFIG, network=name, epochs=6, learning_rate=0.05)
    result = fit(NUMBERS, priced(1_000, 1), priced(500, 2), config, progress=False)
    assert result.best.auc is not None
    assert result.best.auc > 0.85
    assert result.network.table[PRICE, 0].item() > 0.2


def test_the_rate_rises_and_falls_linearly() -> None:
    """The peak is at the end of the warm-up; the rate ends at zero."""
    config = TrainConfig(learning_rate=0.1, warmup=0.2)
    rates = [learning_rate(progress, config) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.05, 0.0])
    assert learning_rate(0.0, replace(config, warmup=0.0)) == 0.1


def test_the_history_tells_rates_and_mean_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evaluation has its step's rate and the mean loss since the one before it."""
    taken: list[tuple[float, float]] = []
    usual = Trainer.step

    def step(trainer: Trainer, rows: Any, rate: float) -> list[float]:
        (loss,) = usual(trainer, rows, rate)
        taken.append((rate, loss))
        return [loss]

    monkeypatch.setattr(Trainer, "step", step)
    history = train(CONFIG).history
    rates, losses = zip(*taken, strict=True)
    # In the middle of each step, so that none has a rate of zero.
    assert rates == pytest.approx([learning_rate((n + 0.5) / 10, CONFIG) for n in range(10)])
    assert min(rates) > 0
    steps = [each.step for each in history]
    for first, each in zip([0, *steps[:-1]], history, strict=True):
        assert each.learning_rate == rates[each.step - 1]
        assert each.train_loss == pytest.approx(np.mean(losses[first : each.step]))


def test_history_is_plain_json() -> None:
    """An evaluation's figures go into a manifest as they are."""
    evaluation: Evaluation = train(replace(CONFIG, epochs=1)).history[0]
    assert all(isinstance(value, int | float) for value in evaluation.to_dict().values())


def test_progress_shows_loss_and_auc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a log, lines count the rows and give the figures of the last evaluation."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "MAX_LINE_SECONDS", 0.0)
    fit(LAYOUT, dataset(300), dataset(200, seed=1), CONFIG, progress=True)
    shown = capsys.readouterr().err
    assert "training: 50%, about" in shown
    assert re.search(r"rows; training loss 0\.\d{4}; validation AUC 0\.\d{4}\)", shown)
