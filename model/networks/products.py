"""The product layers of the PNN family: what pairs of fields give to the first hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.mlp import Mlp
from model.networks.network import Network, field_counts, new_table, sum_of_last
from model.networks.rows import RowContext, of_rows


class Products(nn.Module):
    """Gives one number for each pair of fields: p_ij = g(v_i, v_j), i < j.

    Pairs within the context are the context's, those within the candidate and across both
    are the row's: ``context_outputs`` and ``row_outputs`` numbers.
    """

    context_left: Tensor
    context_right: Tensor
    candidate_left: Tensor
    candidate_right: Tensor

    def __init__(self, contexts: int, candidates: int) -> None:
        super().__init__()
        context, candidate = pairs(contexts), pairs(candidates)
        self.context_outputs = context.shape[1]
        self.row_outputs = candidate.shape[1] + contexts * candidates
        for name, index in (("context", context), ("candidate", candidate)):
            self.register_buffer(f"{name}_left", index[0], persistent=False)
            self.register_buffer(f"{name}_right", index[1], persistent=False)

    def forward(
        self, context_UFK: Tensor, candidate_NFK: Tensor, row_context_N: RowContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the products within the context [U, P], within the candidate and across [N, P]."""
        raise NotImplementedError


class InnerProducts(Products):
    """p_ij = <v_i, v_j>."""

    def forward(
        self, context_UFK: Tensor, candidate_NFK: Tensor, row_context_N: RowContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        context_UP = sum_of_last(
            context_UFK.index_select(1, self.context_left)
            * context_UFK.index_select(1, self.context_right)
        )
        within_NP = sum_of_last(
            candidate_NFK.index_select(1, self.candidate_left)
            * candidate_NFK.index_select(1, self.candidate_right)
        )
        across_NFF = of_rows(context_UFK, row_context_N) @ candidate_NFK.transpose(1, 2)
        return context_UP, within_NP, across_NFF.flatten(1)


class BilinearProducts(Products):
    """The vectors (v_i^T Q_ij) * v_j, with a K x K kernel Q_ij for each pair.

    ``*`` is elementwise. The kernels stand side by side, [K, P * K], those with the same left
    field i next to each other, so that one product of two matrices turns v_i for all of its pairs.
    Across the sides that is done once for each context.
    """

    def __init__(self, contexts: int, candidates: int, size: int) -> None:
        super().__init__(contexts, candidates)
        std = size**-0.5
        within = self.row_outputs - contexts * candidates
        self.context_kernel = nn.Parameter(torch.randn(size, self.context_outputs * size).mul_(std))
        self.candidate_kernel = nn.Parameter(torch.randn(size, within * size).mul_(std))
        self.across_kernel = nn.Parameter(torch.randn(size, contexts * candidates * size).mul_(std))

    def vectors(
        self, context_UFK: Tensor, candidate_NFK: Tensor, row_context_N: RowContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return them within the context [U, P, K], within the candidate and across [N, P, K]."""
        contexts, candidates = context_UFK.shape[1], candidate_NFK.shape[1]
        context_UPK = turned(context_UFK, self.context_kernel, range(contexts - 1, 0, -1))
        within_NPK = turned(candidate_NFK, self.candidate_kernel, range(candidates - 1, 0, -1))
        across_UPK = turned(context_UFK, self.across_kernel, contexts * [candidates])
        return (
            context_UPK * context_UFK.index_select(1, self.context_right),
            within_NPK * candidate_NFK.index_select(1, self.candidate_right),
            of_rows(across_UPK, row_context_N) * candidate_NFK.repeat(1, contexts, 1),
        )


class KernelProducts(BilinearProducts):
    """p_ij = v_i^T Q_ij v_j, the sum of each vector of ``BilinearProducts``."""

    def forward(
        self, context_UFK: Tensor, candidate_NFK: Tensor, row_context_N: RowContext
    ) -> tuple[Tensor, Tensor, Tensor]:
        context_UPK, within_NPK, across_NPK = self.vectors(
            context_UFK, candidate_NFK, row_context_N
        )
        return sum_of_last(context_UPK), sum_of_last(within_NPK), sum_of_last(across_NPK)


def turned(left_RFK: Tensor, kernel_KX: Tensor, pairs: Sequence[int]) -> Tensor:
    """Return v_i^T Q_ij [R, P, K], field i being the left one of ``pairs[i]`` pairs.

    These are plain matrix products, and not one batched over the pairs: onnxruntime 1.31
    divides by zero where a batched product of a transposed matrix has no rows.
    """
    rows, _, size = left_RFK.shape
    if not sum(pairs):
        return left_RFK[:, :0]
    sizes = [count * size for count in pairs]
    kernels = torch.split(kernel_KX, sizes, dim=1) if len(sizes) > 1 else [kernel_KX]
    columns = [left_RFK[:, i] @ kernel for i, kernel in enumerate(kernels)]
    return torch.cat(columns, 1).reshape(rows, sum(pairs), size)


class ProductNetwork(Network):
    """logit = b + MLP(z, p): embeddings z and the products p of their pairs side by side.

    There is no first-order term; a row of the table is v.
    """

    def __init__(
        self, layout: Layout, config: TrainConfig, base_rate: float, inner: bool, kernel: bool
    ) -> None:
        size = config.embedding_size
        super().__init__(new_table(layout, config, 0, size), base_rate)
        contexts, candidates = field_counts(layout)
        products: list[Products] = []
        if inner:
            products.append(InnerProducts(contexts, candidates))
        if kernel:
            products.append(KernelProducts(contexts, candidates, size))
        self.products = nn.ModuleList(products)
        outputs = sum(product.row_outputs for product in products)
        within = products[0].row_outputs - contexts * candidates
        self.mlp = Mlp(
            size * contexts + sum(product.context_outputs for product in products),
            size * candidates + outputs,
            config,
            beside=outputs - within,
        )

    def combine(
        self,
        context_UFC: Tensor,
        candidate_NFC: Tensor,
        row_context_N: RowContext,
        dynamic_NFC: Tensor | None = None,
    ) -> Tensor:
        assert dynamic_NFC is None
        context, row = [context_UFC.flatten(1)], [candidate_NFC.flatten(1)]
        for product in self.products:
            context_UP, within_NP, across_NP = product(context_UFC, candidate_NFC, row_context_N)
            context.append(context_UP)
            row += [within_NP, across_NP]
        # Of the rows' inputs the first two depend on the candidate alone; "beside" are the rest.
        candidate_NX, beside_NX = torch.cat(row[:2], 1), torch.cat(row[2:], 1)
        deep_N: Tensor = self.mlp(torch.cat(context, 1), candidate_NX, row_context_N, beside_NX)
        return self.bias + deep_N


def pairs(fields: int) -> Tensor:
    """Return the pairs i < j of fields as int64 [2, P]."""
    return torch.tensor(list(combinations(range(fields), 2)), dtype=torch.int64).reshape(-1, 2).T
