"""A step moves the rows that its batch names, by the gradient and the L2 that each has."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from model.data.dataset import Dataset
from model.group import Group
from model.networks.network import Network
from model.training.checkpoint import TrainingState
from model.training.feed import Feed
from model.training.index_columns import IndexColumns
from model.training.sampling import Sampling
from model.training.trainer import NamedRows, Trainer, TrainingError
from tests.support.clicks import (
    CONFIG,
    LAYOUT,
    MISSING_PRICE,
    NUMBERS,
    OOV_PRICE,
    PRICE,
    dataset,
    priced,
)


def test_a_loss_that_is_not_finite_stops_training() -> None:
    """Training ends before the step that would spread it, and names the step."""
    trainer = Trainer(LAYOUT, dataset(64), CONFIG)
    rows = np.arange(64)
    trainer.step(rows, 0.01)
    with torch.no_grad():
        trainer.network.bias.fill_(torch.nan)
    before = trainer.network.table.clone()
    with pytest.raises(TrainingError, match="nan at step 2"):
        trainer.step(rows, 0.01)
    assert torch.equal(trainer.network.table, before)


def test_a_loss_that_overflows_stops_training_before_any_weight_moves() -> None:
    """Infinity is no loss either, and hidden layers wait for it as the table does."""
    trainer = Trainer(LAYOUT, dataset(64), CONFIG)
    rows = np.arange(64)
    trainer.step(rows, 0.01)
    with torch.no_grad():
        # One row's loss is finite, the sum over the rows without a click is not.
        trainer.network.bias.fill_(3e38)
    before = {name: value.detach().clone() for name, value in trainer.network.named_parameters()}
    with pytest.raises(TrainingError, match=r"the loss is inf at step 2, at a rate of 0\.01"):
        trainer.step(rows, 0.01)
    for name, value in trainer.network.named_parameters():
        assert torch.equal(value, before[name]), name


def test_rows_that_no_batch_names_stay_as_they_are() -> None:
    """Padding stays zero and a value absent from the data keeps its first row, bit for bit."""
    trainer = Trainer(LAYOUT, dataset(300, users=3), CONFIG)
    before = trainer.network.table.detach().clone()
    for rows in trainer.shuffled(5):
        trainer.step(rows, 0.01)
    after = trainer.network.table.detach()
    absent = [1, 2, 6, 7, 8, 13, 14]
    assert not after[0].any()
    assert torch.equal(after[absent], before[absent])
    changed = (after != before).any(dim=1)
    assert changed.sum() == LAYOUT.table_rows - 1 - len(absent)


def test_oov_rows_are_trained_where_asked() -> None:
    """With an ``oov_rate`` the single-valued slots' OOV rows move; lists and padding do not."""
    trainer = Trainer(LAYOUT, dataset(300), replace(CONFIG, oov_rate=0.3))
    before = trainer.network.table.detach().clone()
    for rows in trainer.shuffled(5):
        trainer.step(rows, 0.01)
    changed = (trainer.network.table != before).any(dim=1)
    assert [bool(changed[row]) for row in (0, 2, 8, 14)] == [False, True, True, False]


def test_numbers_are_not_hidden() -> None:
    """A number cannot be unseen: an ``oov_rate`` leaves the row alone that no value has."""
    config = replace(CONFIG, oov_rate=0.5)
    trainer = Trainer(NUMBERS, priced(300, 1), config)
    before = trainer.network.table.detach().clone()
    for rows in trainer.shuffled(5):
        trainer.step(rows, 0.01)
    changed = (trainer.network.table != before).any(dim=1).tolist()
    assert [changed[row] for row in (2, 8, MISSING_PRICE, OOV_PRICE, PRICE)] == [
        True, True, True, False, True,
    ]  # fmt: skip


def test_named_rows_are_found_without_sorting() -> None:
    """The distinct rows and the positions among them rebuild the indices, padding first."""
    named = NamedRows(100)
    for seed in range(3):
        index = np.random.default_rng(seed).integers(1, 100, (8, 5)).astype(np.int32)
        row, position = named.find(index)
        assert row.tolist() == sorted({0, *index.ravel().tolist()})
        np.testing.assert_array_equal(row[position.long()].numpy(), index)


def test_rare_rows_are_decayed_as_much_as_common_ones() -> None:
    """A row in a share P of the batches is decayed 1/P as hard; one in every batch, by lambda."""
    rows = 1_000
    data = Dataset(
        context=np.full((rows, 1), 3, np.int32),
        candidate=np.r_[np.full(10, 9), np.full(rows - 10, 10)][:, None].astype(np.int32),
        context_lists=(),
        candidate_lists=(np.zeros((rows, 2), np.int32),),
        label=np.zeros(rows, np.uint8),
    )
    config = replace(CONFIG, embedding_l2=0.5, batch_size=50)
    l2 = IndexColumns(LAYOUT, data).row_l2(config, Sampling.of(data, 1.0), range(LAYOUT.table_rows))
    assert l2[3].item() == pytest.approx(0.5)
    assert l2[9].item() == pytest.approx(0.5 / (1 - 0.99**50))
    assert l2[11].item() == 0.0


def test_rows_that_are_hidden_are_decayed_less_and_oov_rows_more() -> None:
    """With an ``oov_rate`` a value is named in fewer batches than the data say, and OOV in more."""
    rows, rate = 1_000, 0.2
    data = Dataset(
        context=np.full((rows, 1), 3, np.int32),
        candidate=np.r_[np.full(10, 9), np.full(rows - 10, 10)][:, None].astype(np.int32),
        context_lists=(),
        candidate_lists=(np.r_[np.full(10, 15), np.zeros(rows - 10)][:, None].astype(np.int32),),
        label=np.zeros(rows, np.uint8),
    )
    config = replace(CONFIG, embedding_l2=0.5, batch_size=50, oov_rate=rate)
    l2 = IndexColumns(LAYOUT, data).row_l2(config, Sampling.of(data, 1.0), range(LAYOUT.table_rows))

    def expected(named: float) -> float:
        return 0.5 / (1 - (1 - named) ** 50)

    user_oov, item_oov = 2, 8
    assert l2[9].item() == pytest.approx(expected(0.01 * (1 - rate)))
    assert l2[user_oov].item() == pytest.approx(expected(rate))
    assert l2[item_oov].item() == pytest.approx(expected(rate))
    assert l2[15].item() == pytest.approx(expected(0.01)), "lists are never hidden"


class Pair:
    """Two processes that train together, as threads of this one."""

    def __init__(self) -> None:
        self._given: list[Any] = [None, None]
        self._barrier = Barrier(2, timeout=60)

    def group(self, rank: int) -> Group:
        """Return the group as the process of a rank has it."""

        def exchange(value: Any) -> list[Any]:
            self._given[rank] = value
            self._barrier.wait()
            both = list(self._given)
            self._barrier.wait()
            return both

        def add(tensors: Iterable[Tensor]) -> None:
            mine, other = exchange([tensor.detach().clone() for tensor in tensors])
            for tensor, *parts in zip(tensors, mine, other, strict=True):
                tensor.detach().copy_(sum(parts))

        share = Group(rank, 2).share
        given = SimpleNamespace(rank=rank, size=2, share=share, add=add, all=exchange)
        return cast(Group, given)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def test_two_take_the_steps_of_one() -> None:
    """Each has the half of every batch; losses, weights and the rows that were named are those of
    a process that has it whole, and hidden values are the same ones."""
    config = replace(CONFIG, dropout=0.0, oov_rate=0.3, batch_norm=False)
    data = dataset(325)
    data = replace(data, weight=np.linspace(1, 3, 325, dtype=np.float32))

    def trained(group: Group | None) -> tuple[list[float], dict[str, Tensor]]:
        words = {} if group is None else {"group": group}
        trainer = Trainer(LAYOUT, data, config, begin=same, **words)  # type: ignore[arg-type]
        losses = []
        for rows in trainer.shuffled(5):
            losses += trainer.step(rows, 0.01)
        return losses, weights(trainer)

    def same(network: Network) -> None:
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in network.parameters():
                value.copy_(0.1 * torch.randn(value.shape, generator=drawn))

    pair = Pair()
    with torch.random.fork_rng(), ThreadPoolExecutor(2) as threads:
        expected, alone = trained(None)
        for losses, found in threads.map(trained, [pair.group(rank) for rank in (0, 1)]):
            assert losses == pytest.approx(expected, abs=1e-6)
            for name, value in alone.items():
                torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("size", [2, 3])
def test_others_of_a_group_drop_other_units_and_share_statistics(size: int) -> None:
    """The seed tells the processes apart; what batch norm has seen is the mean of all."""
    config = replace(CONFIG, batch_norm=True)

    def add(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor.add_(3.0)

    group = SimpleNamespace(rank=size - 1, size=size, add=add)
    with torch.random.fork_rng():
        trainer = Trainer(LAYOUT, dataset(64), config, group=cast(Group, group))
        assert torch.initial_seed() == config.seed + (size - 1) * 2**32
    before = {name: value.clone() for name, value in trainer.network.named_buffers()}
    running = [name for name in before if "running" in name]
    trainer.level()
    for name, value in trainer.network.named_buffers():
        expected = (before[name] + 3.0) / size if name in running else before[name]
        torch.testing.assert_close(value, expected)
    assert len(running) == 2
    alone = Trainer(LAYOUT, dataset(64), config)
    before = weights(alone)
    alone.level()
    assert all(torch.equal(value, before[name]) for name, value in weights(alone).items())


def test_a_restored_trainer_goes_on_as_the_first_did() -> None:
    """Within an epoch, with what is dropped, hidden and drawn, bit for bit."""
    config, data = replace(CONFIG, oov_rate=0.2), dataset(300)
    with torch.random.fork_rng():
        trainer = Trainer(LAYOUT, data, config)
        batches = trainer.shuffled(5)
        for _ in range(7):
            trainer.step(next(batches), 0.01)
        state = TrainingState(7, *copy.deepcopy(trainer.state()))
        expected = [(rows.tolist(), trainer.step(rows, 0.01)) for rows in batches]
        assert len(expected) == 3
        other = Trainer(LAYOUT, data, config)
        other.restore(state)
        assert other.steps == 7
        assert [(rows.tolist(), other.step(rows, 0.01)) for rows in other.shuffled(5)] == expected
        for name, value in weights(trainer).items():
            assert torch.equal(weights(other)[name], value), name


def test_a_state_has_the_mean_statistics_and_what_each_process_draws_from() -> None:
    """A process goes on from its own random state; where there is none, from what it has."""

    def add(tensors: list[Tensor]) -> None:
        for tensor in tensors:
            tensor.add_(3.0)

    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = torch.get_rng_state().numpy().copy()
        group = SimpleNamespace(rank=1, size=2, add=add, all=lambda own: [first, own.copy()])
        config = replace(CONFIG, batch_norm=True)
        trainer = Trainer(LAYOUT, dataset(64), config, group=cast(Group, group))
        before = {
            name: value.clone()
            for name, value in trainer.network.named_buffers()
            if "running" in name
        }
        own = torch.get_rng_state()
        values, arrays = copy.deepcopy(trainer.state())
        assert len(before) == 2
        for name, value in before.items():
            np.testing.assert_allclose(arrays[f"network.{name}"], (value + 3.0) / 2)
        np.testing.assert_array_equal(arrays["torch_random.0"], first)
        np.testing.assert_array_equal(arrays["torch_random.1"], own)
        torch.manual_seed(8)
        anew = torch.get_rng_state()
        trainer.restore(TrainingState(0, values, arrays))
        assert torch.equal(torch.get_rng_state(), own)
        del arrays["torch_random.1"]
        torch.set_rng_state(anew)
        trainer.restore(TrainingState(0, values, arrays))
        assert torch.equal(torch.get_rng_state(), anew)


def test_each_epoch_has_an_order_of_its_own() -> None:
    """And all rows once."""
    batches = list(Trainer(LAYOUT, dataset(300), CONFIG).shuffled(5))
    first, second = (np.concatenate(part).tolist() for part in (batches[:5], batches[5:]))
    assert sorted(first) == sorted(second) == list(range(300))
    assert first != second
    assert first != sorted(first)


def test_an_epoch_has_the_share_of_negatives_that_was_asked_for() -> None:
    """Every click, and half of the other rows."""
    data = dataset(400)
    trainer = Trainer(LAYOUT, data, replace(CONFIG, negative_rate=0.5))
    clicks = int(data.label.sum())
    expected = clicks + round(0.5 * (400 - clicks))
    assert trainer.epoch_rows == expected
    batches = list(trainer.shuffled(4))
    for epoch in (batches[:4], batches[4:]):
        rows = np.concatenate(epoch)
        assert (len(rows), data.label[rows].sum()) == (expected, clicks)


def test_the_seed_decides_the_order_and_what_is_hidden() -> None:
    """One seed draws the same again, another one others."""

    def drawn(seed: int) -> tuple[list[int], list[list[int]]]:
        trainer = Trainer(LAYOUT, dataset(300), replace(CONFIG, seed=seed, oov_rate=0.3))
        rows = next(trainer.shuffled(5))
        return rows.tolist(), trainer._batch(np.arange(300)).inputs.context.tolist()

    one, again, other = drawn(1), drawn(1), drawn(2)
    assert one == again
    assert one[0] != other[0]
    assert one[1] != other[1]


def test_the_bias_starts_at_the_click_rate_of_all_rows() -> None:
    """Of those too that the files, or an epoch, leave out: 10 clicks in 190 rows."""
    label = np.repeat(np.array([1, 0], np.uint8), [10, 90])
    data = replace(dataset(100), label=label, kept=0.5)
    trainer = Trainer(LAYOUT, data, replace(CONFIG, negative_rate=0.5))
    assert trainer.network.bias.item() == pytest.approx(math.log(10 / 180), rel=1e-5)


def test_a_step_is_as_long_as_its_rate() -> None:
    """Adam's first moves each weight by the rate, whatever the settings say and its gradient is."""
    trainer = Trainer(LAYOUT, dataset(64), replace(CONFIG, embedding_l2=0.0, dropout=0.0))
    before = weights(trainer)
    trainer.step(np.arange(64), 0.003)
    after = weights(trainer)
    for name in ("table", "bias"):
        moved = (after[name] - before[name]).abs()
        assert moved.max() == pytest.approx(0.003, rel=1e-3)
    named = np.zeros(LAYOUT.table_rows, bool)
    for part in (dataset(64).context, dataset(64).candidate, *dataset(64).candidate_lists):
        named[part] = True
    named[0] = True
    assert after["learned"].tolist() == named.tolist()


def test_losses_that_come_late_are_told_in_their_order() -> None:
    """Each once: those that are known with a step, the others at the end."""

    class Late(Feed):
        ahead = 2

    found: list[list[float]] = []
    for feed in (Feed(), Late()):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            trainer = Trainer(LAYOUT, dataset(320), CONFIG, feed=feed)
            found.append([])
            for number, rows in enumerate(trainer.shuffled(5), 1):
                found[-1] += trainer.step(rows, 0.01)
                assert len(found[-1]) == max(0, number - feed.ahead)
            found[-1] += trainer.rest()
    assert found[0] == found[1]
    assert len(found[0]) == 10


def test_weights_of_rows_are_taken_over_their_mean() -> None:
    """Over that of all rows, so that a batch of heavy ones counts for more."""
    data = replace(
        dataset(100), weight=np.r_[np.full(50, 3.0), np.full(50, 1.0)].astype(np.float32)
    )
    trainer = Trainer(LAYOUT, data, replace(CONFIG, dropout=0.0))
    same = Trainer(LAYOUT, dataset(100), replace(CONFIG, dropout=0.0))
    same.network.load_state_dict(trainer.network.state_dict())
    rows = np.arange(40)
    (loss,), (unweighted,) = trainer.step(rows, 0.01), same.step(rows, 0.01)
    assert loss == pytest.approx(1.5 * unweighted, rel=1e-5)


def test_values_are_hidden_as_often_as_was_asked() -> None:
    """Each for itself, anew in each step."""
    trainer = Trainer(LAYOUT, dataset(4_000), replace(CONFIG, oov_rate=0.25))
    hidden = [trainer._batch(np.arange(4_000)).inputs for _ in range(2)]
    users, items = hidden[0].context[:, 0] == 2, hidden[0].candidate[:, 0] == 8
    for each in (users, items):
        assert each.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (users & items).float().mean().item() == pytest.approx(0.0625, abs=0.02)
    assert not torch.equal(hidden[0].context, hidden[1].context)
