"""Rows of the table that nothing trained, and the mean rows that take their place.

A row that no step has named keeps its random start, which would move a logit by chance: the missing
row of a field that is never absent in training, the OOV row where no value is rare, buckets without
numbers. It becomes the slot's mean, so that such a value counts as an average one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.features.layout import Layout
from model.data.dataset import Dataset
from model.data.slot_counts import SlotCounts, count_slots
from model.networks.crosses import CrossTerm
from model.networks.network import Network
from model.sharding.shard import Shard

_ROWS_AT_ONCE = 2**16
Rows = NDArray[np.float64]


@torch.no_grad()
def set_mean_rows(
    network: Network, layout: Layout, train: Dataset, shard: Shard | None = None
) -> None:
    """Set each slot's mean row, and give it to the rows of the slot that nothing trained.

    The mean is what the slot contributes to a row of ``train`` on average: the row of each value by
    its count, a list being the mean of its values and a scaled row taken times its number. Weights
    of pairs of values become the mean weight likewise where no row has such a pair. The network has
    the rows of its ``shard``, by default all.
    """
    shard = shard or Shard(len(network.table))
    for counts in count_slots(layout, train):
        if counts.slot.mean is not None:
            _set_mean_row(network, counts, len(train), shard)
    for term in network.modules():
        if isinstance(term, CrossTerm):
            _set_mean_weight(term, train)


def _set_mean_row(network: Network, counts: SlotCounts, total: int, shard: Shard) -> None:
    slot, start = counts.slot, shard.own.start
    held = shard.within(slot.first, slot.size)
    taken = slice(held.start - start, held.stop - start)
    own, learned = network.table[taken], network.learned[taken].numpy()
    there = slice(held.start - slot.first, held.stop - slot.first)
    factors, named = counts.factors[there], counts.rows[there]
    among, besides = shard.sums(float(named[learned].sum()), float(named[~learned].sum()))
    rows = float(total)
    if among:
        # The other rows hold nothing: rows that have their values do not count.
        factors = np.where(learned, factors, 0)
        rows -= besides
    sums = shard.sums(*_weighed_sum(own, factors))
    mean = torch.from_numpy((np.array(sums) / max(rows, 1)).astype(np.float32))
    for place in shard.within(slot.mean, 1) if slot.mean is not None else ():
        network.table[place - start] = mean
    if slot.shares is None:
        own[torch.from_numpy(~learned)] = mean


def _weighed_sum(rows_RC: Tensor, weights: Rows) -> Rows:
    """Return the sum [C] of rows times their weights, in float64, some rows at a time."""
    total = np.zeros(rows_RC.shape[1])
    for start in range(0, len(rows_RC), _ROWS_AT_ONCE):
        taken = slice(start, start + _ROWS_AT_ONCE)
        total += weights[taken] @ rows_RC[taken].numpy().astype(np.float64)
    return total


def _set_mean_weight(term: CrossTerm, train: Dataset) -> None:
    """Set the weight of a mean's pairs, and that of rare pairs if no row has one."""
    unnamed = torch.ones(len(term.weight), dtype=torch.bool)
    total = 0.0
    for start in range(0, len(train), _ROWS_AT_ONCE):
        inputs = train.take(slice(start, start + _ROWS_AT_ONCE)).inputs()
        unnamed[term.weight_numbers(inputs).flatten()] = False
        total += float(term(inputs).double().sum())
    unnamed[0] = False
    term.weight[unnamed] = total / max(len(train), 1)
