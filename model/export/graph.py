"""The exported graph: a network as an ONNX file, for any number of contexts and rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from app.bundle.manifest import WEIGHTS
from app.features.graph_inputs import graph_inputs
from app.features.layout import Layout
from model.export.exporter import TABLE, onnx_model
from model.export.serving_form import serving_form, serving_rows
from model.networks.network import Network, NetworkInputs
from model.quality.calibration import CalibratedLogit, Calibration

MAX_INLINE_BYTES = 2**20
"""Weights that a graph holds in its own file, which each process reads into its memory.

More are in a file beside it. The engine maps that file, so that all processes share its pages.
"""
_SMALL = 1024
"""Bytes of a tensor up to which it stays in the graph's own file in any case."""
_FLOAT = 4
_PAGE = 4096
"""Each tensor begins on a page of its file."""


class ScoreGraph(nn.Module):
    """The exported function: indices and numbers in, logits and scores out."""

    def __init__(
        self, network: Network, layout: Layout, calibration: Calibration | None = None
    ) -> None:
        super().__init__()
        self.calibrated = nn.Identity() if calibration is None else CalibratedLogit(calibration)
        self.network = serving_form(network, layout)
        self.context_lists = len(layout.context_lists)
        self.candidate_lists = len(layout.candidate_lists)
        self.context_values = layout.context_values > 0

    def forward(
        self, context: Tensor, candidate: Tensor, row_context: Tensor, others: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return logit and score, float32 [N] each.

        ``others`` are the lists and then the numbers of scaled slots, where there are any; of
        both the context's come first.
        """
        rest = iter(others)
        context_lists = list(islice(rest, self.context_lists))
        candidate_lists = list(islice(rest, self.candidate_lists))
        context_value = next(rest) if self.context_values else None
        inputs = NetworkInputs(
            context,
            candidate,
            row_context,
            context_lists,
            candidate_lists,
            context_value,
            next(rest, None),
        )
        logit = self.network(inputs)
        # onnxruntime's Sigmoid has an absolute error of about 1e-7, too large for a score of 1e-4.
        # The error of its Exp is relative, in the last bits.
        return logit, 1 / (1 + torch.exp(-self.calibrated(logit)))


def write_graph(
    network: Network, layout: Layout, path: Path, calibration: Calibration | None = None
) -> None:
    """Export a network for inference: batch norm folded, all sizes symbolic.

    The score is the sigmoid of the logit, or of the calibrated logit. More weights than
    ``MAX_INLINE_BYTES`` are written beside the graph, into ``weights.bin``. The files depend on
    the weights alone: they hold no paths, times or generated names of this run.

    Raises:
        ExportError: the network calls a function that has no operators of ONNX.
    """
    graph = ScoreGraph(network, layout, calibration).eval()
    model = onnx_model(graph, graph_inputs(layout))
    if network.elsewhere is None:
        save_graph(model, path)
        return
    pieces = (serving_rows(graph.network, *piece, layout) for piece in network.pieces())
    save_graph(model, path, StreamedTable(network.elsewhere.rows, pieces))


@dataclass(frozen=True, slots=True)
class StreamedTable:
    """The table of a graph that no process has whole: its rows [R, C] in order, in pieces."""

    rows: int
    pieces: Iterator[Tensor]

    def enter(self, model: onnx.ModelProto) -> TensorProto:
        """Give a graph's table the number of its rows, and none of them; return it."""
        table: TensorProto
        [table] = (each for each in model.graph.initializer if each.name == TABLE)
        table.dims[0] = self.rows
        table.raw_data = b""
        return table

    def content(self) -> Iterator[bytes]:
        """Yield what the graph's tensor holds."""
        for piece in self.pieces:
            yield piece.contiguous().numpy().tobytes()


def save_graph(model: onnx.ModelProto, path: Path, streamed: StreamedTable | None = None) -> None:
    """Write a graph; many weights go beside it into ``weights.bin``, which becomes its own."""
    table = None if streamed is None else streamed.enter(model)

    def size(weights: TensorProto) -> int:
        return math.prod(weights.dims) * _FLOAT if weights is table else len(weights.raw_data)

    large = [weights for weights in model.graph.initializer if size(weights) > _SMALL]
    if sum(map(size, large)) > MAX_INLINE_BYTES:
        with (path.parent / WEIGHTS).open("wb") as file:
            for weights in large:
                file.seek(-(-file.tell() // _PAGE) * _PAGE)
                start = file.tell()
                if streamed is not None and weights is table:
                    file.writelines(streamed.content())
                else:
                    file.write(weights.raw_data)
                _refer(weights, start, file.tell() - start)
    elif streamed is not None and table is not None:
        table.raw_data = b"".join(streamed.content())
    path.write_bytes(model.SerializeToString(deterministic=True))


def save_variant(model: onnx.ModelProto, path: Path, graph: Path) -> None:
    """Write another form of ``graph``, which lies beside it and shares the weights that are equal.

    All other weights are in the graph's own file.
    """
    shared = {
        weights.name: {entry.key: entry.value for entry in weights.external_data}
        for weights in onnx.load(graph, load_external_data=False).graph.initializer
        if weights.data_location == TensorProto.EXTERNAL
    }
    if shared:
        stored = np.memmap(graph.with_name(WEIGHTS), np.uint8, "r")
        for weights in _large(model):
            if weights.name not in shared:
                continue
            start = int(shared[weights.name]["offset"])
            content = np.frombuffer(weights.raw_data, np.uint8)
            if np.array_equal(stored[start : start + len(content)], content):
                _refer(weights, start, len(content))
    path.write_bytes(model.SerializeToString(deterministic=True))


def _large(model: onnx.ModelProto) -> list[TensorProto]:
    return [weights for weights in model.graph.initializer if len(weights.raw_data) > _SMALL]


def _refer(weights: TensorProto, start: int, length: int) -> None:
    """Replace a tensor's content by its place in the file of weights."""
    set_external_data(weights, WEIGHTS, offset=start, length=length)
    weights.ClearField("raw_data")
