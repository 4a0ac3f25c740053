"""A step moves the rows that its batch names, by the gradient and the L2 that each has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.data.dataset import Dataset
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
