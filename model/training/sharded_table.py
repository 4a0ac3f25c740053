"""A table of which each process holds its own rows, with their moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor
from torch import distributed as dist

from app.features.arrays import Indices
from app.features.layout import PADDING
from model.networks.network import NetworkInputs
from model.sharding.row_exchange import RowExchange
from model.sharding.shard import Shard
from model.training.lazy_adam import LazyAdam

_ENDED, _LOOK_UP, _PIECES = 0, 1, 2
"""The first process' questions, of :meth:`ShardedTable.asking`."""


class ShardedTable:
    """The rows [own, C] of a table that this process holds, and the way to all others.

    To the trainer it is what :class:`LazyAdam` and ``NamedRows`` are of a whole table, and takes
    the same steps: a row that any process' batch names is moved once, by the sum of their
    gradients. All processes call each method together, but under :meth:`asking`.
    """

    exchanges = True
    """Gradients of gathered rows are not those of all processes before :meth:`step`."""

    def __init__(
        self, table_TC: Tensor, learned_T: Tensor, row_l2: Tensor | None, shard: Shard
    ) -> None:
        """Take this process' rows, which steps change in place, and its marks of named ones."""
        self.shard = shard
        self._table_TC = table_TC
        self._learned_T = learned_T
        self._adam = LazyAdam(table_TC, row_l2)
        self._exchange = RowExchange(shard)
        self._asking = False
        # Of the last gather: places asked of this process, their rows, and what was answered.
        self._place_Q = torch.zeros(0, dtype=torch.int64)
        self._held_QC = self._found_PC = torch.zeros(0, table_TC.shape[1])

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return self.shard.rows

    def state(self) -> dict[str, Tensor]:
        """Return the moments [own, C] by name."""
        return self._adam.state()

    def restore(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Take over this process' moments after so many steps."""
        self._adam.restore(moments, steps)

    def find(self, index: Indices) -> tuple[Tensor, Tensor]:
        """Return this process' distinct rows [P], ascending, and each index's position among them.

        Padding is always there, at position 0.
        """
        return distinct(torch.from_numpy(index))

    def gather(self, row_P: Tensor) -> Tensor:
        """Return the rows [P, C] as a leaf that collects its gradient, for the next step."""

        def held(place_Q: Tensor) -> Tensor:
            self._place_Q = place_Q
            self._learned_T.index_fill_(0, place_Q, True)
            self._held_QC = self._table_TC.index_select(0, place_Q).requires_grad_()
            return self._held_QC

        self._found_PC = self._exchange.look_up(row_P, held)
        return self._found_PC.detach().requires_grad_()

    def step(self, row_P: Tensor, value_PC: Tensor, rate: float) -> None:
        """Move the rows that any process has gathered against their gradient, padding excepted."""
        torch.autograd.backward(self._found_PC, value_PC.grad)
        gradient_QC = self._held_QC.grad
        assert gradient_QC is not None
        own_R, of_Q = torch.unique(self._place_Q, return_inverse=True)
        gradient_RC = gradient_QC.new_zeros(len(own_R), gradient_QC.shape[1])
        gradient_RC.index_add_(0, of_Q, gradient_QC)
        if PADDING in self.shard.own:
            own_R, gradient_RC = own_R[1:], gradient_RC[1:]
        self._adam.move(own_R, self._table_TC.index_select(0, own_R), gradient_RC, rate)

    def look_up(self, row_P: Tensor) -> Tensor:
        """Return the rows [P, C] without gradients."""
        if self._asking:
            self._tell(_LOOK_UP)
        # Outside of the caller's inference mode, as torchrec's exchanges keep tensors.
        with torch.inference_mode(False), torch.no_grad():
            return self._exchange.look_up(
                row_P.clone(), lambda place_Q: self._table_TC.index_select(0, place_Q)
            )

    def rows_of(self, inputs: NetworkInputs) -> tuple[Tensor, NetworkInputs]:
        """Return the distinct rows [P, C] that inputs name, and the inputs as places in them."""
        lists = *inputs.context_lists, *inputs.candidate_lists
        parts = inputs.context, inputs.candidate, *lists
        row_P, place = distinct(torch.cat([part.flatten() for part in parts]))
        places = [
            found.view(part.shape)
            for found, part in zip(
                torch.split(place, [part.numel() for part in parts]), parts, strict=True
            )
        ]
        split = 2 + len(inputs.context_lists)
        return self.look_up(row_P), inputs._replace(
            context=places[0],
            candidate=places[1],
            context_lists=places[2:split],
            candidate_lists=places[split:],
        )

    def attend(self) -> None:
        """Take part in a look-up for which this process has no rows to ask for."""
        self.look_up(torch.tensor([PADDING]))

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows [R, C] in order, some at a time, with the number of the first of them.

        In the first process, under :meth:`asking`.
        """
        self._tell(_PIECES)
        first = 0
        for piece in self.shard.to_first(self._table_TC.numpy()):
            yield first, torch.from_numpy(piece)
            first += len(piece)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let the first process alone look up rows, while the others answer it and wait here."""
        if self.shard.group.rank:
            self._answer()
            yield
            return
        self._asking = True
        try:
            yield
        except BaseException:
            # Where a process has died, the error is what led here.
            with suppress(RuntimeError):
                self._tell(_ENDED)
            raise
        finally:
            self._asking = False
        self._tell(_ENDED)

    def _answer(self) -> None:
        while (asked := self._told()) != _ENDED:
            if asked == _LOOK_UP:
                self.attend()
            else:
                for _ in self.shard.to_first(self._table_TC.numpy()):
                    pass

    def _tell(self, question: int) -> None:
        dist.broadcast(torch.tensor([question]), 0)

    def _told(self) -> int:
        question = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(question, 0)
        return int(question)


def distinct(index: Tensor) -> tuple[Tensor, Tensor]:
    """Return distinct rows int64 [P], padding and then those of indices, and their positions."""
    every = torch.cat([index.new_full((1,), PADDING), index.flatten()])
    row_P, place = torch.unique(every, return_inverse=True)
    return row_P.long(), place[1:].view(index.shape)
