"""A graph in two gives the scores of the whole one; its item part is what the algebra says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch

from app.bundle.bundle import Bundle
from app.bundle.manifest import SPLIT_GRAPHS, ItemParts
from app.errors import BundleError, EngineFailed
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch
from app.features.layout import Layout, Slot
from app.scoring.engine import Engine
from app.scoring.split_engine import SplitEngine, ThroughParts
from app.serving.golden import verify_examples
from model.config import NETWORKS
from model.export.graph_builder import ExportError
from model.export.parity import check_parity, check_split, network_logits
from model.export.split import write_split
from model.networks.deepfm import DeepFM
from model.networks.din import ATTENTION_UNITS
from model.networks.network import Network
from tests.support.graphs import (
    CONFIG,
    DYNAMIC,
    FLAT,
    LAYOUT,
    NUMBERS,
    SPLIT_DYNAMIC,
    Case,
    dataset,
    engine_of,
    exported_below,
    shape,
)
from tests.support.networks import trained, with_means

pytestmark = pytest.mark.slow

HIDDEN, SIZE = CONFIG.hidden[0], CONFIG.embedding_size
OTHER = {"context": "candidate", "candidate": "context"}
WIDTHS = {
    "lr": lambda contexts, items: {1},
    "fm": lambda contexts, items: {1, SIZE},
    "ffm": lambda contexts, items: {1, contexts * items * SIZE},
    "fnn": lambda contexts, items: {HIDDEN},
    "ipnn": lambda contexts, items: {HIDDEN, items * SIZE},
    "opnn": lambda contexts, items: {HIDDEN, items * SIZE},
    "pnn_star": lambda contexts, items: {HIDDEN, items * SIZE, items * (items - 1) // 2} - {0},
    "wide_deep": lambda contexts, items: {1, HIDDEN},
    "deepfm": lambda contexts, items: {HIDDEN, SIZE + 1},
    "dcn_v2": lambda contexts, items: {HIDDEN, items * SIZE, (contexts + items) * SIZE},
    "final_mlp": lambda contexts, items: {HIDDEN, items * SIZE, contexts * SIZE},
    "fibinet": lambda contexts, items: (
        {1, items * SIZE, max(1, (contexts + items) // 3)}
        | ({HIDDEN, items * (items - 1) // 2 * SIZE} if items > 1 else set())
    ),
    "din": lambda contexts, items: {HIDDEN},
}
"""The numbers of an item by the networks' algebra, for so many fields of each side."""


def split(path: Path, layout: Layout, network: str) -> tuple[SplitEngine, ItemParts]:
    graphs = path.with_name("candidate.onnx"), path.with_name("combine.onnx")
    parts = write_split(path, network, layout, *graphs)
    sides = (layout.context, layout.context_lists), (layout.candidate, layout.candidate_lists)
    return SplitEngine(engine_of(path, layout), graphs, parts, *(shape(*s) for s in sides)), parts


def test_both_graphs_score_as_the_network(
    case: Case, graph: tuple[Network, Path], layout: Layout
) -> None:
    """Every network, at every count of contexts and candidates; an item's numbers are few."""
    network, path = graph
    engine, parts = split(path, layout, case[0])
    assert check_parity(network, ThroughParts(engine), dataset(layout, 37))[0] <= 2e-5
    fields = [len(side) for side in (layout.context, layout.candidate)]
    lists = [len(side) for side in (layout.context_lists, layout.candidate_lists)]
    expected = WIDTHS[case[0]](*map(sum, zip(fields, lists, strict=True)))
    if case[0] == "din" and layout.shared:
        # The item's vector, and its part of the attention unit's first layer.
        expected |= {SIZE, ATTENTION_UNITS}
    assert set(parts.widths) == expected
    dynamic = [slot.dynamic for slot in (*layout.candidate, *layout.candidate_lists)]
    assert bool(parts.takes) is any(dynamic)
    assert parts.context > 0


@pytest.mark.parametrize("side", ["context", "candidate"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_side_may_have_lists_alone(network: str, side: str, tmp_path: Path) -> None:
    """A graph that takes no single values of a side is not given any."""
    slots = {
        side: (),
        f"{side}_lists": (Slot("seen", "seen", 1, 12),),
        OTHER[side]: (Slot("one", "one", 13, 30),),
        f"{OTHER[side]}_lists": (),
    }
    layout = with_means(Layout(**slots))
    made, path = exported_below(trained(network, layout, CONFIG), layout, tmp_path / "made")
    engine, _ = split(path, layout, network)
    data = dataset(layout, 37)
    assert check_parity(made, ThroughParts(engine), data)[0] <= 2e-5
    if engine.has_first_cut:
        items = engine.item_parts(data.candidate_rows)[-1]
        context = data.context_rows[:1]
        batch = Batch(context, data.candidate_rows, np.zeros(37, np.int32))
        logit = engine_of(path, layout).score(batch).logit
        cut = items @ engine.vector(context)
        assert network == "deepfm" or np.argsort(-cut)[0] == np.argsort(-logit)[0]


def dynamic_columns(layout: Layout) -> list[int]:
    """The words of a candidate's row that are of dynamic slots."""
    rows = shape(layout.candidate, layout.candidate_lists)
    numbers = [slot for slot in layout.candidate if slot.scaled]
    return [
        *(place for place, slot in enumerate(layout.candidate) if slot.dynamic),
        *(
            place
            for slot, (start, stop) in zip(layout.candidate_lists, rows.lists, strict=True)
            for place in (range(start, stop) if slot.dynamic else ())
        ),
        *(rows.indices + place for place, slot in enumerate(numbers) if slot.dynamic),
    ]


@pytest.mark.parametrize("network", SPLIT_DYNAMIC)
def test_an_item_part_does_not_depend_on_dynamic_fields(network: str, tmp_path: Path) -> None:
    """A row whose dynamic values come later scores as the network says, by the part that the item
    had without them.
    """
    made, path = exported_below(trained(network, DYNAMIC, CONFIG), DYNAMIC, tmp_path / "made")
    engine, parts = split(path, DYNAMIC, network)
    data = dataset(DYNAMIC, 40)
    stored = data.candidate_rows.copy()
    stored[:, dynamic_columns(DYNAMIC)] = 0
    held = engine.item_parts(stored)[: len(parts.widths)]
    for mine, other in zip(held, engine.item_parts(data.candidate_rows), strict=False):
        assert np.array_equal(mine, other)
    owners = np.arange(40, dtype=np.int32)
    found = engine.score(Batch(data.context_rows, data.candidate_rows, owners), held)
    assert np.abs(found.logit - network_logits(made, data, owners)).max() <= 2e-5
    without = engine.score(Batch(data.context_rows, stored, owners), held)
    assert np.abs(found.logit - without.logit).max() > 0.1


def test_a_candidate_of_dynamic_fields_alone_has_no_item_part(tmp_path: Path) -> None:
    """Nothing of the graph depends on stored values."""
    candidate = tuple(replace(slot, dynamic=True) for slot in FLAT.candidate)
    layout = replace(FLAT, candidate=candidate)
    _, path = exported_below(trained("fm", layout, CONFIG), layout, tmp_path / "made")
    with pytest.raises(ExportError, match="depends on the candidate alone"):
        split(path, layout, "fm")


@pytest.mark.parametrize(
    ("network", "layout"),
    [
        *((network, LAYOUT) for network in ("fm", "ffm", "deepfm")),
        *((network, DYNAMIC) for network in ("fm", "deepfm")),
    ],
)
def test_the_first_cut_is_exact(network: str, layout: Layout, tmp_path: Path) -> None:
    """FM and FFM order items as the inner product does, and a DeepFM whose hidden layers give all
    contexts the same; dynamic fields are missing in every item.
    """
    made = trained(network, layout, CONFIG)
    if isinstance(made, DeepFM):
        with torch.no_grad():
            made.mlp.first.weight[:, : made.mlp.split] = 0
    _, path = exported_below(made, layout, tmp_path / "made")
    engine, parts = split(path, layout, network)
    data = dataset(layout, 60)
    rows = data.candidate_rows
    rows[:, dynamic_columns(layout)] = rows[0, dynamic_columns(layout)]
    vectors = engine.item_parts(rows)[-1]
    assert vectors.shape == (60, parts.first_cut)
    for row in range(3):
        context = data.context_rows[row : row + 1]
        whole = Batch(context, rows, np.zeros(60, np.int32))
        expected = engine_of(path, layout).score(whole).logit
        away = vectors @ engine.vector(context) - expected
        assert np.ptp(away) <= 2e-5
        assert np.ptp(expected) > 0.3


def test_the_first_cut_is_exact_for_the_average_context(tmp_path: Path) -> None:
    """A DeepFM's hidden layers are in the item's number as they are for it."""
    _, path = exported_below(trained("deepfm", NUMBERS, CONFIG), NUMBERS, tmp_path / "made")
    engine, _ = split(path, NUMBERS, "deepfm")
    data = dataset(NUMBERS, 60)
    single = [slot.mean for slot in NUMBERS.context]
    lists = [[slot.mean, 0, 0] for slot in NUMBERS.context_lists]
    one = np.ones(NUMBERS.context_values, np.float32).view(np.int32)
    context = np.concatenate([single, *lists, one]).astype(np.int32).reshape(1, -1)
    whole = Batch(context, data.candidate_rows, np.zeros(60, np.int32))
    expected = engine_of(path, NUMBERS).score(whole).logit
    vectors = engine.item_parts(data.candidate_rows)[-1]
    assert np.ptp(vectors @ engine.vector(context) - expected) <= 2e-5
    assert np.ptp(expected) > 0.3


def test_an_index_outside_the_table_is_refused(tmp_path: Path) -> None:
    """Neither graph reads beyond the table."""
    _, path = exported_below(trained("deepfm", LAYOUT, CONFIG), LAYOUT, tmp_path / "made")
    engine, _ = split(path, LAYOUT, "deepfm")
    data = dataset(LAYOUT, 4)
    for index in (-1, LAYOUT.table_rows):
        wrong = data.candidate_rows.copy()
        wrong[2, 0] = index
        with pytest.raises(EngineFailed, match="outside the table"):
            engine.item_parts(wrong)
        context = data.context_rows.copy()
        context[1, 0] = index
        owners = np.arange(4, dtype=np.int32)
        parts = engine.item_parts(data.candidate_rows)
        with pytest.raises(EngineFailed, match="outside the table"):
            engine.score(Batch(context, data.candidate_rows, owners), parts)


def test_graphs_that_are_not_those_of_the_manifest_are_refused(tmp_path: Path) -> None:
    """Graphs that have changed places, and split graphs that disagree with the whole one."""
    _, path = exported_below(trained("fm", LAYOUT, CONFIG), LAYOUT, tmp_path / "made")
    engine, parts = split(path, LAYOUT, "fm")
    graphs = path.with_name("candidate.onnx"), path.with_name("combine.onnx")
    sides = (LAYOUT.context, LAYOUT.context_lists), (LAYOUT.candidate, LAYOUT.candidate_lists)
    with pytest.raises(BundleError, match="not those that the manifest describes"):
        SplitEngine(engine_of(path, LAYOUT), graphs[::-1], parts, *(shape(*s) for s in sides))
    model = onnx.load(path)
    table = next(each for each in model.graph.initializer if each.name == "network.table")
    table.raw_data = (np.frombuffer(table.raw_data, np.float32) + np.float32(0.01)).tobytes()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="split float32 graphs disagree"):
        check_split(engine_of(path, LAYOUT), ThroughParts(engine), dataset(LAYOUT, 37))


def test_a_bundle_has_split_graphs_in_each_precision(tiny_bundle: Path) -> None:
    """Golden requests come out as they did through item parts too, in float32 and int8."""
    bundle = Bundle.open(tiny_bundle)
    parts = bundle.manifest.parts
    assert parts is not None
    assert "item_parts" not in bundle.lacks
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    shapes = encoder.context.shape, encoder.candidate.shape
    for precision, names in SPLIT_GRAPHS.items():
        assert set(names) <= bundle.manifest.files.keys()
        engine = Engine(
            bundle.graph_in(precision), bundle.vocabulary.layout, *shapes, precision=precision
        )
        graphs = bundle.split_graphs_in(precision)
        assert graphs is not None
        through_parts = ThroughParts(SplitEngine(engine, graphs, parts, *shapes))
        verify_examples(bundle, encoder, through_parts, engine.tolerance, precision)
    manifest = msgspec.structs.replace(bundle.manifest, parts=None)
    older = replace(bundle, manifest=manifest)
    assert older.split_graphs_in("float32") is None
    assert "item_parts" in older.lacks
