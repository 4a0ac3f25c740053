"""The exported graph is the network, at every size, and carries nothing else."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.errors import BundleError, EngineFailed
from app.features.graph_inputs import Batch
from app.features.layout import Layout, RowShape, Slot
from app.scoring.engine import Engine
from model.config import NETWORKS, TrainConfig
from model.data.dataset import Dataset
from model.export.graph import (
    ExportError,
    check_parity,
    network_logits,
    read_weights,
    remove_graph,
    write_graph,
)
from model.export.quantize import write_int8
from model.networks.mlp import Mlp
from model.networks.network import Network
from model.quality.calibration import Calibration
from model.quality.scoring import batch_of
from tests.support.networks import trained

ROWS = (0, 1, 2, 3, 7, 64, 1000)
CONTEXTS = (1, 2, 5, 64, 1000)
CONFIG = TrainConfig(embedding_size=4, hidden=(16, 8), init_std=0.5)
LAYOUT = Layout(
    context=(Slot("user", "user", 1, 20), Slot("hour", "time", 21, 26)),
    candidate=(Slot("item", "item", 47, 30), Slot("price", "price", 77, 9)),
    context_lists=(Slot("seen", "seen", 86, 12),),
    candidate_lists=(Slot("tags", "tags", 98, 8), Slot("words", "words", 106, 40)),
)
FLAT = Layout(
    context=(Slot("user", "user", 1, 20),),
    candidate=(Slot("item", "item", 21, 30),),
    context_lists=(),
    candidate_lists=(),
)
NUMBERS = replace(
    LAYOUT,
    context=(*LAYOUT.context, Slot("age", "age", 146, 3, scaled=True)),
    candidate=(*LAYOUT.candidate, Slot("size", "size", 149, 3, scaled=True)),
)
FLAT_NUMBERS = replace(
    FLAT,
    candidate=(
        *FLAT.candidate,
        *(Slot(n, n, f, 3, scaled=True) for n, f in (("a", 51), ("b", 54))),
    ),
)
LAYOUTS = {"lists": LAYOUT, "flat": FLAT, "numbers": NUMBERS, "flat_numbers": FLAT_NUMBERS}
PLACES = 3
"""Length of every list in these tests."""


def shape(single: tuple[Slot, ...], lists: tuple[Slot, ...]) -> RowShape:
    start = len(single)
    ranges = tuple((start + i * PLACES, start + (i + 1) * PLACES) for i in range(len(lists)))
    values = sum(slot.scaled for slot in single)
    return RowShape(start + PLACES * len(lists) + values, start, ranges, values)


def engine_of(path: Path, layout: Layout) -> Engine:
    return Engine(
        path,
        layout,
        shape(layout.context, layout.context_lists),
        shape(layout.candidate, layout.candidate_lists),
    )


def dataset(layout: Layout, rows: int, seed: int = 2) -> Dataset:
    """Random rows; lists have any number of values, none included."""
    rng = np.random.default_rng(seed)

    def single(slots: tuple[Slot, ...]) -> np.ndarray:
        columns = [rng.integers(s.first, s.first + s.size, rows) for s in slots]
        return np.stack(columns, 1).astype(np.int32)

    def lists(slots: tuple[Slot, ...]) -> tuple[np.ndarray, ...]:
        used = np.arange(PLACES) < rng.integers(0, PLACES + 1, (rows, 1))
        return tuple(
            (rng.integers(s.first, s.first + s.size, (rows, PLACES)) * used).astype(np.int32)
            for s in slots
        )

    def values(slots: int) -> np.ndarray | None:
        return rng.normal(size=(rows, slots)).astype(np.float32) if slots else None

    return Dataset(
        single(layout.context),
        single(layout.candidate),
        lists(layout.context_lists),
        lists(layout.candidate_lists),
        np.zeros(rows, np.uint8),
        values(layout.context_values),
        values(layout.candidate_values),
    )


CASES = [
    *((name, layout) for layout in ("lists", "numbers") for name in NETWORKS),
    *((name, "flat") for name in NETWORKS), ("deepfm", "flat_numbers"),
]  # fmt: skip
"""Networks and layouts; without lists, or pairs within a side, some take other ways."""
Case = tuple[str, Layout]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    name, layout = request.param
    return name, LAYOUTS[layout]


@pytest.fixture(scope="module")
def layout(case: Case) -> Layout:
    return case[1]


@pytest.fixture(scope="module")
def graph(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    name, layout = case
    network, path = trained(name, layout, CONFIG), tmp_path_factory.mktemp("graph") / "score.onnx"
    write_graph(network, layout, path)
    return network, path


@pytest.fixture(scope="module")
def exported(graph: tuple[Network, Path], layout: Layout) -> tuple[Network, Engine]:
    network, path = graph
    return network, engine_of(path, layout)


@pytest.mark.parametrize("rows", ROWS)
def test_every_size_scores_as_the_network(
    exported: tuple[Network, Engine], layout: Layout, rows: int
) -> None:
    """Any number of contexts and candidates gives the network's logits."""
    network, engine = exported
    for contexts in CONTEXTS:
        context, candidate = dataset(layout, contexts, 3), dataset(layout, rows, 4)
        row_context = np.random.default_rng(5).integers(0, contexts, rows).astype(np.int32)
        if rows:
            row_context[-1] = contexts - 1
        expected = network_logits(
            network,
            replace(
                candidate,
                context=context.context,
                context_lists=context.context_lists,
                context_value=context.context_value,
            ),
            row_context,
        )
        found = engine.score(
            Batch(
                context.context_rows,
                candidate.candidate_rows,
                row_context,
            )
        )
        assert found.logit.shape == (rows,)
        assert np.abs(found.logit - expected).max(initial=0) <= 2e-5
        assert rows < 64 or np.ptp(expected) > 0.3, "scores that are all alike would prove little"


def test_numbers_are_no_indices(tmp_path: Path) -> None:
    """The bits of a number may be any; a scaled slot's index is checked like others."""
    network = trained("lr", NUMBERS, CONFIG)
    write_graph(network, NUMBERS, tmp_path / "score.onnx")
    engine = engine_of(tmp_path / "score.onnx", NUMBERS)
    data = dataset(NUMBERS, 4)
    numbers = np.array([[-0.0], [-1e30], [1e-45], [3e38]], np.float32)
    owners = np.arange(4, dtype=np.int32)
    for values in (numbers, numbers[::-1].copy()):
        rows = replace(data, context_value=values, candidate_value=values)
        found = engine.score(Batch(rows.context_rows, rows.candidate_rows, owners)).logit
        expected = network_logits(network, rows, owners)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    for side in ("context", "candidate"):
        wrong = getattr(data, side).copy()
        wrong[2, -1] = NUMBERS.table_rows
        rows = replace(data, **{side: wrong})
        with pytest.raises(EngineFailed, match="outside the table"):
            engine.score(Batch(rows.context_rows, rows.candidate_rows, owners))


def test_a_graph_without_numbers_has_no_inputs_for_them(tmp_path: Path) -> None:
    """An engine refuses a graph whose inputs are not those of the layout's slots."""
    write_graph(trained("lr", LAYOUT, CONFIG), LAYOUT, tmp_path / "score.onnx")
    with pytest.raises(BundleError, match="context_value"):
        engine_of(tmp_path / "score.onnx", NUMBERS)


def test_a_graph_is_one_straight_line(graph: tuple[Network, Path]) -> None:
    """There is no control flow and no operator whose output's size depends on values."""
    operators = {node.op_type for node in onnx.load(graph[1]).graph.node}
    assert not operators & {"Loop", "If", "Scan", "NonZero", "Compress"}


def test_list_length_is_free(exported: tuple[Network, Engine], layout: Layout) -> None:
    """A batch whose lists are all empty runs, and scores as the network."""
    network, engine = exported
    data = dataset(layout, 5)
    data = replace(
        data,
        context_lists=tuple(np.zeros_like(column) for column in data.context_lists),
        candidate_lists=tuple(np.zeros_like(column) for column in data.candidate_lists),
    )
    owners = np.arange(5, dtype=np.int32)
    found = engine.score(
        Batch(
            data.context_rows,
            data.candidate_rows,
            owners,
        )
    )
    assert np.abs(found.logit - network_logits(network, data, owners)).max() <= 2e-5


def test_first_dimensions_are_symbolic(tiny_bundle: Path) -> None:
    """No input or output of the file has a fixed number of rows, contexts or list places."""
    graph = onnx.load(tiny_bundle / "score.onnx").graph
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sizes["context"][0] == "contexts"
    assert sizes["candidate"][0] == sizes["row_context"][0] == "rows"
    assert sizes["logit"] == sizes["score"] == ["rows"]
    assert sizes["candidate_list_0"][0] == "rows"
    assert isinstance(sizes["candidate_list_0"][1], str)
    assert [sizes["context"][1], sizes["candidate"][1]] == [6, 3]


def test_a_graph_tells_nothing_of_the_machine(tiny_bundle: Path) -> None:
    """Neither paths nor stack traces nor names of this machine are in the file."""
    data = (tiny_bundle / "score.onnx").read_bytes()
    root = Path(__file__).resolve().parents[3]
    words = [str(root), "site-packages", ".py", "Traceback", "stack_trace", "torch/nn", 'File "']
    for word in [*words, str(Path.home()), socket.gethostname()]:
        assert len(word) < 3 or word.encode() not in data, word


def test_parity_counts_its_rows(exported: tuple[Network, Engine], layout: Layout) -> None:
    """The trainer's own check compares at least 1,000 rows, repeating few ones."""
    worst, compared = check_parity(*exported, dataset(layout, 37))
    assert worst <= 2e-5
    assert compared >= 1000


def nudge_table(network: Network) -> None:
    network.table[1:, 0] += 0.001


def nudge_norm(network: Network) -> None:
    assert isinstance(network.mlp, Mlp)
    network.mlp.norms[0].running_var *= 1.1


def nudge_bias(network: Network) -> None:
    network.bias += 2e-4


def spoil(network: Network) -> None:
    network.bias.fill_(float("nan"))


@pytest.mark.parametrize("change", [nudge_table, nudge_norm, nudge_bias, spoil])
def test_another_network_is_refused(tmp_path: Path, change: Callable[[Network], None]) -> None:
    """A graph that is not this network's fails the export, by how much and at which size."""
    network = trained("deepfm", LAYOUT, CONFIG)
    write_graph(network, LAYOUT, tmp_path / "score.onnx")
    engine = engine_of(tmp_path / "score.onnx", LAYOUT)
    with torch.no_grad():
        change(network)
    with pytest.raises(ExportError, match=r"disagree by .* in a logit for \d+ contexts"):
        check_parity(network, engine, dataset(LAYOUT, 37))


def test_weights_beyond_one_file_are_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph with external data scores as one without, wherever both files are moved."""
    network, data = trained("deepfm", LAYOUT, CONFIG), dataset(LAYOUT, 37)
    write_graph(network, LAYOUT, tmp_path / "score.onnx")
    expected = engine_of(tmp_path / "score.onnx", LAYOUT).score(batch_of(data))
    weights = read_weights(tmp_path / "score.onnx", "deepfm", LAYOUT)
    monkeypatch.setattr("model.export.MAX_INLINE_BYTES", 2000)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_graph(network, LAYOUT, tmp_path / name / "score.onnx")
    files = sorted((tmp_path / "one").iterdir())
    assert [file.name for file in files] == ["score.onnx", "score.onnx.data"]
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    moved = (tmp_path / "one").rename(tmp_path / "moved")
    found = engine_of(moved / "score.onnx", LAYOUT).score(batch_of(data))
    assert found.logit.tobytes() == expected.logit.tobytes()
    for parameter, value in read_weights(moved / "score.onnx", "deepfm", LAYOUT).items():
        torch.testing.assert_close(value, weights[parameter], atol=0, rtol=0)

    write_int8(
        moved / "score.onnx", moved / "int8.onnx", engine_of(moved / "score.onnx", LAYOUT), data, 1
    )
    assert sorted(file.name for file in moved.iterdir()) == [
        "int8.onnx", "int8.onnx.data", "score.onnx", "score.onnx.data",
    ]  # fmt: skip
    quick = engine_of(moved / "int8.onnx", LAYOUT).score(batch_of(data))
    np.testing.assert_allclose(quick.logit, expected.logit, atol=0.2)
    remove_graph(moved / "int8.onnx")
    assert sorted(file.name for file in moved.iterdir()) == ["score.onnx", "score.onnx.data"]

    (moved / "score.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"score\.onnx cannot be loaded: .*score\.onnx\.data"):
        engine_of(moved / "score.onnx", LAYOUT)


def test_the_weights_can_be_read_again(case: Case, graph: tuple[Network, Path]) -> None:
    """A graph holds all weights, batch norm folded, by which another network may begin."""
    network, path = graph
    weights = read_weights(path, *case)
    # A side of one field has no pairs, and kernels without numbers, which are in no graph.
    parameters = [(name, v) for name, v in network.folded().named_parameters() if v.numel()]
    for parameter, value in parameters:
        torch.testing.assert_close(weights[parameter], value.detach(), atol=1e-6, rtol=1e-5)


def test_a_graph_that_calibrates_otherwise_is_not_exported(tmp_path: Path) -> None:
    """The export compares every score with what the logit says."""
    network = trained("lr", LAYOUT, CONFIG)
    calibration = Calibration("platt", (0.0,), (-0.5,), (0.7, 0.7))
    write_graph(network, LAYOUT, tmp_path / "score.onnx", calibration)
    engine = engine_of(tmp_path / "score.onnx", LAYOUT)
    check_parity(network, engine, dataset(LAYOUT, 37), calibration)
    with pytest.raises(ExportError, match="not what its logit says"):
        check_parity(network, engine, dataset(LAYOUT, 37))
