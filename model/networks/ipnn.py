"""IPNN: the inner-product network (Qu et al. 2016, arXiv:1611.00144)."""

from __future__ import annotations

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.products import ProductNetwork


class IPNN(ProductNetwork):
    """logit = b + MLP(z, p), p_ij = <v_i, v_j> for i < j.

    The form of the authors' later code (PNN1): every product is an input of its own. The
    paper's other form gives each hidden unit only the rank-one weights theta_i theta_j.
    """

    def __init__(self, layout: Layout, config: TrainConfig, base_rate: float = 0.5) -> None:
        super().__init__(layout, config, base_rate, inner=True, kernel=False)
