"""Rows that nothing trained become the slot's mean, which is what the field gives on average."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.features.layout import Layout
from model.config import NETWORKS
from model.data.dataset import Dataset
from model.networks import build
from model.networks.crosses import MEAN, RARE, CrossTerm, CrossWeights, Operand, Pairs
from model.networks.network import Network, look_up
from model.training.fit import fit
from model.training.mean_rows import set_mean_rows
from tests.support.clicks import CONFIG, LAYOUT, NUMBERS, dataset, priced
from tests.support.networks import with_means

CLICKS = with_means(LAYOUT)
PRICED = with_means(NUMBERS)
CASES = [(CLICKS, dataset(301)), (PRICED, priced(301, 1))]


def network_of(layout: Layout, data: Dataset, name: str = "fm") -> Network:
    """A network all rows of which are something; learned are those that the data name."""
    torch.manual_seed(3)
    network = build(layout, replace(CONFIG, network=name))
    with torch.no_grad():
        network.table[1:].normal_()
    for column in (data.context, data.candidate, *data.context_lists, *data.candidate_lists):
        network.learned[np.unique(column)] = True
    return network


@pytest.mark.parametrize(("layout", "data"), CASES, ids=["lists", "numbers"])
def test_the_mean_is_what_the_field_gives_on_average(layout: Layout, data: Dataset) -> None:
    """A row of means has the mean fields of the training rows: of lists, of numbers, of values."""
    network = network_of(layout, data)
    before = network.table.detach().clone()
    set_mean_rows(network, layout, data)
    every = data.inputs()
    fields = look_up(before, every.candidate, every.candidate_lists, every.candidate_value)
    means = [slot.mean for slot in (*layout.candidate, *layout.candidate_lists)]
    torch.testing.assert_close(network.table[means], fields.mean(0), rtol=0, atol=1e-6)
    users = before[data.context[:, 0]].mean(0)
    torch.testing.assert_close(network.table[layout.context[0].mean], users, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layout", "data"), CASES, ids=["lists", "numbers"])
def test_untrained_rows_are_the_mean_and_others_stay(layout: Layout, data: Dataset) -> None:
    """Only rows that no step has named change, and they are the mean bit for bit."""
    network = network_of(layout, data)
    before = network.table.detach().clone()
    set_mean_rows(network, layout, data)
    learned = network.learned
    assert torch.equal(network.table[learned], before[learned])
    assert not network.table[0].any()
    for slot in layout.slots:
        own = network.table[slot.first : slot.first + slot.size]
        untrained = ~learned[slot.first : slot.first + slot.size]
        assert untrained.any()
        assert (own[untrained] == network.table[slot.mean]).all()


def test_values_that_no_step_has_named_do_not_count() -> None:
    """The best weights may be from before a value's first batch: its random row is no mean."""
    data = dataset(301)
    network = network_of(CLICKS, data)
    user = 3
    network.learned[user] = False
    with torch.no_grad():
        network.table[user] = 1e6
    others = data.context[data.context[:, 0] != user, 0]
    expected = network.table[others].mean(0)
    set_mean_rows(network, CLICKS, data)
    for row in (CLICKS.context[0].mean, user, CLICKS.context[0].missing):
        torch.testing.assert_close(network.table[row], expected, rtol=0, atol=1e-6)


def test_a_slot_without_values_is_zero() -> None:
    """Where every list is empty nothing is learned, and nothing random is left."""
    data = dataset(64)
    empty = replace(data, candidate_lists=(np.zeros_like(data.candidate_lists[0]),))
    network = network_of(CLICKS, empty)
    set_mean_rows(network, CLICKS, empty)
    (slot,) = CLICKS.candidate_lists
    assert not network.table[slot.first : slot.first + slot.size].any()
    assert not network.table[slot.mean].any()


def test_a_layout_without_means_is_left_as_it_is() -> None:
    """Layouts of format 1 have no mean rows."""
    network = network_of(LAYOUT, dataset(64))
    before = network.table.detach().clone()
    set_mean_rows(network, LAYOUT, dataset(64))
    assert torch.equal(network.table, before)


@torch.no_grad()
def test_means_of_pairs() -> None:
    """A mean's pairs have the mean weight over the rows, and so have rare pairs if none is."""
    data = dataset(301)
    pairs = Pairs(Operand.find(CLICKS, "user"), Operand.find(CLICKS, "genres"))
    for rare in (False, True):
        weight_of = np.random.default_rng(0).integers(3, 6, pairs.numbers).astype(np.int32)
        if rare:
            weight_of[weight_of == 5] = RARE
        crosses = [CrossWeights(pairs, weight_of, 6)]
        network = build(CLICKS, replace(CONFIG, network="wide_deep"), 0.5, crosses)
        (term,) = (each for each in network.modules() if isinstance(each, CrossTerm))
        term.weight[1:] = torch.randn(5, 1)
        before = term.weight.clone()
        expected = float(term(data.inputs()).mean())
        set_mean_rows(network, CLICKS, data)
        changed = (term.weight != before).flatten().tolist()
        assert changed == [False, not rare, True, False, False, rare]
        assert float(term.weight[MEAN]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_leaves_no_row_to_chance(name: str) -> None:
    """Two trainings alike but for the rows that nothing trains end with the same table."""
    tables = []
    for start in (0.0, 9.0):

        def begin(network: Network, start: float = start) -> None:
            with torch.no_grad():
                network.table[[1, 2, 7, 8, 13, 14]] += start

        config = replace(CONFIG, network=name, epochs=4, learning_rate=0.03, metric="log_loss")
        result = fit(CLICKS, dataset(600), dataset(200, 1), config, False, begin)
        assert result.best.step > 0
        tables.append(result.network.table)
    assert torch.equal(*tables)
