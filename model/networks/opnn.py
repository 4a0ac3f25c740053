"""OPNN: the outer-product network (Qu et al. 2016, arXiv:1611.00144)."""

from __future__ import annotations

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.products import ProductNetwork


class OPNN(ProductNetwork):
    """logit = b + MLP(z, p), p_ij = v_i^T Q_ij v_j for i < j.

    The kernel form of the authors' later code (PNN2), since <v_i v_j^T, Q> = v_i^T Q v_j,
    with a full kernel for each pair. The paper itself superposes the pairs: one outer product
    of the sum of all fields with itself.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        super().__init__(layout, config, base_rate, inner=False, kernel=True)
