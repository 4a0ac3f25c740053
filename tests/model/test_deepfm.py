"""The network is the paper's formula, however its rows are arranged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from app.layout import Layout, Slot
from model.config import TrainConfig
from model.deepfm import DeepFM, Dropout

LAYOUT = Layout(
    context=(Slot("user", "user", 1, 10), Slot("hour", "time", 11, 6)),
    candidate=(Slot("item", "item", 17, 12),),
    context_lists=(Slot("history", "history", 29, 8),),
    candidate_lists=(Slot("genres", "genres", 37, 6), Slot("tags", "tags", 43, 5)),
)
Inputs = tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def network() -> DeepFM:
    """A network with weights and running statistics far from their start."""
    torch.manual_seed(7)
    network = DeepFM(LAYOUT, TrainConfig(embedding_size=4, hidden=(8, 5)), base_rate=0.2)
    with torch.no_grad():
        network.table[1:].normal_()
        for norm in network.norms:
            assert isinstance(norm, nn.BatchNorm1d)
            for statistic in (norm.running_mean, norm.bias):
                assert statistic is not None
                statistic.normal_()
            for statistic in (norm.running_var, norm.weight):
                assert statistic is not None
                statistic.uniform_(0.5, 2.0)
    return network.eval()


def inputs(contexts: int, rows: int, length: int, seed: int = 0) -> Inputs:
    """Return random indices, padding among them in the lists."""
    random = np.random.default_rng(seed)

    def single(slots: tuple[Slot, ...], count: int) -> Tensor:
        columns = [random.integers(s.first, s.first + s.size, count) for s in slots]
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.int32))

    def listed(slots: tuple[Slot, ...], count: int) -> list[Tensor]:
        columns = []
        for slot in slots:
            index = random.integers(slot.first, slot.first + slot.size, (count, length))
            columns.append(index * (random.random((count, length)) < 0.6))
        return [torch.from_numpy(column.astype(np.int32)) for column in columns]

    return (
        single(LAYOUT.context, contexts),
        single(LAYOUT.candidate, rows),
        torch.from_numpy(random.integers(0, max(contexts, 1), rows).astype(np.int32)),
        listed(LAYOUT.context_lists, contexts),
        listed(LAYOUT.candidate_lists, rows),
    )


def plain_logit(network: DeepFM, values: Inputs, row: int) -> float:
    """Return one row's logit by the formula of the paper, pair by pair and unfactored."""
    context, candidate, row_context, context_lists, candidate_lists = values
    home = int(row_context[row])
    fields = [network.table[int(i)] for i in context[home]]
    fields += [mean(network, column[home]) for column in context_lists]
    fields += [network.table[int(i)] for i in candidate[row]]
    fields += [mean(network, column[row]) for column in candidate_lists]
    logit = network.bias + sum(field[0] for field in fields)
    for i, left in enumerate(fields):
        for right in fields[i + 1 :]:
            logit = logit + left[1:] @ right[1:]
    hidden = torch.cat([field[1:] for field in fields]).unsqueeze(0)
    for linear, norm in zip((network.first, *network.deeper), network.norms, strict=True):
        hidden = torch.relu(norm(linear(hidden)))
    return float(logit + network.output(hidden).squeeze())


def mean(network: DeepFM, index: Tensor) -> Tensor:
    """Return the mean row of a list's values, zero for none."""
    rows = [network.table[int(i)] for i in index if i != 0]
    return torch.stack(rows).mean(0) if rows else torch.zeros(network.table.shape[1])


def fm_only(layout: Layout, size: int) -> DeepFM:
    """Return a network whose deep part and bias are zero."""
    config = TrainConfig(embedding_size=size, hidden=(2,), batch_norm=False)
    network = DeepFM(layout, config).eval()
    with torch.no_grad():
        network.output.weight.zero_()
    return network


@torch.no_grad()
def test_factored_form_equals_the_plain_formula(network: DeepFM) -> None:
    """Sharing the contexts' work changes no score."""
    values = inputs(contexts=3, rows=20, length=4)
    expected = [plain_logit(network, values, row) for row in range(20)]
    assert network(*values).tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_hand_computed_numbers() -> None:
    """F = 3, K = 2: e = (1,2), (3,-1), (0.5,4) pair up to 1 + 8.5 - 2.5 = 7, and w = 1 + 2 - 4."""
    layout = Layout((Slot("a", "a", 1, 2), Slot("b", "b", 3, 2)), (Slot("c", "c", 5, 2),), (), ())
    network = fm_only(layout, size=2)
    network.table[2] = torch.tensor([1.0, 1.0, 2.0])
    network.table[4] = torch.tensor([2.0, 3.0, -1.0])
    network.table[6] = torch.tensor([-4.0, 0.5, 4.0])
    logit = network(torch.tensor([[2, 4]]), torch.tensor([[6]]), torch.tensor([0]))
    assert logit.tolist() == [7.0 - 1.0]


@torch.no_grad()
@pytest.mark.parametrize("side", ["context", "candidate"])
def test_a_single_field_has_no_pairs(side: str) -> None:
    """F = 1 makes the FM term exactly zero, whichever side the field is on."""
    slot = (Slot("a", "a", 1, 3),)
    layout = Layout(slot, (), (), ()) if side == "context" else Layout((), slot, (), ())
    network = fm_only(layout, size=8)
    network.table[1:, 1:].normal_()
    one, none = torch.tensor([[2], [3]]), torch.zeros((2, 0), dtype=torch.int64)
    context, candidate = (one, none) if side == "context" else (none, one)
    assert network(context, candidate, torch.arange(2)).tolist() == [0.0, 0.0]


@torch.no_grad()
def test_zero_vectors_pair_to_zero() -> None:
    """One embedding beside two zero vectors leaves the FM term at zero."""
    layout = Layout((Slot("a", "a", 1, 2), Slot("b", "b", 3, 2)), (Slot("c", "c", 5, 2),), (), ())
    network = fm_only(layout, size=2)
    network.table.zero_()
    network.table[2, 1:] = torch.tensor([0.3, -0.7])
    assert network(torch.tensor([[2, 4]]), torch.tensor([[6]]), torch.tensor([0])).item() == 0.0


@torch.no_grad()
def test_a_new_network_predicts_near_the_base_rate() -> None:
    """Before training every score is close to the base rate, and padding is zero."""
    network = DeepFM(LAYOUT, TrainConfig(), base_rate=0.03).eval()
    score = torch.sigmoid(network(*inputs(2, 50, 3)))
    assert score.numpy() == pytest.approx(0.03, abs=0.01)
    assert not network.table[0].any()
    assert not network.table[:, 0].any()


@torch.no_grad()
def test_a_row_scores_alone_as_in_a_batch(network: DeepFM) -> None:
    """Neighbours do not move a score."""
    context, candidate, row_context, context_lists, candidate_lists = inputs(3, 64, 4)
    together = network(context, candidate, row_context, context_lists, candidate_lists)
    for row in (0, 17, 63):
        home = slice(int(row_context[row]), int(row_context[row]) + 1)
        alone = network(
            context[home],
            candidate[row : row + 1],
            torch.zeros(1, dtype=torch.int32),
            [column[home] for column in context_lists],
            [column[row : row + 1] for column in candidate_lists],
        )
        assert alone.item() == pytest.approx(together[row].item(), abs=1e-5)


@torch.no_grad()
def test_repeating_a_list_changes_nothing(network: DeepFM) -> None:
    """A list said three times over has the same mean, for weights and embeddings alike."""
    context, candidate, row_context, context_lists, candidate_lists = inputs(3, 20, 4)
    once = network(context, candidate, row_context, context_lists, candidate_lists)
    thrice = network(
        context,
        candidate,
        row_context,
        [column.repeat(1, 3) for column in context_lists],
        [column.repeat(1, 3) for column in candidate_lists],
    )
    torch.testing.assert_close(once, thrice, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_width_does_not_matter(network: DeepFM) -> None:
    """Wider padding, and padding before the values, leave the scores alone."""
    context, candidate, row_context, context_lists, candidate_lists = inputs(3, 20, 4)
    narrow = network(context, candidate, row_context, context_lists, candidate_lists)
    wide = network(
        context,
        candidate,
        row_context,
        [nn.functional.pad(column, (0, 7)) for column in context_lists],
        [nn.functional.pad(column, (2, 40)) for column in candidate_lists],
    )
    torch.testing.assert_close(narrow, wide, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_empty_list_contributes_nothing(network: DeepFM) -> None:
    """Padding only, and no places at all, equal a list whose rows are all zero."""
    context, candidate, row_context, _, candidate_lists = inputs(3, 20, 4)
    zeros = torch.zeros((3, 4), dtype=torch.int32)
    padded = network(context, candidate, row_context, [zeros], candidate_lists)
    absent = network(context, candidate, row_context, [zeros[:, :0]], candidate_lists)
    network.table[29:37] = 0
    zeroed = network(context, candidate, row_context, [zeros + 30], candidate_lists)
    assert torch.equal(padded, absent)
    torch.testing.assert_close(padded, zeroed, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_folding_batch_norm_keeps_the_scores(network: DeepFM) -> None:
    """The folded network has no batch norm, shares the table and gives the same logits."""
    folded, values = network.folded(), inputs(3, 50, 4)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in folded.modules())
    assert folded.table is network.table
    assert any(isinstance(module, nn.BatchNorm1d) for module in network.modules())
    torch.testing.assert_close(folded(*values), network(*values), atol=1e-5, rtol=1e-5)


def test_padding_gets_no_gradient(network: DeepFM) -> None:
    """Row 0 stays out of training, however much padding the lists hold."""
    network(*inputs(3, 20, 4)).sum().backward()
    assert network.table.grad is not None
    assert not network.table.grad[0].any()
    assert network.table.grad[1:].any()


def test_dropout_keeps_the_expected_value() -> None:
    """A quarter of the values is dropped and the rest scaled up; evaluation drops none."""
    torch.manual_seed(0)
    dropout, ones = Dropout(0.25), torch.ones(1_000, 1_001)
    value = dropout(ones)
    assert value.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert value.mean().item() == pytest.approx(1.0, abs=0.01)
    assert dropout.eval()(ones) is ones


@pytest.mark.parametrize("rate", [0.0, 0.001])
def test_dropout_below_one_in_512_drops_nothing(rate: float) -> None:
    """The rate is rounded to a multiple of 1/256."""
    ones = torch.ones(4, 4)
    assert Dropout(rate)(ones) is ones


def test_one_exported_graph_serves_every_size(network: DeepFM, tmp_path: Path) -> None:
    """The graph has symbolic sizes from zero up, no control flow, and the network's logits."""
    folded = network.folded()
    axis = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        folded,
        inputs(3, 5, 4),
        dynamo=True,
        dynamic_shapes=(
            {0: axis},
            {0: axis},
            {0: axis},
            [{0: axis, 1: axis}],
            [{0: axis, 1: axis}, {0: axis, 1: axis}],
        ),
        verbose=False,
    )
    assert program is not None
    path = tmp_path / "score.onnx"
    program.save(path)
    operators = {node.op_type for node in program.model_proto.graph.node}
    assert not operators & {"Loop", "If", "Scan", "NonZero"}

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for contexts, rows, length in ((0, 0, 0), (1, 0, 3), (1, 1, 1), (1, 9, 0), (4, 100, 6)):
        context, candidate, row_context, context_lists, candidate_lists = values = inputs(
            contexts, rows, length
        )
        flat = (context, candidate, row_context, *context_lists, *candidate_lists)
        (logit,) = session.run(None, dict(zip(names, (t.numpy() for t in flat), strict=True)))
        with torch.no_grad():
            expected = folded(*values).numpy()
        assert logit.shape == (rows,)
        np.testing.assert_allclose(logit, expected, atol=1e-5, rtol=1e-5)
