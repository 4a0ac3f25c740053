"""One training step after another: a batch's rows in, weights moved, a loss out.

A step reads and writes only the table rows that its batch names, so it costs about the same
for a thousand rows as for ten million.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.errors import CtrError
from app.features.arrays import Indices
from app.features.layout import PADDING, Layout
from model.array_files import Arrays
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.group import ALONE, Group
from model.networks import build
from model.networks.crosses import CrossWeights
from model.networks.network import Network, NetworkInputs, holding
from model.sharding.shard import Shard
from model.training.checkpoint import TrainingState
from model.training.dense_adam import DenseAdam
from model.training.feed import Feed
from model.training.index_columns import IndexColumns
from model.training.lazy_adam import LazyAdam
from model.training.sampling import Sampling
from model.training.sharded_table import ShardedTable

Rows = NDArray[np.int64]
CUDA_RANDOM = "cuda_random"
"""The name of a GPU's random state among a checkpoint's arrays."""


class TrainingError(CtrError):
    """Training cannot start or continue; the message names the step and the reason."""


class Batch(NamedTuple):
    """The inputs of a step over N rows, on the device that trains."""

    row: Tensor
    """The distinct table rows [P] that the batch names, of all processes."""
    place: NetworkInputs
    """The rows' indices as places in ``row``."""
    inputs: NetworkInputs
    label: Tensor
    weight: Tensor | None
    """Weights [N] over their mean, so that weights of any size train at the same rate."""


class Trainer:
    """A network, its optimisers and the training rows, taken one batch at a time.

    All of it but the rows is on the ``feed``'s device. The network is made on the CPU, where
    ``begin`` may set its weights, so that it starts from the same ones on every device.

    The processes of a ``group`` take each step together: each computes the gradient of its
    share of the batch, and all add up their gradients. With a ``shard`` this process has its rows
    of the table alone.
    """

    def __init__(
        self,
        layout: Layout,
        train: Dataset,
        config: TrainConfig,
        crosses: Sequence[CrossWeights] = (),
        group: Group = ALONE,
        feed: Feed | None = None,
        begin: Callable[[Network], object] | None = None,
        shard: Shard | None = None,
    ) -> None:
        self._group = group
        self._feed = feed = feed or Feed()
        self._sampling = Sampling.of(train, config.negative_rate)
        own = range(layout.table_rows) if shard is None else shard.own
        with nullcontext() if shard is None else holding(own):
            self.network = build(layout, config, self._sampling.base_rate, crosses)
        self._columns = IndexColumns(layout, train)
        self._label = train.label
        self._weight = train.weight
        l2 = self._columns.row_l2(config, self._sampling, own) if config.embedding_l2 else None
        self._random = np.random.default_rng(config.seed)
        self._epoch_seed = 0
        self._config = config
        if group.rank:
            # The same weights everywhere, other units dropped.
            torch.manual_seed(config.seed + 2**32 * group.rank)
        if begin is not None:
            begin(self.network)
        self.network.to(feed.device)
        self._table: LazyAdam | ShardedTable
        self._named_rows: NamedRows | ShardedTable
        table = self.network.table.detach()
        if shard is None:
            self._named_rows = NamedRows(layout.table_rows, group)
            self._table = LazyAdam(table, None if l2 is None else l2.to(feed.device))
        else:
            sharded = ShardedTable(table, self.network.learned, l2, shard)
            self._named_rows = self._table = self.network.elsewhere = sharded
        # Weights of pairs decay as the table does. A step moves them whole, so lambda needs no
        # correction for rows unnamed.
        self._dense = DenseAdam(
            self.network.dense_parameters(),
            decayed=list(self.network.cross_parameters()),
            l2=config.embedding_l2,
        )
        self._unread: deque[tuple[int, float, Callable[[], float]]] = deque()
        """Steps whose losses are not yet read: their number, rate and what reads the loss."""
        self.steps = 0
        """Steps taken so far."""

    @property
    def epoch_rows(self) -> int:
        """Rows that an epoch learns from."""
        return self._sampling.rows

    def shuffled(self, batches: int) -> Iterator[NDArray[np.int64]]:
        """Yield the row numbers of every batch of every epoch, each epoch in a new order.

        A restored trainer continues within its epoch.
        """
        epoch, done = divmod(self.steps, batches)
        for _ in range(epoch, self._config.epochs):
            if not done:
                self._epoch_seed = int(self._random.integers(2**63))
            order = self._sampling.draw(np.random.default_rng(self._epoch_seed))
            yield from islice(cut(order, self._sampling.rows, batches), done, None)
            done = 0

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return all that later steps depend on, as a checkpoint holds it.

        All processes of a group ask at the same step.
        """
        self.level()
        values = {
            "steps": self.steps,
            "random": self._random.bit_generator.state,
            "epoch_seed": self._epoch_seed,
        }
        arrays = named("network", self.network.state_dict()) | named("table", self._table.state())
        arrays |= named("dense", self._dense.state())
        for rank, random in enumerate(self._group.all(torch.get_rng_state().numpy())):
            arrays[f"torch_random.{rank}"] = random
        if self._feed.device.type == "cuda":
            arrays[CUDA_RANDOM] = torch.cuda.get_rng_state(self._feed.device).numpy()
        return values, arrays

    def restore(self, state: TrainingState) -> None:
        """Restore a state of :meth:`state`, whichever device it comes from.

        What was drawn on another device cannot be drawn here: dropout then begins again.
        """
        device = self._feed.device
        self.steps = state.values["steps"]
        self._random.bit_generator.state = state.values["random"]
        self._epoch_seed = state.values["epoch_seed"]
        self.network.load_state_dict(unnamed("network", state.arrays))
        self._table.restore(unnamed("table", state.arrays), self.steps)
        self._dense.restore(unnamed("dense", state.arrays))
        # A sharded table may be resumed by more processes, whose units are then drawn anew.
        if (random := state.arrays.get(f"torch_random.{self._group.rank}")) is not None:
            torch.set_rng_state(torch.from_numpy(random))
        if device.type == "cuda" and CUDA_RANDOM in state.arrays:
            torch.cuda.set_rng_state(torch.from_numpy(state.arrays[CUDA_RANDOM]), device)

    def level(self) -> None:
        """Give the network of every process the same running statistics, their mean."""
        running = [value for value in self.network.buffers() if value.is_floating_point()]
        if self._group.size > 1 and running:
            self._group.add(running)
            for value in running:
                value.div_(self._group.size)

    def step(self, rows: Rows, rate: float) -> list[float]:
        """Take one step on a batch of rows; return the losses that are known by now.

        They are the mean log losses before each step: on the CPU that of this step, on a GPU those
        of steps before it, so that nothing waits; :meth:`rest` returns the others.

        Raises:
            TrainingError: a loss is not finite; on the CPU no weight has moved by it.
        """
        self.steps += 1
        batch = self._batch(rows)
        if not self._table.exchanges:
            self.network.learned.index_fill_(0, batch.row, True)

        self.network.train()
        value = self._table.gather(batch.row)
        logit = self.network.logit(value, batch.place, batch.inputs)
        loss = functional.binary_cross_entropy_with_logits(
            logit + self._sampling.shift, batch.label, batch.weight
        )
        # This process' part of the mean over the batch.
        loss = loss * (len(batch.label) / len(rows))
        self.network.zero_grad()
        torch.autograd.backward(loss)
        dense = (parameter.grad for parameter in self.network.dense_parameters())
        everywhere = [None if self._table.exchanges else value.grad, *dense]
        gradients = [gradient for gradient in everywhere if gradient is not None]
        self._group.add([loss, *gradients])
        self._unread.append((self.steps, rate, self._feed.reading(loss)))
        known = self._read(self._feed.ahead)
        self._dense.step(rate)
        self._table.step(batch.row, value, rate)
        return known

    def rest(self) -> list[float]:
        """Wait for all steps and return the losses that were not yet known.

        Raises:
            TrainingError: one of them is not finite.
        """
        return self._read(0)

    def _read(self, left: int) -> list[float]:
        """Read losses, the oldest first, until so many are left."""
        known = []
        while len(self._unread) > left:
            step, rate, reading = self._unread.popleft()
            known.append(reading())
            if not math.isfinite(known[-1]):
                raise TrainingError(not_finite("loss", known[-1], step, rate))
        return known

    def _batch(self, rows: Rows) -> Batch:
        """Return this process' share of a batch, with some of its values hidden."""
        share = self._group.share(rows)
        columns = self._columns
        index = columns.take(share)
        if self._config.oov_rate:
            # Drawn for the whole batch, so that this generator is the same everywhere.
            drawn = self._random.random((len(rows), index.shape[1]), np.float32)
            hidden = drawn[self._group.rank :: self._group.size] < self._config.oov_rate
            index = np.where(hidden & columns.can_hide, columns.oov, index)
        row, place = self._named_rows.find(index)
        label = torch.from_numpy(self._label[share].astype(np.float32))
        given = [row, place, torch.from_numpy(index), label, *columns.values(share)]
        if self._weight is not None:
            weight = self._weight[share] / np.float32(self._sampling.mean_weight)
            given.append(torch.from_numpy(weight))
        row, place, whole, label, *rest = self._feed.put(given)
        relative = rest.pop() if self._weight is not None else None
        return Batch(row, columns.inputs(place, rest), columns.inputs(whole, rest), label, relative)


def cut(pieces: Iterable[Rows], rows: int, batches: int) -> Iterator[Rows]:
    """Cut ``rows`` row numbers, which come in pieces, into batches of nearly equal size."""
    size, larger = divmod(rows, batches)
    waiting = np.zeros(0, np.int64)
    number = 0
    for piece in pieces:
        waiting = np.concatenate([waiting, piece])
        start = 0
        while number < batches and start + (wanted := size + (number < larger)) <= len(waiting):
            yield waiting[start : start + wanted]
            start += wanted
            number += 1
        waiting = waiting[start:]


class NamedRows:
    """Finds the distinct table rows of a batch by marking them, without sorting."""

    def __init__(self, table_rows: int, group: Group = ALONE) -> None:
        self._group = group
        self._marked = np.zeros(table_rows, np.bool_)
        self._position = np.zeros(table_rows, np.int32)

    def find(self, index: Indices) -> tuple[Tensor, Tensor]:
        """Return the distinct rows [P], ascending, and each index's position among them.

        The rows are those of all processes of the group. Padding is always there, at position 0.
        """
        self._marked[PADDING] = True
        self._marked[index] = True
        row = np.flatnonzero(self._marked)
        if self._group.size > 1:
            for named in self._group.all(row):
                self._marked[named] = True
            row = np.flatnonzero(self._marked)
        self._marked[row] = False
        self._position[row] = np.arange(len(row), dtype=np.int32)
        return torch.from_numpy(row), torch.from_numpy(self._position[index].astype(np.int64))


def named(prefix: str, tensors: Mapping[str, Tensor]) -> Arrays:
    """Return tensors as arrays whose names start with ``prefix``."""
    return {f"{prefix}.{name}": value.cpu().numpy() for name, value in tensors.items()}


def unnamed(prefix: str, arrays: Arrays) -> dict[str, Tensor]:
    """Return the tensors of arrays whose names start with ``prefix``."""
    return {
        name.removeprefix(f"{prefix}."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(f"{prefix}.")
    }


def not_finite(what: str, value: float, step: int, rate: float) -> str:
    """Return the message of a loss that ends training."""
    return f"the {what} is {value} at step {step}, at a rate of {rate:.2g}: lower learning_rate"
