"""PNN*: inner and outer products side by side (named so by Guo et al. 2017)."""

from __future__ import annotations

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.products import ProductNetwork


class PNNStar(ProductNetwork):
    """logit = b + MLP(z, p, q), p_ij = <v_i, v_j> and q_ij = v_i^T Q_ij v_j for i < j.

    The products are those of ``IPNN`` and ``OPNN``.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        super().__init__(layout, config, base_rate, inner=True, kernel=True)
