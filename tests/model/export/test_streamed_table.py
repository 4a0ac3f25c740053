"""A table that comes in pieces becomes the file that a whole one does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from app.bundle.manifest import GRAPH, WEIGHTS
from model.config import NETWORKS
from model.export import graph as module
from model.export.exporter import TABLE
from model.export.graph import write_graph
from model.networks.network import NetworkInputs
from tests.support.graphs import CONFIG, LAYOUT
from tests.support.networks import trained

pytestmark = pytest.mark.slow
ROWS = 3


class Pieces:
    """A table that is given a few rows at a time, as by other processes."""

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self.rows = len(table)

    def rows_of(self, inputs: NetworkInputs) -> tuple[Tensor, NetworkInputs]:
        return self._table, inputs

    def attend(self) -> None:
        raise AssertionError("nobody looks up")

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        for first in range(0, self.rows, ROWS):
            yield first, self._table[first : first + ROWS]

    def asking(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_files_are_those_of_a_whole_table(
    network: str, inline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the weights are in the graph or beside it."""
    if not inline:
        monkeypatch.setattr(module, "MAX_INLINE_BYTES", 0)
        monkeypatch.setattr(module, "_SMALL", 16)
    found = trained(network, LAYOUT, CONFIG)
    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
        write_graph(found, LAYOUT, tmp_path / name / GRAPH)
        found.elsewhere = Pieces(found.table.detach())
    assert (tmp_path / "pieces" / WEIGHTS).exists() is not inline
    whole, streamed = (onnx.load(tmp_path / name / GRAPH) for name in ("whole", "pieces"))
    for mine, theirs in zip(streamed.graph.initializer, whole.graph.initializer, strict=True):
        arrays = [onnx.numpy_helper.to_array(each) for each in (mine, theirs)]
        assert mine.name == theirs.name
        if mine.name == TABLE:
            assert arrays[0].shape == (LAYOUT.table_rows, found.table.shape[1])
            np.testing.assert_allclose(*arrays, atol=1e-7)
        else:
            np.testing.assert_array_equal(*arrays)
    if network != "deepfm":
        # DeepFM's rows are computed with, a few at a time.
        for file in (GRAPH, WEIGHTS) if not inline else (GRAPH,):
            one, other = ((tmp_path / name / file).read_bytes() for name in ("whole", "pieces"))
            assert one == other, file
    assert torch.isfinite(found.table).all()
