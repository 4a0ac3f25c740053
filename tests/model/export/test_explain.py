"""The terms that a bundle explains a logit by are those of the trained network."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.bundle.manifest import Explainable
from app.explain.terms import TermsGraph
from app.features.layout import Layout
from model.export.explain import NETWORKS, check_explain, write_explain
from model.export.exporter import ExportError
from model.networks.network import Network, look_up
from model.quality.offline_scoring import batch_of
from tests.support.graphs import CONFIG, FLAT, Case, dataset, engine_of, exported_once
from tests.support.networks import trained

pytestmark = pytest.mark.slow
ROWS = 60


def terms_of(path: Path, name: str, layout: Layout) -> TermsGraph:
    graph = path.with_name("explain.onnx")
    found = write_explain(path, name, layout, (), graph)
    return TermsGraph(engine_of(path, layout), graph, found, layout)


def looked_up(network: Network, layout: Layout, rows: int = ROWS) -> np.ndarray:
    """The table's rows [N, S, C] of each slot, scaled and averaged, as ``Layout.slots``."""
    every = dataset(layout, rows).inputs()
    with torch.inference_mode():
        context = look_up(network.table, every.context, every.context_lists, every.context_value)
        candidate = look_up(
            network.table, every.candidate, every.candidate_lists, every.candidate_value
        )
    single, other = len(layout.context), len(layout.candidate)
    parts = context[:, :single], candidate[:, :other], context[:, single:], candidate[:, other:]
    return torch.cat(parts, 1).double().numpy()


def test_terms_are_those_of_the_weights(
    case: Case, graph: tuple[Network, Path], layout: Layout
) -> None:
    """First-order terms are the weights, pairs the products of vectors, as the formula has them."""
    name, (network, path) = case[0], graph
    if name not in NETWORKS:
        found = write_explain(path, name, layout, (), path.with_name("explain.onnx"))
        assert found == Explainable(first_order=False, pairs=False, deep=True)
        assert not path.with_name("explain.onnx").exists()
        return
    graph_of_terms = terms_of(path, name, layout)
    data = dataset(layout, ROWS)
    terms = graph_of_terms.of(batch_of(data))
    rows = looked_up(network, layout)
    assert terms.bias == pytest.approx(network.bias.item())
    np.testing.assert_allclose(terms.first_order, rows[:, :, 0], atol=2e-6)
    slots = len(layout.slots)
    expected = np.zeros((ROWS, 0))
    if name in ("fm", "deepfm"):
        pairs = [*combinations(range(slots), 2)]
        assert graph_of_terms.pairs.tolist() == [list(pair) for pair in pairs]
        vector = rows[:, :, 1:]
        expected = np.stack([(vector[:, i] * vector[:, j]).sum(1) for i, j in pairs], 1)
    elif name == "ffm":
        expected = ffm_pairs(rows[:, :, 1:], layout)
    np.testing.assert_allclose(terms.pairs, expected, atol=1e-5)
    assert check_explain(network, engine_of(path, layout), graph_of_terms, data) < 2e-5


def ffm_pairs(vector: np.ndarray, layout: Layout) -> np.ndarray:
    """FFM's terms by its definition: i's vector toward j times j's toward i."""
    order = [*layout.context, *layout.context_lists, *layout.candidate, *layout.candidate_lists]
    size = CONFIG.embedding_size

    def toward(i: int, j: int) -> np.ndarray:
        others = [slot for slot in order if slot != layout.slots[i]]
        place = others.index(layout.slots[j])
        return vector[:, i, place * size : (place + 1) * size]

    pairs = combinations(range(len(layout.slots)), 2)
    return np.stack([(toward(i, j) * toward(j, i)).sum(1) for i, j in pairs], 1)


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_other_weights_are_noticed(name: str, tmp_path: Path) -> None:
    """A graph of terms that are not the network's ends the export."""
    network, path = exported_once(trained(name, FLAT, CONFIG), FLAT, tmp_path / "graph", "explain")
    terms_of(path, name, FLAT)
    altered = path.with_name("explain.onnx")
    model = onnx.load(altered)
    for weights in model.graph.initializer:
        if weights.name == "network.table":
            table = onnx.numpy_helper.to_array(weights).copy()
            table[:, 0] += 0.01
            weights.CopyFrom(onnx.numpy_helper.from_array(table, weights.name))
    onnx.save(model, altered)
    engine = engine_of(path, FLAT)
    broken = TermsGraph(engine, altered, Explainable(True, True, deep=name == "deepfm"), FLAT)
    with pytest.raises(ExportError, match="disagree by"):
        check_explain(network, engine, broken, dataset(FLAT, 20))
