"""The weights of an exported network, read back from its graph for a warm start."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.numpy_helper
import torch
from torch import Tensor

from app.features.layout import Layout
from model.export.serving_form import trained_deepfm, trained_mlp
from model.networks import FAMILY

_CUT = "slice_"
"""Prefix of a part of a parameter, in graphs of bundles in which the exporter cut it."""


def read_weights(graph: Path, network: str, layout: Layout) -> dict[str, Tensor]:
    """Return the weights of an exported network by their names in that network.

    Batch norm is folded into them. The weights of the first hidden layer are a tensor in the graph
    for the context's inputs, one for the candidate's and one for both sides' products; here they
    are joined again.
    """
    found: dict[str, Tensor] = {}
    pieces: dict[int, Tensor] = {}
    for value in onnx.load(graph).graph.initializer:
        module, _, name = value.name.partition(".")
        if module == "network":
            found[name] = torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
        elif value.name.startswith(_CUT) and len(value.dims) == 2:
            number = int(value.name.removeprefix(_CUT))
            pieces[number] = torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
    if network == "deepfm":
        return trained_deepfm(found, layout)
    if pieces:
        found["mlp.first.weight"] = torch.cat([pieces[number] for number in sorted(pieces)], 1)
    return trained_mlp(found, layout, FAMILY[network].takes_dynamic and layout.has_both)
