"""Hidden layers over both sides, the first of which sees each context only once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import TrainConfig
from model.networks.rows import RowContext, of_rows


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014) whose masks are single random bytes.

    The rate is rounded to a multiple of 1/256, and the survivors are scaled for exactly that
    rate. About five times as fast as torch's on a CPU, which draws one float per element.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.dropped = round(rate * 256)

    def forward(self, value: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return value
        words = torch.empty(-(-value.numel() // 8), dtype=torch.int64, device=value.device)
        words.random_(-(2**63), None)
        byte = words.view(torch.uint8)[: value.numel()].view(value.shape)
        kept = (byte >= self.dropped).to(value.dtype)
        return value * kept.mul_(256 / (256 - self.dropped))


class Mlp(nn.Module):
    """Hidden layers and one output without a bias, which the network has.

    The first layer is linear before its activation, W x + c = W_context x_context + c +
    W_row x_row, so that the context's part is computed once for all its candidates.
    """

    def __init__(
        self,
        context_inputs: int,
        row_inputs: int,
        config: TrainConfig,
        activation: Callable[[Tensor], Tensor] = functional.relu,
        beside: int = 0,
    ) -> None:
        """Start from Xavier's normal weights and zero biases."""
        super().__init__()
        self.split = context_inputs
        """The number of the first layer's inputs that are the context's."""
        self.beside = beside
        """The number of the last of the rows' inputs; the others depend on the candidate alone."""
        self.activation = activation
        self.brief = config.precision == "bfloat16"
        sizes = (context_inputs + row_inputs, *config.hidden)
        linears = [nn.Linear(width, hidden) for width, hidden in pairwise(sizes)]
        self.first, self.deeper = linears[0], nn.ModuleList(linears[1:])
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(hidden) if config.batch_norm else nn.Identity()
            for hidden in config.hidden
        )
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(sizes[-1], 1, bias=False)
        for linear in (*linears, self.output):
            nn.init.xavier_normal_(linear.weight)
        for linear in linears:
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        context_UX: Tensor | None,
        row_NX: Tensor,
        row_context_N: RowContext,
        beside_NX: Tensor | None = None,
    ) -> Tensor:
        """Return the output [N] for the inputs that :meth:`hidden` takes."""
        return self._output(self.hidden(context_UX, row_NX, row_context_N, beside_NX))

    def whole(self, value_NX: Tensor) -> Tensor:
        """Return the output [N] for rows of all inputs, the context's first."""
        hidden_NH = self._product(value_NX, self.first.weight, self.first.bias)
        return self._output(self._deeper(hidden_NH))

    def hidden(
        self,
        context_UX: Tensor | None,
        row_NX: Tensor,
        row_context_N: RowContext,
        beside_NX: Tensor | None = None,
    ) -> Tensor:
        """Return the last hidden layer [N, H] for the inputs of contexts and of rows.

        ``context_UX`` is None if no input is the context's alone. ``beside_NX`` are the last
        ``beside`` of the rows' inputs. The others do not depend on the context, so the exported
        graph has a product of its own for them.
        """
        weight_HX, bias_H = self.first.weight, self.first.bias
        if beside_NX is not None:
            row_NX = torch.cat([row_NX, beside_NX], 1)
        if context_UX is None:
            return self._deeper(self._product(row_NX, weight_HX, bias_H))
        context_UH = self._product(context_UX, weight_HX[:, : self.split], bias_H)
        row_NH = self._product(row_NX, weight_HX[:, self.split :])
        return self._deeper(of_rows(context_UH, row_context_N) + row_NH)

    def _output(self, hidden_NH: Tensor) -> Tensor:
        output_N: Tensor = self.output(hidden_NH).squeeze(1)
        return output_N

    def _deeper(self, hidden_NH: Tensor) -> Tensor:
        """Return the last hidden layer [N, H] for what the first layer's product has given."""
        hidden_NH = self.dropout(self.activation(self.norms[0](hidden_NH)))
        for linear, norm in zip(self.deeper, self.norms[1:], strict=True):
            assert isinstance(linear, nn.Linear)
            hidden_NH = self._product(hidden_NH, linear.weight, linear.bias)
            hidden_NH = self.dropout(self.activation(norm(hidden_NH)))
        return hidden_NH.float()

    def _product(self, value_RX: Tensor, weight_HX: Tensor, bias_H: Tensor | None = None) -> Tensor:
        """Return W x + c [R, H], while training in the precision that the settings name."""
        if not (self.training and self.brief):
            return functional.linear(value_RX, weight_HX, bias_H)
        bias_H = None if bias_H is None else bias_H.bfloat16()
        return functional.linear(value_RX.bfloat16(), weight_HX.bfloat16(), bias_H)

    def fold(self) -> None:
        """Move batch norm, as it is for inference, into the linear layers.

        BN(Wx + c) = s (Wx + c - mean) + beta with s = gamma / sqrt(var + eps), so s scales W
        and the rest joins the bias (Ioffe and Szegedy 2015).
        """
        for linear, norm in zip((self.first, *self.deeper), self.norms, strict=True):
            if isinstance(norm, nn.BatchNorm1d):
                _fold(linear, norm)
        self.norms = nn.ModuleList(nn.Identity() for _ in self.norms)


@torch.no_grad()
def _fold(linear: nn.Module, norm: nn.BatchNorm1d) -> None:
    assert isinstance(linear, nn.Linear)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = (linear.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
    linear.weight.copy_(linear.weight.double() * scale.unsqueeze(1))
    linear.bias.copy_(bias)
