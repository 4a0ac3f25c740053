"""The terms that a bundle explains a logit by are those of the trained network."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.bundle.manifest import Explainable
from app.explain.explainer import Explainer
from app.explain.players import Baseline, FieldWords, Row
from app.explain.terms import TermsGraph
from app.features.graph_inputs import Batch
from app.features.layout import Layout
from app.scoring.engine import Engine
from model.export.explain import NETWORKS, check_explain, write_explain
from model.export.graph_builder import ExportError
from model.networks.crosses import CrossWeights, Operand, Pairs
from model.networks.network import Network, look_up
from model.networks.wide_deep import WideDeep
from model.quality.offline_scoring import batch_of
from tests.support.graphs import (
    CONFIG,
    FLAT,
    LAYOUT,
    Case,
    dataset,
    engine_of,
    exported_below,
    shape,
)
from tests.support.networks import trained

pytestmark = pytest.mark.slow
ROWS = 60
TERMS = ("bias", "first_order", "pairs", "deep")


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
    network, path = exported_below(trained(name, FLAT, CONFIG), FLAT, tmp_path / "graph")
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


def by_definition(worth: dict[int, float], players: int) -> np.ndarray:
    """Shapley's formula over subsets, written by the bits of their numbers."""
    value = np.zeros(players)
    for subset, before in worth.items():
        size = subset.bit_count()
        for player in range(players):
            if not subset >> player & 1:
                weight = factorial(size) * factorial(players - size - 1) / factorial(players)
                value[player] += weight * (worth[subset | 1 << player] - before)
    return value


def explainer_of(path: Path, name: str, layout: Layout) -> tuple[Explainer, Engine, FieldWords]:
    engine = engine_of(path, layout)
    sides = (layout.context, layout.context_lists), (layout.candidate, layout.candidate_lists)
    words = FieldWords(layout, *(shape(*side) for side in sides))
    terms = terms_of(path, name, layout) if name in NETWORKS else None
    return Explainer(engine, words, terms, name not in ("lr", "fm", "ffm")), engine, words


def rows_of(layout: Layout, count: int) -> list[Row]:
    data = dataset(layout, count, seed=5)
    return [Row(*each) for each in zip(data.context_rows, data.candidate_rows, strict=True)]


def test_values_are_those_of_brute_force(
    case: Case, graph: tuple[Network, Path], layout: Layout
) -> None:
    """Every network, with lists and numbers: rows are put together field by field, and scored."""
    explainer, engine, words = explainer_of(graph[1], case[0], layout)
    players = len(words.fields)
    subsets = np.arange(2**players)
    baselines: tuple[Baseline, ...] = ("mean", "missing")
    for row, baseline in zip(rows_of(layout, 2), baselines, strict=True):
        sides = [
            np.where(subsets[:, None] >> of_words & 1 == 1, own, other).astype(np.int32)
            for own, other, of_words in zip(
                row, words.baseline(baseline), words.of_words, strict=True
            )
        ]
        logit = engine.score(Batch(*sides, subsets.astype(np.int32))).logit.tolist()
        found = explainer.explain(row, baseline)
        expected = by_definition(dict(enumerate(logit)), players)
        np.testing.assert_allclose([*found.shapley.values()], expected, atol=2e-5)
        assert found.baseline_logit == pytest.approx(logit[0], abs=1e-5)
        assert found.logit == pytest.approx(logit[-1], abs=1e-5)
        assert found.method == "exact"


def test_sampled_values_add_up_and_know_their_error(
    case: Case, graph: tuple[Network, Path], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More players than are looked at exactly; what pairs decide is exact all the same."""
    explainer = explainer_of(graph[1], case[0], layout)[0]
    rows = rows_of(layout, 4)
    exact = [explainer.explain(row) for row in rows]
    monkeypatch.setattr("app.explain.shapley.MOST_EXACT", 1)
    within = []
    for row, known in zip(rows, exact, strict=True):
        found = explainer.explain(row)
        value = np.array([*found.shapley.values()])
        error = np.array([*found.standard_error.values()])
        assert found.baseline_logit + value.sum() == pytest.approx(found.logit, abs=1e-4)
        assert found.method == ("exact" if case[0] in ("lr", "fm", "ffm") else "sampled")
        away = np.abs(value - [*known.shapley.values()])
        # Four: with so few players the 32 draws of a fixed seed leave one 3.2 errors away.
        within.append(away <= 4 * error + 1e-5)
        assert (found.bias is None) == (case[0] not in NETWORKS)
    assert np.mean(within) >= 0.9


def test_terms_add_up_to_the_logit(case: Case, graph: tuple[Network, Path], layout: Layout) -> None:
    """Bias, weights, pairs and the deep part, which is that of the hidden layers."""
    name, (network, path) = case[0], graph
    explainer = explainer_of(path, name, layout)[0]
    if name not in NETWORKS:
        assert explainer.explain(rows_of(layout, 1)[0]).shown().keys().isdisjoint(TERMS)
        return
    data = dataset(layout, 8, seed=5).inputs()
    with torch.inference_mode():
        deep = network.deep(
            look_up(network.table, data.context, data.context_lists, data.context_value),
            look_up(network.table, data.candidate, data.candidate_lists, data.candidate_value),
        )
    for row, expected in zip(rows_of(layout, 8), deep.tolist(), strict=True):
        found = explainer.explain(row)
        assert found.bias is not None
        assert found.first_order is not None
        assert found.pairs is not None
        assert found.deep == pytest.approx(expected, abs=2e-5)
        pairs = sum(pair.value for pair in found.pairs)
        total = found.bias + sum(found.first_order.values()) + pairs + (found.deep or 0)
        assert total == pytest.approx(found.logit, abs=1e-4)


def test_crosses_are_pairs(tmp_path: Path) -> None:
    """A Wide & Deep's crosses are the pairs that it explains, those of lists too."""
    layout, numbers = LAYOUT, np.random.default_rng(3)
    crosses = []
    for names in (("user", "item"), ("hour", "tags"), ("user", "hour")):
        pair = Pairs(*(Operand.find(layout, name) for name in names))
        weight_of = numbers.integers(1, 9, pair.numbers).astype(np.int32)
        crosses.append(CrossWeights(pair, weight_of, 9))
    network = WideDeep(layout, CONFIG, 0.2, crosses).eval()
    with torch.no_grad():
        for parameter in network.cross_parameters():
            parameter.normal_()
            parameter[0] = 0
    path = exported_below(network, layout, tmp_path / "graph")[1]
    out = path.with_name("explain.onnx")
    found = write_explain(path, "wide_deep", layout, crosses, out)
    names = [(each.pairs.left.slot.name, each.pairs.right.slot.name) for each in crosses]
    assert found.crosses == tuple(names)
    graph = TermsGraph(engine_of(path, layout), out, found, layout)
    data = dataset(layout, ROWS)
    terms = graph.of(batch_of(data))
    with torch.inference_mode():
        expected = np.stack([term(data.inputs()).numpy() for term in network.crosses], 1)
    np.testing.assert_allclose(terms.pairs, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.01
