"""A network as it is usually exported: all fields of every row, nothing shared by a context."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks import build
from model.networks.dcn_v2 import DCNv2
from model.networks.din import DIN
from model.networks.ffm import FFM, within
from model.networks.fibinet import FiBiNET
from model.networks.final_mlp import FinalMLP
from model.networks.fnn import FNN
from model.networks.mlp import Mlp
from model.networks.network import Network, NetworkInputs, look_up, sum_of_rest
from model.networks.products import KernelProducts, ProductNetwork


class PlainGraph(nn.Module):
    """The function of a network over single-valued slots; its input is [N, F], contexts first.

    A list of the context, if the layout has one, is a second input [N, L].
    """

    def __init__(self, network: Network, layout: Layout, config: TrainConfig) -> None:
        """Take the weights of ``network``, which is left as it is."""
        super().__init__()
        self.contexts = 0
        if layout.context_lists or isinstance(network, DCNv2 | FinalMLP | FiBiNET | DIN):
            # Their sides are not alike, or have a matrix each: a context for each row instead.
            self.contexts = len(layout.context)
            self.network = network.folded()
            return
        # Without fields of the context, every other formula of the family is unfactored.
        fields = layout.context + layout.candidate
        plain = build(replace(layout, context=(), candidate=fields), config).eval()
        weights = network.folded().state_dict()
        if isinstance(network, ProductNetwork):
            weights |= _products(network, len(layout.context), len(layout.candidate))
        plain.load_state_dict(weights)
        if isinstance(getattr(plain, "mlp", None), Mlp):
            plain.mlp = PlainMlp(plain)
        self.network = plain

    def forward(self, index: Tensor, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logit and score [N]."""
        if self.contexts:
            context, candidate = index[:, : self.contexts], index[:, self.contexts :]
            lists = [] if history is None else [history]
            logit = self.network(NetworkInputs(context, candidate, None, lists))
        elif isinstance(self.network, FFM):
            logit = self._ffm(self.network, index)
        else:
            none = torch.zeros((1, 0), dtype=index.dtype)
            logit = self.network(NetworkInputs(none, index, torch.zeros_like(index[:, 0])))
        return logit, torch.sigmoid(logit)

    @staticmethod
    def _ffm(network: FFM, index: Tensor) -> Tensor:
        """FFM's formula on one side: onnxruntime takes no vectors toward zero fields."""
        fields_NFC = look_up(network.table, index, (), None)
        vectors_NFOK = fields_NFC[:, :, 1:].reshape(*fields_NFC.shape[:2], *network.shape)
        pairwise_N = within(vectors_NFOK, network.candidate_places)
        return network.bias + sum_of_rest(fields_NFC[:, :, 0]) + pairwise_N


class PlainMlp(nn.Module):
    """Hidden layers of which the first sees a row whole; what is no row's is part of its bias."""

    bias: Tensor
    weight: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        mlp = network.mlp
        assert isinstance(mlp, Mlp)
        self.mlp = mlp
        bias, weight = mlp.first.bias.detach(), mlp.first.weight.detach()
        if isinstance(network, FNN):
            bias = bias + weight[:, 0] * network.global_weight.detach()
        self.register_buffer("bias", bias)
        self.register_buffer("weight", weight[:, mlp.split :].contiguous())

    def forward(
        self,
        context_UX: Tensor,
        row_NX: Tensor,
        row_context_N: Tensor,
        beside_NX: Tensor | None = None,
    ) -> Tensor:
        """Return the output [N]."""
        if beside_NX is not None:
            row_NX = torch.cat([row_NX, beside_NX], 1)
        hidden_NH = self.mlp.activation(functional.linear(row_NX, self.weight, self.bias))
        for linear in self.mlp.deeper:
            hidden_NH = self.mlp.activation(linear(hidden_NH))
        output_N: Tensor = self.mlp.output(hidden_NH).squeeze(1)
        return output_N


def _products(network: ProductNetwork, contexts: int, candidates: int) -> dict[str, Tensor]:
    """Put first-layer weights and kernels into the order of all pairs of all fields."""
    assert isinstance(network.mlp, Mlp)
    size = network.table.shape[1]
    fields = contexts + candidates
    ours = list(combinations(range(contexts), 2))
    theirs = list(combinations(range(contexts, fields), 2))
    across = [(i, j) for i in range(contexts) for j in range(contexts, fields)]
    every = list(combinations(range(fields), 2))

    weight_HX = network.mlp.first.weight.detach()
    start = contexts * size
    context_HX, row_HX = weight_HX[:, : network.mlp.split], weight_HX[:, network.mlp.split :]
    columns = [context_HX[:, :start], row_HX[:, : candidates * size]]
    changed: dict[str, Tensor] = {}
    row_start = candidates * size
    for number, product in enumerate(network.products):
        of_pair: dict[tuple[int, int], Tensor] = {}
        for pair, column in zip(ours, context_HX[:, start:].T, strict=False):
            of_pair[pair] = column
        for pair, column in zip([*theirs, *across], row_HX[:, row_start:].T, strict=False):
            of_pair[pair] = column
        start += len(ours)
        row_start += len(theirs) + len(across)
        columns.append(torch.stack([of_pair[pair] for pair in every], 1))
        if isinstance(product, KernelProducts):
            kernels = torch.cat(
                [product.context_kernel, product.candidate_kernel, product.across_kernel], 1
            )
            kernel_of = dict(
                zip([*ours, *theirs, *across], torch.split(kernels, size, 1), strict=True)
            )
            name = f"products.{number}.candidate_kernel"
            changed[name] = torch.cat([kernel_of[pair] for pair in every], 1).detach()
            for empty in ("context_kernel", "across_kernel"):
                changed[f"products.{number}.{empty}"] = torch.zeros(size, 0)
    changed["mlp.first.weight"] = torch.cat(columns, 1)
    return changed
