"""The model family: every network by the name that settings, commands and bundles use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.features.layout import Layout
from model.config import TrainConfig
from model.networks.crosses import CrossTerm, CrossWeights
from model.networks.dcn_v2 import DCNv2
from model.networks.deepfm import DeepFM
from model.networks.din import DIN
from model.networks.ffm import FFM
from model.networks.fibinet import FiBiNET
from model.networks.final_mlp import FinalMLP
from model.networks.fm import FM
from model.networks.fnn import FNN
from model.networks.ipnn import IPNN
from model.networks.lr import LR
from model.networks.network import Network
from model.networks.opnn import OPNN
from model.networks.pnn_star import PNNStar
from model.networks.wide_deep import WideDeep


class Kind(Protocol):
    """A network's class."""

    @property
    def takes_dynamic(self) -> bool:
        """True if a graph computes the part of dynamic fields apart."""
        ...

    def __call__(self, layout: Layout, config: TrainConfig, base_rate: float = ...) -> Network:
        """Return a network with new weights."""
        ...


FAMILY: Mapping[str, Kind] = {
    "lr": LR,
    "fm": FM,
    "ffm": FFM,
    "fnn": FNN,
    "ipnn": IPNN,
    "opnn": OPNN,
    "pnn_star": PNNStar,
    "wide_deep": WideDeep,
    "deepfm": DeepFM,
    "dcn_v2": DCNv2,
    "final_mlp": FinalMLP,
    "fibinet": FiBiNET,
    "din": DIN,
}


def build(
    layout: Layout,
    config: TrainConfig,
    base_rate: float = 0.5,
    crosses: Sequence[CrossWeights] = (),
) -> Network:
    """Make the network that the settings name, with new weights from torch's generator.

    ``crosses`` are Wide & Deep's; no other network has weights of pairs.
    """
    if config.network == "wide_deep":
        return WideDeep(layout, config, base_rate, crosses)
    return FAMILY[config.network](layout, config, base_rate)


def weight_bytes(layout: Layout, config: TrainConfig, crosses: Sequence[CrossWeights] = ()) -> int:
    """Return how large the weights would be, and what finds those of pairs, without making them."""
    with torch.device("meta"), _Unfilled():
        network = build(layout, config, crosses=crosses)
    found = [term.weight_of for term in network.modules() if isinstance(term, CrossTerm)]
    return sum(value.numel() * value.element_size() for value in (*network.parameters(), *found))


_FILLING = (Tensor.mul_, Tensor.normal_, nn.init.normal_)
"""Functions that networks call to change new weights in place."""


class _Unfilled(TorchFunctionMode):
    """Weights without values stay as they are: such functions have nothing to change.

    For them torch would import its compiler, which takes a second or two.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING:
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            return torch.empty(*args, **kwargs)
        return func(*args, **kwargs)
