"""DIN is its formula; every other network takes the mean of a list that attends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.features.layout import Layout, Slot
from model.config import NETWORKS, TrainConfig
from model.networks import build
from model.networks.din import DIN, AttentionUnit
from model.networks.network import NetworkInputs
from tests.model.networks.test_networks import FORMULAS, last_hidden, mean, plain_logit
from tests.support.networks import CONFIG, inputs, trained

ATTENDING = Layout(
    context=(Slot("user", "user", 1, 10),),
    candidate=(Slot("shop", "shop", 11, 6), Slot("item", "item", 17, 12)),
    context_lists=(
        Slot("seen", "seen", 17, 12, shares="item"),
        Slot("tastes", "tastes", 29, 8),
        Slot("shops", "shops", 11, 6, shares="shop"),
    ),
    candidate_lists=(Slot("genres", "genres", 37, 6),),
)
"""Two lists that attend, to different fields, and one between them that does not."""
ALONE = Layout((), (Slot("item", "item", 1, 5),), (Slot("seen", "seen", 1, 5, shares="item"),), ())
"""The smallest: nothing of the context but what attends."""


AGED = replace(
    ATTENDING,
    context_lists=(
        *ATTENDING.context_lists, Slot("ages", "ages", 43, 5, ages_of="seen"),
    ),
)  # fmt: skip
"""The same, with ages of the first list's events."""


def attended(unit: AttentionUnit, events: list[Tensor], candidate: Tensor) -> Tensor:
    """Return the sum of weighed events by the formula, in float64."""
    total = torch.zeros_like(candidate)
    for event in events:
        hidden = (
            event @ unit.of_event.double()
            + candidate @ unit.of_candidate.double()
            + (event * candidate) @ unit.of_product.double()
            + unit.bias.double()
        )
        hidden = torch.where(hidden > 0, hidden, unit.slope.double() * hidden)
        weight = (hidden @ unit.output.double() + unit.output_bias.double()).item()
        total = total + weight * event
    return total


def logit_of(network: DIN, values: NetworkInputs, row: int) -> float:
    """Return one row's logit by the formula in the docstring, of the layout ``ATTENDING``."""
    assert values.row_context is not None
    home = int(values.row_context[row])
    table = network.table.double()
    candidate = [table[int(i)] for i in values.candidate[row]]
    seen, shops = (
        [table[int(i)] for i in values.context_lists[place][home] if i] for place in (0, 2)
    )
    tastes = mean(table, values.context_lists[1][home])
    context = [*(table[int(i)] for i in values.context[home]), tastes]
    genres = mean(table, values.candidate_lists[0][row])
    interests = [
        attended(unit, events, target)
        for unit, events, target in zip(
            network.attention, (seen, shops), (candidate[1], candidate[0]), strict=True
        )
    ]
    hidden = last_hidden(network.mlp, [*context, *candidate, genres, *interests])
    return float(network.bias.double() + network.mlp.output.weight.double()[0] @ hidden)


def din(layout: Layout = ATTENDING, config: TrainConfig = CONFIG) -> DIN:
    network = trained("din", layout, config, seed=3)
    assert isinstance(network, DIN)
    return network


@torch.no_grad()
def test_the_factored_form_equals_the_formula() -> None:
    """Each list attends to its own field; others keep their mean."""
    network, values = din(), inputs(contexts=3, rows=20, length=5, layout=ATTENDING)
    expected = [logit_of(network, values, row) for row in range(20)]
    found = network(values).tolist()
    assert found == pytest.approx(expected, abs=5e-5)
    assert max(found) - min(found) > 0.5


@torch.no_grad()
def test_an_age_is_added_to_its_event() -> None:
    """Place by place: the same as an event whose row of the table is the sum of both."""
    network, values = din(AGED), inputs(1, 6, 3, layout=AGED)
    seen, ages = torch.tensor([[18, 20, 0]]), torch.tensor([[44, 0, 45, 46]])
    _, tastes, shops, _ = values.context_lists
    aged = network(values._replace(context_lists=[seen, tastes, shops, ages]))
    none = torch.zeros((1, 2), dtype=torch.int64)
    plain = network(values._replace(context_lists=[seen, tastes, shops, none]))
    # The mean of ages is a field of its own, which is taken out here.
    field = slice(CONFIG.embedding_size * 2, CONFIG.embedding_size * 3)
    network.mlp.first.weight[:, field] = 0
    aged, plain = (
        network(values._replace(context_lists=[seen, tastes, shops, each])) for each in (ages, none)
    )
    assert (aged - plain).abs().max() > 1e-3
    others = values.candidate[:, 1] != 18
    network.table[18] += network.table[44]
    moved = network(values._replace(context_lists=[seen, tastes, shops, none]))
    torch.testing.assert_close(moved[others], aged[others], atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "din"])
def test_other_networks_take_the_mean_of_the_shared_rows(name: str) -> None:
    """Their formulas hold with a list whose rows are another field's."""
    network, values = trained(name, ATTENDING), inputs(3, 20, 4, layout=ATTENDING)
    expected = [plain_logit(name, network, values, row) for row in range(20)]
    assert name in FORMULAS
    assert network(values).tolist() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
def test_attention_by_hand() -> None:
    """Events (1, 2) and (3, -1) beside the candidate (2, 1), with two units that are not zero.

    The first unit is the sum of e * c: 2 + 2 = 4 and 6 - 1 = 5. The second is the sum of e minus
    that of c: 3 - 3 = 0 and 2 - 3 = -1, of which a slope of 1/2 leaves -1/2. With w = (1, 2) and
    g = 0.5 the weights are 4.5 and 5 - 1 + 0.5 = 4.5, so the sum is 4.5 (4, 1) = (18, 4.5).
    """
    unit = AttentionUnit(2)
    for parameter in unit.parameters():
        parameter.zero_()
    unit.of_product[:, 0] = 1.0
    unit.of_event[:, 1] = 1.0
    unit.of_candidate[:, 1] = -1.0
    unit.slope[1] = 0.5
    unit.output[:2] = torch.tensor([[1.0], [2.0]])
    unit.output_bias.fill_(0.5)
    events, candidate = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]]), torch.tensor([[2.0, 1.0]])
    assert unit(events, candidate, None).tolist() == [[18.0, 4.5]]
    # No softmax: an event said twice counts twice.
    twice = events[:, [0, 0, 1]]
    assert unit(twice, candidate, None).tolist() == [[22.5, 13.5]]


@torch.no_grad()
def test_the_start_is_near_the_sum_of_the_events() -> None:
    """With embeddings as small as they start, every weight is close to 1."""
    torch.manual_seed(0)
    unit = AttentionUnit(8)
    events, candidate = torch.randn(4, 6, 8) * 0.01, torch.randn(4, 8) * 0.01
    torch.testing.assert_close(unit(events, candidate, None), events.sum(1), rtol=0.2, atol=2e-3)


@torch.no_grad()
@given(st.data())
@settings(max_examples=40)
def test_padding_has_no_effect(data: st.DataObject) -> None:
    """Wherever padding stands, and however much, the scores stay; the order is of no matter."""
    network, values = din(), inputs(3, 12, 4, seed=data.draw(st.integers(0, 9)), layout=ATTENDING)
    base = network(values)
    before, after = (data.draw(st.integers(0, 30)) for _ in range(2))
    order = data.draw(st.permutations(range(4 + before + after)))
    moved = [
        nn.functional.pad(column, (before, after))[:, order] for column in values.context_lists
    ]
    found = network(values._replace(context_lists=moved))
    torch.testing.assert_close(found, base, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_an_empty_history_adds_nothing() -> None:
    """Without events, and without places for any, a row is that of a history of zero rows."""
    network, values = din(), inputs(3, 12, 4, layout=ATTENDING)
    seen, tastes, shops = values.context_lists
    zeros = torch.zeros_like(seen)
    padded = network(values._replace(context_lists=[zeros, tastes, shops]))
    absent = network(values._replace(context_lists=[zeros[:, :0], tastes, shops]))
    assert torch.equal(padded, absent)
    assert not torch.equal(padded, network(values))


@torch.no_grad()
def test_an_event_says_more_or_less_by_the_candidate() -> None:
    """The same history is something else for each candidate, which no mean is."""
    network = din(ALONE)
    history = network.table[[3, 4]].unsqueeze(0)
    candidates = network.table[1:6]
    (unit,) = network.attention
    found = unit(history, candidates, torch.zeros(5, dtype=torch.int64))
    assert (found.std(0) > 0.05).all()
    home = torch.zeros(5, dtype=torch.int32)
    context = torch.zeros((1, 0), dtype=torch.int32)
    events = [torch.tensor([[3, 4]])]
    every = network(NetworkInputs(context, torch.arange(1, 6).unsqueeze(1), home, events))
    assert len(set(every.tolist())) == 5


def test_every_parameter_and_every_event_learns() -> None:
    """Attention units are trained; shared rows learn as items and as events, padding never."""
    network = din()
    values = inputs(3, 50, 4, layout=ATTENDING)
    network(values).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert network.table.grad is not None
    assert not network.table.grad[0].any()
    events = torch.cat([column.flatten() for column in values.context_lists]).unique()
    for row in events[events > 0].tolist():
        assert network.table.grad[row].any()


def test_gradients_are_those_of_the_formula() -> None:
    """Differences of the logit along each parameter agree with what backward gives."""
    torch.manual_seed(0)
    unit = AttentionUnit(3).double()
    events, candidate = torch.randn(2, 4, 3).double(), torch.randn(2, 3).double()
    with torch.no_grad():
        events[:, 2] = 0.0
        unit.slope.uniform_(0.1, 0.9)
    events.requires_grad_()
    candidate.requires_grad_()
    assert torch.autograd.gradcheck(lambda e, c: unit(e, c, None), (events, candidate))
    parameters = list(unit.parameters())

    def of_parameters(*given: Tensor) -> Tensor:
        names = [name for name, _ in unit.named_parameters()]
        result: Tensor = torch.func.functional_call(
            unit, dict(zip(names, given, strict=True)), (events.detach(), candidate.detach(), None)
        )
        return result

    assert torch.autograd.gradcheck(of_parameters, tuple(parameters))


@pytest.mark.long
def test_interest_is_learnt() -> None:
    """Where a click is a candidate that is among the past items, DIN finds it and a mean cannot.

    Rows of the same users and items, so that only the pair tells.
    """
    random = np.random.default_rng(0)
    items = 20
    history = np.stack([random.permutation(items)[:5] for _ in range(4_000)]) + 1
    inside = random.random(4_000) < 0.5
    candidate = np.where(
        inside, history[np.arange(4_000), random.integers(0, 5, 4_000)],
        random.integers(1, items + 1, 4_000),
    )  # fmt: skip
    label = (history == candidate[:, None]).any(1).astype(np.float32)
    layout = Layout(
        (), (Slot("item", "item", 1, items),), (Slot("seen", "seen", 1, items, shares="item"),), ()
    )
    config = TrainConfig(network="din", embedding_size=8, hidden=(16,), init_std=0.1)
    torch.manual_seed(0)
    network = build(layout, replace(config, batch_norm=False, dropout=0.0))
    values = NetworkInputs(
        torch.zeros((4_000, 0), dtype=torch.int64), torch.from_numpy(candidate[:, None]), None,
        [torch.from_numpy(history)],
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            network(values), torch.from_numpy(label)
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert min(second - first for first, second in pairwise(losses)) < 0
