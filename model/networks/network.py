"""The base of all networks: rows of one fused table in, one logit for each candidate out.

Letters that end a tensor's name are its axes: U contexts, N rows (candidates to score), R rows
of either side, F fields of one side, L list length, C columns of the table, K embedding size,
H hidden units, P pairs of fields, X inputs of the first hidden layer, T table rows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import PADDING, Layout
from model.config import TrainConfig
from model.networks.dynamic import DynamicFields
from model.networks.exporting import is_exporting
from model.networks.mlp import Mlp
from model.networks.rows import RowContext


class NetworkInputs(NamedTuple):
    """Indices into the table, 0 being padding.

    ``context`` [U, F] and ``candidate`` [N, F] hold the single-valued slots, the lists [U, L]
    and [N, L] the rest; ``row_context`` [N] names each row's context, None where every row has
    one of its own. ``context_value`` [U, V] and ``candidate_value`` [N, V] multiply the rows of
    the scaled slots, the last V of the single-valued ones; None where a side has none.
    """

    context: Tensor
    candidate: Tensor
    row_context: RowContext
    context_lists: Sequence[Tensor] = ()
    candidate_lists: Sequence[Tensor] = ()
    context_value: Tensor | None = None
    candidate_value: Tensor | None = None

    def to(self, device: torch.device) -> NetworkInputs:
        """Return them on a device, as they are if they are there."""

        def there(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return NetworkInputs(
            self.context.to(device),
            self.candidate.to(device),
            there(self.row_context),
            [index.to(device) for index in self.context_lists],
            [index.to(device) for index in self.candidate_lists],
            there(self.context_value),
            there(self.candidate_value),
        )


class RowsElsewhere(Protocol):
    """A table of which a network's ``table`` has some rows only."""

    def rows_of(self, inputs: NetworkInputs) -> tuple[Tensor, NetworkInputs]:
        """Return the distinct rows [P, C] that inputs name, and the inputs as places in them."""
        ...

    def attend(self) -> None:
        """Take part in what other processes look up."""
        ...

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows [R, C] in order, some at a time, with the number of the first."""
        ...

    def asking(self) -> AbstractContextManager[None]:
        """Let the first process alone use the network; the others answer it, and wait here."""
        ...

    @property
    def rows(self) -> int:
        """Number of all rows."""
        ...


class Network(nn.Module):
    """Click logit of the rows of ``table`` [T, C] that a context and a candidate name.

    The fields of a side are its single-valued slots and then its lists, a list counting as
    the mean of its values' rows, zero if it has none, and a scaled slot as its row times its
    number. Row 0 of the table is padding and zero. ``learned`` [T] marks the rows that training
    has named; the others are as they started.
    """

    takes_dynamic = False
    """True if its formula has a part of the candidate's dynamic fields that can be computed apart
    at little cost. Of other networks nothing is computed before a request if there are any."""
    table: nn.Parameter
    bias: nn.Parameter
    learned: Tensor

    def __init__(self, table: nn.Parameter, base_rate: float) -> None:
        """Take the table; the bias starts at the base rate's logit."""
        super().__init__()
        self.table = table
        # A buffer, so that it is kept with the weights that it is about.
        self.register_buffer("learned", torch.zeros(len(table), dtype=torch.bool))
        self.bias = nn.Parameter(torch.tensor(math.log(base_rate) - math.log1p(-base_rate)))
        self.dynamic: DynamicFields | None = None
        """The dynamic fields, where an exported graph computes their part apart."""
        self.elsewhere: RowsElsewhere | None = None
        """The whole table, where ``table`` and ``learned`` have some of its rows only."""

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        """Return the logit [N] of fields that have been looked up: the network's formula.

        ``dynamic_NFC`` are the candidate's dynamic fields, where they are not among the others;
        only networks with ``takes_dynamic`` are given them.
        """
        raise NotImplementedError

    def deep(self, context_NFC: Tensor, candidate_NFC: Tensor) -> Tensor:
        """Return what hidden layers add [N] to the terms of fields that have been looked up.

        Of networks whose logit has such terms; each row has a context of its own.
        """
        return candidate_NFC.new_zeros(candidate_NFC.shape[0])

    def forward(self, inputs: NetworkInputs) -> Tensor:
        """Return the logit float32 [N] of every row."""
        return self.logit(*self.rows_of(inputs), inputs)

    def rows_of(self, inputs: NetworkInputs) -> tuple[Tensor, NetworkInputs]:
        """Return rows [P, C] that hold all that inputs name, and the inputs as places in them."""
        if self.elsewhere is None:
            return self.table, inputs
        return self.elsewhere.rows_of(inputs)

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Yield all rows [R, C] of the table, with the number of the first of each piece."""
        if self.elsewhere is None:
            yield 0, self.table.detach()
        else:
            yield from self.elsewhere.pieces()

    def logit(self, table_TC: Tensor, place: NetworkInputs, inputs: NetworkInputs) -> Tensor:
        """Return the logit [N] with ``table_TC`` in the table's place, and ``place`` in it.

        Training passes the few rows that its batch names and where they are among those.
        ``inputs`` remain the indices into the whole table, as they tell values apart.
        """
        context_UFC = look_up(table_TC, place.context, place.context_lists, place.context_value)
        candidate = place.candidate, place.candidate_lists, place.candidate_value
        if self.dynamic is None:
            return self.combine(context_UFC, look_up(table_TC, *candidate), place.row_context)
        groups = self.dynamic(*candidate)
        stored_NFC, dynamic_NFC = (look_up(table_TC, *group) for group in groups)
        return self.combine(context_UFC, stored_NFC, place.row_context, dynamic_NFC)

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter but the table."""
        return (value for name, value in self.named_parameters() if name != "table")

    def cross_parameters(self) -> Iterator[nn.Parameter]:
        """Yield those dense parameters that are weights of pairs: L2 holds for them too."""
        return iter(())

    def parameter_count(self) -> int:
        """Return the number of trained parameters."""
        rows = len(self.table) if self.elsewhere is None else self.elsewhere.rows
        dense = sum(value.numel() for value in self.dense_parameters())
        return dense + rows * self.table.shape[1]

    def folded(self) -> Self:
        """Return the same function for inference without batch norm, the table being shared."""
        shared = {id(self.table): self.table, id(self.elsewhere): self.elsewhere}
        network = copy.deepcopy(self, shared).eval()
        for module in network.modules():
            if isinstance(module, Mlp):
                module.fold()
        return network


_held: ContextVar[range | None] = ContextVar("held", default=None)
_DRAWN_AT_ONCE = 2**14
"""Rows, a multiple of the 16 numbers that torch draws at once."""


@contextmanager
def holding(rows: range) -> Iterator[None]:
    """New tables have these rows only, which are as random as they are in a whole one."""
    token = _held.set(rows)
    try:
        yield
    finally:
        _held.reset(token)


def new_table(layout: Layout, config: TrainConfig, weights: int, size: int) -> nn.Parameter:
    """Return a table whose rows are ``weights`` zeros and then ``size`` small random numbers.

    Padding and means are zero. Within :func:`holding` it has some of the rows only.
    """
    if (held := _held.get()) is not None:
        return nn.Parameter(_some_rows(layout, config, weights, size, held))
    table = torch.zeros(layout.table_rows, weights + size)
    if size:
        table[1 + PADDING : layout.encoded_rows, weights:].normal_(std=config.init_std)
    return nn.Parameter(table)


def _some_rows(layout: Layout, config: TrainConfig, weights: int, size: int, held: range) -> Tensor:
    """Return some rows of a new table; the numbers of the others are drawn, too, and dropped."""
    found = torch.zeros(len(held), weights + size)
    start, stop = 1 + PADDING, layout.encoded_rows
    while size and start < stop:
        # None is so short that torch would draw its numbers in another way.
        end = stop if stop - start < 2 * _DRAWN_AT_ONCE else start + _DRAWN_AT_ONCE
        drawn = torch.zeros(end - start, weights + size, device=found.device)
        drawn[:, weights:].normal_(std=config.init_std)
        first, last = max(start, held.start), min(end, held.stop)
        if first < last:
            found[first - held.start : last - held.start] = drawn[first - start : last - start]
        start = end
    return found


def field_counts(layout: Layout) -> tuple[int, int]:
    """Return how many fields the context and the candidate have."""
    return (
        len(layout.context) + len(layout.context_lists),
        len(layout.candidate) + len(layout.candidate_lists),
    )


def look_up(
    table_TC: Tensor, index_RF: Tensor, lists_RL: Sequence[Tensor], value_RV: Tensor | None
) -> Tensor:
    """Return one side's fields [R, F, C]: single values, and then the means of lists."""
    return torch.cat(
        [
            *single_fields(table_TC, index_RF, value_RV),
            *(mean_of_list(table_TC, index_RL).unsqueeze(1) for index_RL in lists_RL),
        ],
        dim=1,
    )


def single_fields(
    table_TC: Tensor, index_RF: Tensor, value_RV: Tensor | None
) -> tuple[Tensor, ...]:
    """Return the rows [R, F, C] of single-valued slots, the scaled ones apart and multiplied."""
    # In the graph a look-up as it is usually written. Its gradient takes several times as long on
    # a CPU as that of index_select by int64, and there is no padding among single values.
    if is_exporting():
        rows_RFC = functional.embedding(index_RF, table_TC)
    else:
        rows_RFC = table_TC.index_select(0, index_RF.flatten())
        rows_RFC = rows_RFC.view(*index_RF.shape, table_TC.shape[1])
    if value_RV is None:
        return (rows_RFC,)
    plain = index_RF.shape[1] - value_RV.shape[1]
    return rows_RFC[:, :plain], rows_RFC[:, plain:] * value_RV.unsqueeze(2)


def mean_of_list(table_TC: Tensor, index_RL: Tensor) -> Tensor:
    """Return the mean row [R, C] of each list's values; exactly zero for an empty list."""
    rows_RLC = functional.embedding(index_RL, table_TC, padding_idx=PADDING)
    present_RL = index_RL != PADDING
    if is_exporting():
        total_RC = (present_RL.to(rows_RLC.dtype).unsqueeze(1) @ rows_RLC).squeeze(1)
    else:
        total_RC = rows_RLC.sum(1)
    return total_RC / present_RL.sum(1, keepdim=True).clamp(min=1)


# In the graph a sum of float32 numbers is a product with ones: onnxruntime's own sum rounds equal
# rows differently by their place in a batch, and equal candidates would change places. Training
# sums as usual, which is faster there.


def weights_and_vectors(rows_RFC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights [R, F] and the vectors [R, F, K] of a side's fields, rows being (w, v)."""
    weight_RF1, vector_RFK = torch.split(rows_RFC, [1, rows_RFC.shape[2] - 1], dim=2)
    return weight_RF1.squeeze(2), vector_RFK.contiguous()


def sum_of_fields(value_RFC: Tensor) -> Tensor:
    """Return the sum [R, C] over a side's fields."""
    if not is_exporting():
        return value_RFC.sum(1)
    fields, columns = value_RFC.shape[1:]
    return value_RFC.flatten(1) @ torch.eye(columns).repeat(fields, 1)


def sum_of_rest(value_RX: Tensor) -> Tensor:
    """Return the sum [R] over all axes but the first."""
    value_RX = value_RX.flatten(1)
    if not is_exporting():
        return value_RX.sum(1)
    return (value_RX @ torch.ones(value_RX.shape[1], 1)).squeeze(1)


def sum_of_last(value_RPK: Tensor) -> Tensor:
    """Return the sum [R, P] over the last axis."""
    if not is_exporting():
        return value_RPK.sum(2)
    return (value_RPK @ torch.ones(value_RPK.shape[2], 1)).squeeze(2)
