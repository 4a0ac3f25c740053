"""Equal rows score equal, bit for bit, wherever they stand and among whatever neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from app.features.arrays import Indices
from app.features.graph_inputs import Batch, Scores
from app.features.layout import Layout, RowShape, Slot
from app.features.spec import Categorical, Cross, FeatureSpec
from app.scoring.engine import Engine
from model.config import NETWORKS, TrainConfig
from model.data.cross_counts import count_crosses
from model.data.dataset import Dataset
from model.networks import build
from model.networks.network import Network
from tests.support.graphs import exported_below
from tests.support.networks import inputs, trained

pytestmark = pytest.mark.slow

SIZES = range(1, 101)
BATCHES = 16
ROWS, LENGTH, VALUES = 300, 5, 7
CONFIG = TrainConfig(embedding_size=10, hidden=(65, 33), init_std=0.5)
"""Sizes that fill no vector of the processor: what is left over is summed in another way."""


def layout(attending: bool = False) -> Layout:
    """Eleven fields of the context and nine of the candidate: two lists and a number on each.

    With ``attending`` the first list of the context has the rows of a field of the candidate.
    """
    firsts = iter(range(1, 10_000, VALUES))

    def slots(name: str, count: int, scaled: bool = False) -> tuple[Slot, ...]:
        names = [f"{name}{number}" for number in range(count)]
        return tuple(Slot(each, each, next(firsts), VALUES, scaled) for each in names)

    context = *slots("u", 8), *slots("age", 1, scaled=True)
    candidate = *slots("i", 6), *slots("price", 1, scaled=True)
    likes = slots("likes", 1 if attending else 2)
    if attending:
        likes = (Slot("past", "past", candidate[0].first, VALUES, shares="i0"), *likes)
    return Layout(context, candidate, likes, slots("tags", 2))


LAYOUT, ATTENDING = layout(), layout(attending=True)


class Case(NamedTuple):
    """An engine of one network and rows of both sides."""

    engine: Engine
    context: Indices
    candidate: Indices


def shape(single: int, lists: int) -> RowShape:
    ranges = tuple((single + i * LENGTH, single + (i + 1) * LENGTH) for i in range(lists))
    return RowShape(single + lists * LENGTH + 1, single, ranges, 1)


def dataset(layout: Layout) -> Dataset:
    values = inputs(ROWS, ROWS, LENGTH, layout=layout)
    assert values.context_value is not None
    assert values.candidate_value is not None
    return Dataset(
        values.context.numpy(), values.candidate.numpy(),
        tuple(column.numpy() for column in values.context_lists),
        tuple(column.numpy() for column in values.candidate_lists),
        np.zeros(ROWS, np.uint8), values.context_value.numpy(), values.candidate_value.numpy(),
    )  # fmt: skip


def network(name: str, layout: Layout, data: Dataset) -> Network:
    """Return a network with weights far from their start; Wide & Deep has crosses too."""
    if name != "wide_deep":
        return trained(name, layout, CONFIG)
    pairs = (("u0", "i0"), ("u1", "u2"), ("tags0", "u1"), ("likes0", "tags1"))
    spec = FeatureSpec(
        label="click", fields=(Categorical(name="u0", side="context"),),
        crosses=tuple(Cross(fields=pair, min_count=1) for pair in pairs),
    )  # fmt: skip
    found = trained(name, LAYOUT, CONFIG)
    config = replace(CONFIG, network=name)
    crossed = build(LAYOUT, config, 0.2, count_crosses(spec, LAYOUT, data))
    crossed.load_state_dict(found.state_dict(), strict=False)
    with torch.no_grad():
        for weight in crossed.cross_parameters():
            weight[1:].normal_()
    return crossed.eval()


@pytest.fixture(scope="module", params=[*NETWORKS, "din attending", "deepfm attending"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, _, attending = request.param.partition(" ")
    layout = ATTENDING if attending else LAYOUT
    data = dataset(layout)
    made = network(name, layout, data)
    directory = tmp_path_factory.mktemp("graph")
    _, path = exported_below(made, layout, directory)
    engine = Engine(path, layout, shape(9, 2), shape(7, 2), threads=1)
    return Case(engine, data.context_rows, data.candidate_rows)


def kinds(scores: Scores) -> int:
    """The number of different scores, by logit or by score."""
    return max(len(set(scores.logit.tolist())), len(set(scores.score.tolist())))


@pytest.mark.parametrize("target", [0, 7])
def test_a_row_repeated_has_one_score(case: Case, target: int) -> None:
    """A batch of one candidate over and over, of one context or of as many equal ones."""
    for size in SIZES:
        candidates = np.repeat(case.candidate[target : target + 1], size, axis=0)
        contexts = np.repeat(case.context[target : target + 1], size, axis=0)
        one = Batch(contexts[:1], candidates, np.zeros(size, np.int32))
        many = Batch(contexts, candidates, np.arange(size, dtype=np.int32))
        assert kinds(case.engine.score(one)) == 1, f"{size} rows of one context"
        assert kinds(case.engine.score(many)) == 1, f"{size} rows of their own contexts"


def test_a_row_scores_the_same_at_every_place(case: Case) -> None:
    """Whatever stands before it and after it, a candidate has one score in batches of a size.

    Half of a batch are rows that are followed: they move on from one batch to the next by steps
    that grow by one, so each of them comes to places of all kinds, and each place has several.
    """
    random = np.random.default_rng(1)
    for size in SIZES:
        followed = random.permutation(ROWS)[: (size + 1) // 2]
        found: list[set[tuple[float, float]]] = [set() for _ in followed]
        taken = set()
        for step in range(min(size, BATCHES)):
            places = (np.arange(len(followed)) + step * (step + 1) // 2) % size
            rows = random.integers(0, ROWS, size)
            rows[places] = followed
            batch = Batch(case.context[:1], case.candidate[rows], np.zeros(size, np.int32))
            scores = case.engine.score(batch)
            for seen, logit, score in zip(
                found, scores.logit[places].tolist(), scores.score[places].tolist(), strict=True
            ):
                seen.add((logit, score))
            taken.update(places.tolist())
        assert all(len(seen) == 1 for seen in found), f"{size} rows"
        assert taken == set(range(size))


def test_equal_rows_far_apart_score_equal(case: Case) -> None:
    """Pairs of equal rows among others, with contexts of their own, have equal scores."""
    random = np.random.default_rng(2)
    for size in SIZES:
        rows = random.integers(0, ROWS, size)
        twice = random.permutation(np.concatenate([rows, rows]))
        owners = np.arange(2 * size, dtype=np.int32)
        found = case.engine.score(Batch(case.context[twice], case.candidate[twice], owners))
        by_row: dict[int, set[tuple[float, float]]] = {}
        for row, logit, score in zip(
            twice.tolist(), *(each.tolist() for each in found), strict=True
        ):
            by_row.setdefault(row, set()).add((logit, score))
        assert all(len(scores) == 1 for scores in by_row.values()), f"{2 * size} rows"
