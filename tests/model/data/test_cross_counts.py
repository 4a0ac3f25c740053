"""Weights of pairs: counted in training rows, found the same way by trainer and graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.features.graph_inputs import Batch
from app.features.layout import Layout, RowShape, Slot
from app.features.spec import FeatureSpec
from app.scoring.engine import Engine
from app.scoring.split_engine import SplitEngine, ThroughParts
from model.config import NETWORKS, TrainConfig
from model.data import cross_counts as module
from model.data.cross_counts import CrossError, count_crosses
from model.data.dataset import Dataset
from model.export.graph import write_graph
from model.export.parity import check_split, network_logits
from model.export.split import write_split
from model.networks import build, weight_bytes
from model.networks.crosses import MEAN, RARE, CrossTerm, CrossWeights
from model.networks.mlp import Mlp
from model.networks.network import NetworkInputs
from model.networks.wide_deep import WideDeep
from model.quality.figures import auc
from model.training.evaluation import predict
from model.training.fit import fit
from model.training.trainer import Trainer
from tests.support.networks import indices, with_means

pytestmark = pytest.mark.slow

LAYOUT = Layout(
    context=(Slot("gender", "gender", 1, 4), Slot("city", "city", 5, 5)),
    candidate=(Slot("genre", "genre", 10, 5),),
    context_lists=(Slot("likes", "likes", 15, 5),),
    candidate_lists=(Slot("tags", "tags", 20, 5),),
)
CONFIG = TrainConfig(
    network="wide_deep", embedding_size=2, hidden=(4,), batch_size=64, epochs=2, threads=1,
    batch_norm=False, dropout=0.0,
)  # fmt: skip
MEN, WOMEN = 3, 4
ACTION, DRAMA = 12, 13


def spec(*crosses: str) -> FeatureSpec:
    """The layout's spec, with the given ``[[crosses]]`` sections."""
    fields = ""
    for slots, side, kind in (
        (LAYOUT.context, "context", "categorical"),
        (LAYOUT.candidate, "candidate", "categorical"),
        (LAYOUT.context_lists, "context", "multi_categorical"),
        (LAYOUT.candidate_lists, "candidate", "multi_categorical"),
    ):
        for slot in slots:
            fields += f'[[fields]]\nname = "{slot.name}"\nkind = "{kind}"\nside = "{side}"\n'
    sections = "".join(f"[[crosses]]\n{cross}\n" for cross in crosses)
    return FeatureSpec.parse(f'label = "click"\n{fields}{sections}')


def cross(left: str, right: str, min_count: int = 1) -> str:
    return f'fields = ["{left}", "{right}"]\nmin_count = {min_count}'


def rows(
    gender: Sequence[int], genre: Sequence[int], label: Sequence[int] | None = None
) -> Dataset:
    """Rows of the two fields, the others being missing or empty."""
    count = len(gender)
    context = np.stack([gender, np.full(count, 5)], 1).astype(np.int32)
    return Dataset(
        context,
        np.array(genre, np.int32)[:, None],
        (np.zeros((count, 2), np.int32),),
        (np.zeros((count, 2), np.int32),),
        np.array(label if label is not None else np.zeros(count), np.uint8),
    )


def inputs(
    gender: int = 1, genre: int = 10, likes: Sequence[int] = (), tags: Sequence[int] = ()
) -> NetworkInputs:
    """One row, lists with a place of padding after their values."""
    return NetworkInputs(
        torch.tensor([[gender, 5]]),
        torch.tensor([[genre]]),
        torch.tensor([0]),
        [torch.tensor([[*likes, 0]])],
        [torch.tensor([[*tags, 0]])],
    )


@torch.no_grad()
def term(learnt: CrossWeights, weights: Sequence[float]) -> CrossTerm:
    """A term with the given weights of rare pairs and of the kept ones, by their numbers."""
    result = CrossTerm(learnt)
    rare, *kept = weights
    assert len(result.weight) == MEAN + 1 + len(kept)
    result.weight[RARE] = rare
    result.weight[MEAN + 1 :, 0] = torch.tensor(kept)
    return result


def learn(data: Dataset, *crosses: str) -> tuple[CrossWeights, ...]:
    return count_crosses(spec(*crosses), LAYOUT, data)


@torch.no_grad()
def test_pairs_by_hand() -> None:
    """Pairs seen often enough have their own weight, in order; the rest share the rare one."""
    data = rows([MEN, MEN, WOMEN, WOMEN, WOMEN], [ACTION, ACTION, DRAMA, DRAMA, ACTION])
    (learnt,) = learn(data, cross("gender", "genre", 2))
    assert learnt.described() == {"fields": ["gender", "genre"], "pairs": 2}
    found = term(learnt, [0.5, 3.0, -2.0])
    expected = {(MEN, ACTION): 3.0, (WOMEN, DRAMA): -2.0, (WOMEN, ACTION): 0.5, (MEN, DRAMA): 0.5}
    for (gender, genre), weight in expected.items():
        assert found(inputs(gender, genre)).tolist() == [weight]
    missing, oov = 1, 11
    assert found(inputs(missing, oov)).tolist() == [0.5]


@torch.no_grad()
def test_the_order_of_a_cross_does_not_matter() -> None:
    """A candidate field named first gives each row the same weight."""
    data = rows([MEN, WOMEN, WOMEN], [ACTION, DRAMA, ACTION])
    (forth,), (back,) = (
        learn(data, cross(*fields)) for fields in (("gender", "genre"), ("genre", "gender"))
    )
    # By rising numbers: left value first.
    ahead, behind = term(forth, [0, 1, 2, 3]), term(back, [0, 1, 2, 3])
    for gender, genre, forward, backward in (
        (MEN, ACTION, 1, 1), (WOMEN, ACTION, 2, 2), (WOMEN, DRAMA, 3, 3),
    ):  # fmt: skip
        assert ahead(inputs(gender, genre)).tolist() == [forward]
        assert behind(inputs(gender, genre)).tolist() == [backward]


@torch.no_grad()
def test_lists_by_hand() -> None:
    """A list's term is the mean weight of its pairs; padding has none, an empty list zero."""
    data = replace(
        rows([MEN, MEN], [ACTION, ACTION]),
        context_lists=(np.array([[17, 18], [17, 0]], np.int32),),
        candidate_lists=(np.array([[22, 0], [23, 22]], np.int32),),
    )
    single, double = learn(data, cross("gender", "tags"), cross("likes", "tags"))
    assert [each.described()["pairs"] for each in (single, double)] == [2, 3]
    found = term(single, [0.5, 3.0, -2.0])  # (men, 22), (men, 23)
    assert found(inputs(MEN, tags=[22])).tolist() == [3.0]
    assert found(inputs(MEN, tags=[22, 23])).tolist() == [0.5]
    assert found(inputs(MEN, tags=[22, 22, 22, 24])).tolist() == [(3 * 3.0 + 0.5) / 4]
    assert found(inputs(MEN)).tolist() == [0.0]
    found = term(double, [0.5, 3.0, -2.0, 7.0])  # (17, 22), (17, 23), (18, 22)
    assert found(inputs(likes=[17, 18], tags=[22, 23])).tolist() == [(3 - 2 + 7 + 0.5) / 4]
    assert found(inputs(likes=[17])).tolist() == [0.0]


@torch.no_grad()
def test_a_cross_of_the_context_is_every_row_of_its() -> None:
    """Both fields being the context's, each row has its context's weight."""
    learnt = learn(rows([MEN, WOMEN], [ACTION, ACTION]), cross("gender", "city"))
    found = term(learnt[0], [0.5, 3.0, -2.0])
    values = inputs(MEN)._replace(
        context=torch.tensor([[MEN, 5], [WOMEN, 5], [WOMEN, 8]]),
        candidate=torch.tensor([[ACTION]] * 4),
        row_context=torch.tensor([2, 1, 0, 1]),
    )
    assert found(values).tolist() == [0.5, -2.0, 3.0, -2.0]


def test_a_mean_has_one_weight_with_every_value() -> None:
    """Pairs of a mean share the weight of means; padding stays padding, and all else is as it is
    without means."""
    data = rows([MEN, MEN, WOMEN], [ACTION, ACTION, DRAMA])
    layout = with_means(LAYOUT)
    (plain,) = learn(data, cross("gender", "genre", 2))
    (learnt,) = count_crosses(spec(cross("gender", "genre", 2)), layout, data)
    left, right = learnt.pairs.left.numbers, learnt.pairs.right.numbers
    assert (left, right) == (plain.pairs.left.numbers + 1, plain.pairs.right.numbers + 1)
    weight_of = learnt.weight_of.reshape(left, right)
    assert weight_of[:-1, :-1].tolist() == plain.weight_of.reshape(left - 1, -1).tolist()
    assert weight_of[-1].tolist() == [0] + [MEAN] * (right - 1)
    assert weight_of[:, -1].tolist() == [0] + [MEAN] * (left - 1)
    with torch.no_grad():
        found = CrossTerm(learnt)
        found.weight[:, 0] = torch.tensor([0.0, 0.5, -7.0, 3.0])
        gender, genre = layout.context[0].mean, layout.candidate[0].mean
        assert gender is not None
        assert genre is not None
        for values in (inputs(gender, DRAMA), inputs(MEN, genre), inputs(gender, genre)):
            assert found(values).tolist() == [-7.0]
        assert found(inputs(MEN, ACTION)).tolist() == [3.0]


def test_min_count_is_of_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting in small steps gives the same pairs as at once."""
    random = np.random.default_rng(1)
    data = rows(random.integers(1, 5, 500), random.integers(10, 15, 500))
    (whole,) = learn(data, cross("gender", "genre", 25))
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 7)
    (cut,) = learn(data, cross("gender", "genre", 25))
    assert 2 < whole.weights < 22
    assert np.array_equal(whole.weight_of, cut.weight_of)


def test_a_cross_of_too_many_values_is_refused() -> None:
    """The error names the cross and tells what would make it smaller."""
    layout = replace(LAYOUT, context=(Slot("gender", "gender", 100, 2**22), LAYOUT.context[1]))
    with pytest.raises(CrossError, match=r"cross 'gender x genre'.*larger min_count"):
        count_crosses(spec(cross("gender", "genre")), layout, rows([MEN], [ACTION]))


def test_the_memory_needed_counts_the_crosses() -> None:
    """Weights of pairs and the table that finds them have their share."""
    crosses = learn(rows([MEN], [ACTION]), cross("gender", "genre"))
    more = weight_bytes(LAYOUT, CONFIG, crosses) - weight_bytes(LAYOUT, CONFIG)
    assert more == 4 * (crosses[0].weights + 5 * 6)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "wide_deep"])
def test_only_wide_deep_has_crosses(name: str) -> None:
    """The other networks are what they are without."""
    crosses = learn(rows([MEN], [ACTION]), cross("gender", "genre"))
    config = replace(CONFIG, network=name)
    network = build(LAYOUT, config, 0.5, crosses)
    assert not [module for module in network.modules() if isinstance(module, CrossTerm)]


def parity(count: int, seed: int) -> Dataset:
    """Rows that click where gender and genre match in parity."""
    random = np.random.default_rng(seed)
    gender, genre = random.integers(MEN, MEN + 2, count), random.integers(ACTION, ACTION + 2, count)
    return rows(gender, genre, (gender + genre) % 2)


def test_the_wide_part_learns_a_pair() -> None:
    """With its deep part silent, only the cross can tell which pairs click."""
    train, held_out = parity(1_000, 1), parity(500, 2)
    found = []
    for crosses in ((), learn(train, cross("gender", "genre"))):
        trainer = Trainer(LAYOUT, train, replace(CONFIG, epochs=4), crosses)
        assert isinstance(trainer.network.mlp, Mlp)
        trainer.network.mlp.output.weight.requires_grad_(False).zero_()
        for batch in trainer.shuffled(16):
            trainer.step(batch, 0.05)
        found.append(auc(held_out.label, predict(trainer.network, held_out)))
    without, crossed = found
    assert without is not None
    assert crossed is not None
    assert without < 0.6
    assert crossed > 0.99


def test_padding_is_not_trained_and_l2_holds() -> None:
    """Weight 0 stays zero; a strong lambda keeps the pairs' weights near zero."""
    train = replace(
        parity(600, 1), candidate_lists=(np.tile(np.array([[22, 0]], np.int32), (600, 1)),)
    )
    crosses = learn(train, cross("gender", "genre"), cross("gender", "tags"))
    sizes = []
    for l2 in (0.0, 1.0):
        config = replace(CONFIG, epochs=6, learning_rate=0.05, embedding_l2=l2)
        network = fit(LAYOUT, train, parity(50, 2), config, False, crosses=crosses).network
        assert isinstance(network, WideDeep)
        weights = [value.detach() for value in network.cross_parameters()]
        assert [float(weight[0]) for weight in weights] == [0.0, 0.0]
        sizes.append(float(weights[0].abs().max()))
    assert sizes[0] > 0.2
    assert sizes[1] < 0.2 * sizes[0]


def test_hidden_values_hide_their_pairs() -> None:
    """A value that training hides as OOV is OOV in its pairs too: their shared weight learns."""
    train = parity(600, 1)
    crosses = learn(train, cross("gender", "genre"))
    rare = []
    for rate in (0.0, 0.5):
        trainer = Trainer(LAYOUT, train, replace(CONFIG, oov_rate=rate), crosses)
        for batch in trainer.shuffled(10):
            trainer.step(batch, 0.05)
        (weight,) = trainer.network.cross_parameters()
        rare.append(weight[1].item())
    assert rare[0] == 0.0
    assert rare[1] != 0.0


def test_the_graph_has_the_network_s_crosses(tmp_path: Path) -> None:
    """Crosses within and across the sides, lists and means too, agree at every size."""
    random = np.random.default_rng(3)
    layout = with_means(LAYOUT)

    def single(slots: tuple[Slot, ...], count: int) -> np.ndarray:
        return np.stack([indices(random, slot, count) for slot in slots], 1)

    def listed(slots: tuple[Slot, ...], count: int) -> tuple[np.ndarray, ...]:
        used = np.arange(3) < random.integers(0, 4, (count, 1))
        return tuple((single((s,) * 3, count) * used).astype(np.int32) for s in slots)

    data = Dataset(
        single(layout.context, 400),
        single(layout.candidate, 400),
        listed(layout.context_lists, 400),
        listed(layout.candidate_lists, 400),
        np.zeros(400, np.uint8),
    )
    pairs = (("gender", "genre", 15), ("city", "gender"), ("genre", "tags"), ("tags", "city"))
    crossed = spec(*(cross(*pair) for pair in pairs), cross("likes", "tags"))
    crosses = count_crosses(crossed, layout, data)
    torch.manual_seed(1)
    network = build(layout, replace(CONFIG, init_std=0.5), 0.3, crosses).eval()
    plain = build(layout, replace(CONFIG, init_std=0.5), 0.3).eval()
    with torch.no_grad():
        for weight in network.cross_parameters():
            weight[1:].normal_()
    plain.load_state_dict(network.state_dict(), strict=False)
    write_graph(network, layout, tmp_path / "score.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "score.onnx").graph.node}
    assert not operators & {"Loop", "If", "Scan", "NonZero", "Compress"}
    shapes = RowShape(5, 2, ((2, 5),)), RowShape(4, 1, ((1, 4),))
    engine = Engine(tmp_path / "score.onnx", layout, *shapes)
    graphs = tmp_path / "candidate.onnx", tmp_path / "combine.onnx"
    parts = write_split(tmp_path / "score.onnx", "wide_deep", layout, *graphs)
    assert parts.takes == ("candidate", "candidate_list_0"), "pairs of both sides need the row"
    split = SplitEngine(engine, graphs, parts, *shapes)
    check_split(engine, ThroughParts(split), data)
    for contexts, count in ((1, 1), (1, 100), (5, 100), (100, 100), (3, 0)):
        context, candidate = data.take(slice(0, contexts)), data.take(slice(0, count))
        part = replace(candidate, context=context.context, context_lists=context.context_lists)
        owners = (np.arange(count) % contexts).astype(np.int32)
        if count:
            owners[-1] = contexts - 1
        found = engine.score(
            Batch(
                context.context_rows,
                candidate.candidate_rows,
                owners,
            )
        ).logit
        expected = network_logits(network, part, owners)
        assert np.abs(found - expected).max(initial=0) <= 2e-5
        if count == 100:
            assert np.abs(expected - network_logits(plain, part, owners)).max() > 0.5
    engine.warm_up((1, 3))
