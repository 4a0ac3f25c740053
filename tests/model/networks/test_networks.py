"""Every network is its formula, however its rows are arranged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.features.layout import Layout, Slot
from model.config import NETWORKS, TrainConfig
from model.networks import FAMILY, build
from model.networks.dcn_v2 import DCNv2
from model.networks.ffm import FFM
from model.networks.fibinet import FiBiNET
from model.networks.final_mlp import FinalMLP
from model.networks.fnn import FNN
from model.networks.mlp import Mlp
from model.networks.network import Network, NetworkInputs
from model.networks.products import InnerProducts, KernelProducts, ProductNetwork
from tests.support.networks import CONFIG, LAYOUT, SCALED, inputs, trained

THREE = Layout((Slot("a", "a", 1, 2), Slot("b", "b", 3, 2)), (Slot("c", "c", 5, 2),), (), ())
A, B, C = (2, 4, 6)
"""One row of each of the three fields."""
ABC = NetworkInputs(torch.tensor([[A, B]]), torch.tensor([[C]]), torch.tensor([0]))
every_network = pytest.mark.parametrize("name", NETWORKS)


# The formulas, for one row and in float64: pair by pair and unfactored.


def plain_logit(name: str, network: Network, values: NetworkInputs, row: int) -> float:
    """Return one row's logit by the formula in the network's docstring."""
    home = int(values.row_context[row])
    table = network.table.double()
    context = scaled([table[int(i)] for i in values.context[home]], values.context_value, home)
    context += [mean(table, column[home]) for column in values.context_lists]
    candidate = scaled([table[int(i)] for i in values.candidate[row]], values.candidate_value, row)
    candidate += [mean(table, column[row]) for column in values.candidate_lists]
    logit = network.bias.double() + FORMULAS[name](network, context, candidate)
    return float(logit)


def scaled(rows: list[Tensor], value: Tensor | None, row: int) -> list[Tensor]:
    """Return the rows, the last of them times their numbers."""
    numbers = [] if value is None else value[row].double().tolist()
    ones = [1.0] * (len(rows) - len(numbers))
    return [number * each for number, each in zip(ones + numbers, rows, strict=True)]


def mean(table: Tensor, index: Tensor) -> Tensor:
    """Return the mean row of a list's values, zero for none."""
    rows = [table[int(i)] for i in index if i != 0]
    return torch.stack(rows).mean(0) if rows else torch.zeros_like(table[0])


Fields = Sequence[Tensor]


def weights(context: Fields, candidate: Fields) -> Any:
    return sum(field[0] for field in (*context, *candidate))


def fm(_: Network, context: Fields, candidate: Fields) -> Any:
    fields = [*context, *candidate]
    products = (left[1:] @ right[1:] for left, right in combinations(fields, 2))
    return weights(context, candidate) + sum(products)


def ffm(_: Network, context: Fields, candidate: Fields) -> Any:
    fields = [*context, *candidate]
    vectors = [field[1:].reshape(len(fields) - 1, -1) for field in fields]
    total = weights(context, candidate)
    for i, j in combinations(range(len(fields)), 2):
        total = total + vectors[i][j - 1] @ vectors[j][i]
    return total


def mlp(network: Network, parts: Sequence[Tensor], activation: Any = torch.relu) -> Any:
    assert isinstance(network.mlp, Mlp)
    hidden = last_hidden(network.mlp, parts, activation)
    return network.mlp.output.weight.double()[0] @ hidden


def last_hidden(layers: Mlp, parts: Sequence[Tensor], activation: Any = torch.relu) -> Any:
    hidden = torch.cat(list(parts)).unsqueeze(0)
    for linear, norm in zip((layers.first, *layers.deeper), layers.norms, strict=True):
        assert isinstance(linear, nn.Linear)
        hidden = hidden @ linear.weight.double().T + linear.bias.double()
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            hidden = (hidden - norm.running_mean.double()) * scale + norm.bias.double()
        hidden = activation(hidden)
    return hidden[0]


def fnn(network: Network, context: Fields, candidate: Fields) -> Any:
    assert isinstance(network, FNN)
    return mlp(network, [network.global_weight.double(), *context, *candidate], torch.tanh)


def wide_deep(network: Network, context: Fields, candidate: Fields) -> Any:
    embeddings = [field[1:] for field in (*context, *candidate)]
    return weights(context, candidate) + mlp(network, embeddings)


def deepfm(network: Network, context: Fields, candidate: Fields) -> Any:
    embeddings = [field[1:] for field in (*context, *candidate)]
    return fm(network, context, candidate) + mlp(network, embeddings)


def pnn(network: Network, context: Fields, candidate: Fields) -> Any:
    """The inputs in their order: the context's embeddings and products, then the row's."""
    assert isinstance(network, ProductNetwork)
    ours, rest = list(context), list(candidate)
    across = [(i, j) for i in range(len(context)) for j in range(len(candidate))]
    for product in network.products:
        if isinstance(product, InnerProducts):
            ours += [(a @ b).reshape(1) for a, b in combinations(context, 2)]
            rest += [(a @ b).reshape(1) for a, b in combinations(candidate, 2)]
            rest += [(context[i] @ candidate[j]).reshape(1) for i, j in across]
        if isinstance(product, KernelProducts):
            both = [(context[i], candidate[j]) for i, j in across]
            ours += kernel_products(product.context_kernel, list(combinations(context, 2)))
            rest += kernel_products(product.candidate_kernel, list(combinations(candidate, 2)))
            rest += kernel_products(product.across_kernel, both)
    return mlp(network, [*ours, *rest])


def kernel_products(kernel: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Return left^T Q right of each pair, the kernels Q standing side by side."""
    kernels = kernel.double().chunk(len(pairs), 1)
    return [(a @ q @ b).reshape(1) for q, (a, b) in zip(kernels, pairs, strict=True)]


def linear(layer: Any, value: Tensor) -> Tensor:
    result = layer.weight.double() @ value
    return result if layer.bias is None else result + layer.bias.double()


def dcn_v2(network: Network, context: Fields, candidate: Fields) -> Any:
    assert isinstance(network, DCNv2)
    fields = torch.cat([*context, *candidate])
    halves = [network.first.context.weight, network.first.candidate.weight]
    crossed = torch.cat(halves, 1).double() @ fields
    if isinstance(network.first.widen, nn.Linear):
        crossed = linear(network.first.widen, crossed)
    else:
        crossed = crossed + network.first.context.bias.double()
    crossed = fields * crossed + fields
    for cross in network.deeper:
        narrow = crossed
        if isinstance(cross.narrow, nn.Linear):
            narrow = linear(cross.narrow, crossed)
        crossed = fields * linear(cross.linear, narrow) + crossed
    if network.output is None:
        return mlp(network, [crossed])
    return linear(network.output, crossed)[0] + mlp(network, [fields])


def final_mlp(network: Network, context: Fields, candidate: Fields) -> Any:
    assert isinstance(network, FinalMLP)
    fields = torch.cat([*context, *candidate])

    def gate(layers: Any, side: Fields) -> Tensor:
        return 2 * torch.sigmoid(
            linear(layers.second, linear(layers.first, torch.cat([*side])).relu())
        )

    first = last_hidden(network.mlp, [gate(network.gate, context) * fields])
    ours, theirs = (gate(network.second_gate, candidate) * fields).split(
        [len(torch.cat([*context])), len(torch.cat([*candidate]))]
    )
    second = last_hidden(network.second, [theirs, ours])
    part = len(first) // len(network.fusion)
    fused = [
        left @ matrix.weight.double().T @ right
        for matrix, left, right in zip(
            network.fusion, first.split(part), second.split(part), strict=True
        )
    ]
    streams = linear(network.mlp.output, first) + linear(network.second.output, second)
    return streams[0] + sum(fused)


def fibinet(network: Network, context: Fields, candidate: Fields) -> Any:
    assert isinstance(network, FiBiNET)
    vectors = [field[1:] for field in (*context, *candidate)]
    weigh, products = network.weigh, network.products
    means = torch.stack([vector.mean() for vector in vectors])
    first = torch.cat([weigh.context.weight, weigh.candidate.weight], 1).double()
    weight = linear(weigh.output, (first @ means).relu()).relu()
    places = range(len(vectors))
    ours, theirs = places[: len(context)], places[len(context) :]
    plain, weighted = [], []
    for kernel, pairs in (
        (products.context_kernel, list(combinations(ours, 2))),
        (products.candidate_kernel, list(combinations(theirs, 2))),
        (products.across_kernel, [(i, j) for i in ours for j in theirs]),
    ):
        kernels = kernel.double().chunk(len(pairs), 1)
        plain.append(
            [vectors[i] @ q * vectors[j] for q, (i, j) in zip(kernels, pairs, strict=True)]
        )
        weighted += [
            (weight[i] * vectors[i]) @ q * (weight[j] * vectors[j])
            for q, (i, j) in zip(kernels, pairs, strict=True)
        ]
    products_in_order = [product for kind in plain for product in kind]
    return weights(context, candidate) + mlp(network, [*products_in_order, *weighted])


FORMULAS: dict[str, Callable[[Network, Fields, Fields], Any]] = {
    "lr": lambda _, context, candidate: weights(context, candidate),
    "fm": fm,
    "ffm": ffm,
    "fnn": fnn,
    "ipnn": pnn,
    "opnn": pnn,
    "pnn_star": pnn,
    "wide_deep": wide_deep,
    "deepfm": deepfm,
    "dcn_v2": dcn_v2,
    "final_mlp": final_mlp,
    "fibinet": fibinet,
    "din": lambda network, context, candidate: mlp(network, [*context, *candidate]),
}


def test_the_family_is_the_one_that_settings_know() -> None:
    """Every name that settings take makes a network, and there is no other."""
    assert tuple(FAMILY) == NETWORKS == tuple(FORMULAS)


@torch.no_grad()
@every_network
@pytest.mark.parametrize("layout", [LAYOUT, SCALED], ids=["plain", "scaled"])
def test_the_factored_form_equals_the_formula(name: str, layout: Layout) -> None:
    """Sharing the contexts' work changes no score, numbers being factors of their rows."""
    network, values = trained(name, layout), inputs(contexts=3, rows=20, length=4, layout=layout)
    expected = [plain_logit(name, network, values, row) for row in range(20)]
    found = network(values).tolist()
    assert found == pytest.approx(expected, abs=2e-5)
    assert max(found) - min(found) > 0.5, "logits that are all alike would prove little"


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dcn_v2", {"cross_layers": 1}),
        ("dcn_v2", {"cross_layers": 3, "cross_rank": 2}),
        ("dcn_v2", {"cross_stacked": True}),
        ("final_mlp", {"fusion_heads": 4, "hidden": (6, 8)}),
    ],
)
def test_other_forms_equal_their_formula(name: str, settings: dict[str, Any]) -> None:
    """One cross layer, three of low rank, hidden layers on them; several fusion heads."""
    network = trained(name, LAYOUT, replace(CONFIG, **settings))
    values = inputs(contexts=3, rows=20, length=4)
    expected = [plain_logit(name, network, values, row) for row in range(20)]
    assert network(values).tolist() == pytest.approx(expected, abs=2e-5)
    assert max(expected) - min(expected) > 0.5


def flat(name: str, size: int = 2, layout: Layout = THREE, **rows: Sequence[float]) -> Network:
    """Return a network over three fields with the given rows, whose bias is zero."""
    config = replace(CONFIG, network=name, embedding_size=size, hidden=(1,), batch_norm=False)
    network = build(layout, config).eval()
    with torch.no_grad():
        network.table.zero_()
        for row, field in ((A, "a"), (B, "b"), (C, "c")):
            network.table[row] = torch.tensor(rows[field])
    return network


def silent(network: Network) -> Network:
    """Take the MLP's output away."""
    assert isinstance(network.mlp, Mlp)
    with torch.no_grad():
        network.mlp.output.weight.zero_()
    return network


def adding(network: Network, factor: float = 1.0) -> Network:
    """Make the MLP the activation of ``factor`` times the sum of its inputs."""
    assert isinstance(network.mlp, Mlp)
    with torch.no_grad():
        network.mlp.first.weight.fill_(factor)
        network.mlp.output.weight.fill_(1.0)
    return network


E = {"a": (1.0, 2.0), "b": (3.0, -1.0), "c": (0.5, 4.0)}
W = {"a": 1.0, "b": 2.0, "c": -4.0}
WE = {field: (W[field], *E[field]) for field in E}


@torch.no_grad()
def test_lr_by_hand() -> None:
    """1 + 2 - 4 = -1."""
    network = flat("lr", **{field: (weight,) for field, weight in W.items()})
    assert network(ABC).tolist() == [-1.0]


@torch.no_grad()
def test_fm_by_hand() -> None:
    """(1,2)(3,-1) + (1,2)(.5,4) + (3,-1)(.5,4) = 1 + 8.5 - 2.5 = 7, and the weights are -1."""
    assert flat("fm", **WE)(ABC).tolist() == [6.0]


@torch.no_grad()
def test_dcn_v2_by_hand() -> None:
    """x_0 = (1, 2, 3, -1, .5, 4) has the sum 9.5 and the squares' sum 31.25.

    With W_0 of ones, x_1 = 9.5 x_0 + x_0. With the unit matrix as W_1 and 1 as its bias,
    x_2 = x_0 (10.5 x_0 + 1) + 10.5 x_0, whose sum is 10.5 * 31.25 + 11.5 * 9.5 = 437.375.
    """
    network = silent(flat("dcn_v2", **E))
    assert isinstance(network, DCNv2)
    assert network.output is not None
    network.first.context.weight.fill_(1.0)
    network.first.candidate.weight.fill_(1.0)
    network.deeper[0].linear.weight.copy_(torch.eye(6))
    network.deeper[0].linear.bias.fill_(1.0)
    network.output.weight.fill_(1.0)
    assert network(ABC).tolist() == [437.375]


@torch.no_grad()
def test_final_mlp_by_hand() -> None:
    """Gates of 1 leave both streams the sum of all numbers, 9.5: 9.5 + 9.5 + 2 * 9.5^2 = 199.5.

    With gates of 2 for the second stream alone its hidden unit is 19: 9.5 + 19 + 2 * 180.5 = 389.5.
    """
    network = adding(flat("final_mlp", **E))
    assert isinstance(network, FinalMLP)
    network.second.first.weight.fill_(1.0)
    network.second.output.weight.fill_(1.0)
    network.fusion[0].weight.fill_(2.0)
    for gate in (network.gate, network.second_gate):
        gate.second.weight.zero_()
    assert network(ABC).tolist() == [199.5]
    network.second_gate.second.bias.fill_(100.0)
    assert network(ABC).tolist() == [389.5]


@torch.no_grad()
def test_the_fusion_starts_as_small_as_the_streams_outputs() -> None:
    """However wide the layers and many the heads, it spreads by about 0.7; more would swamp them.

    Hidden units relu(z) of normal z have a mean square of 1/2, so a product of two has 1/4, and n
    of them with weights of variance 2 / (n + 1) have 1/2 together.
    """
    torch.manual_seed(1)
    first_NH, second_NH = torch.randn(2, 2_000, 400).relu()
    for heads in (1, 5):
        config = replace(CONFIG, network="final_mlp", hidden=(400,), fusion_heads=heads)
        network = build(THREE, config)
        assert isinstance(network, FinalMLP)
        assert 0.5 < network._fused(first_NH, second_NH).std() < 0.9


@torch.no_grad()
def test_fibinet_by_hand() -> None:
    """Kernels of the unit matrix multiply vectors number by number; the weights are -1.

    The pairs are (1,2)(3,-1) = (3,-2), (1,2)(.5,4) = (.5,8) and (3,-1)(.5,4) = (1.5,-4), 7
    together. The means are 1.5, 1 and 2.25; with W_1 of ones the hidden unit is 4.75, and with
    W_2 = (1, 0, 2) the fields' weights are 4.75, 0 and 9.5. So only the second pair remains of
    the weighted ones, 45.125 * 8.5 = 383.5625.
    """
    network = adding(flat("fibinet", **WE))
    assert isinstance(network, FiBiNET)
    network.weigh.context.weight.fill_(1.0)
    network.weigh.candidate.weight.fill_(1.0)
    network.weigh.output.weight.copy_(torch.tensor([[1.0], [0.0], [2.0]]))
    network.products.context_kernel.copy_(torch.eye(2))
    network.products.across_kernel.copy_(torch.eye(2).repeat(1, 2))
    assert network(ABC).tolist() == [-1.0 + 7.0 + 383.5625]


@torch.no_grad()
@pytest.mark.parametrize("name", ["lr", "fm"])
def test_a_number_is_a_factor_by_hand(name: str) -> None:
    """With b times -2 the weights are 1 - 4 - 4 = -7, and FM's pairs -2 + 8.5 + 5 = 11.5.

    With c times -3 as well, they are 1 - 4 + 12 = 9, and -2 - 25.5 - 15 = -42.5.
    """
    layout = replace(
        THREE, context=(THREE.context[0], replace(THREE.context[1], scaled=True)),
        candidate=(replace(THREE.candidate[0], scaled=True),),
    )  # fmt: skip
    rows = {field: row[: 1 if name == "lr" else 3] for field, row in WE.items()}
    network = flat(name, layout=layout, **rows)
    found = [
        network(
            ABC._replace(context_value=torch.tensor([[-2.0]]), candidate_value=torch.tensor([[c]]))
        ).item()
        for c in (1.0, -3.0)
    ]
    expected = {"lr": [-7.0, 9.0], "fm": [-7.0 + 11.5, 9.0 - 42.5]}
    assert found == expected[name]


@torch.no_grad()
def test_ffm_by_hand() -> None:
    """a's vector toward b meets b's toward a: 1 + 6 + 9 = 16, and the weights are -1.

    The pairs are (1,2)(3,-1), (0,1)(5,6) and (2,2)(.5,4).
    """
    network = flat(
        "ffm",
        a=(1.0, *(1.0, 2.0), *(0.0, 1.0)),  # toward b, toward c
        b=(2.0, *(3.0, -1.0), *(2.0, 2.0)),  # toward a, toward c
        c=(-4.0, *(5.0, 6.0), *(0.5, 4.0)),  # toward a, toward b
    )
    assert network(ABC).tolist() == [15.0]


@torch.no_grad()
def test_fnn_by_hand() -> None:
    """The weights are inputs like the embeddings, and so is the FM's bias: tanh(z) / z = .1 x."""
    network = adding(flat("fnn", **WE), factor=0.1)
    assert isinstance(network, FNN)
    network.global_weight.fill_(2.5)
    total = 2.5 + sum(sum(row) for row in WE.values())
    assert network(ABC).item() == pytest.approx(torch.tensor(0.1 * total).tanh().item(), abs=1e-6)


@torch.no_grad()
def test_inner_products_by_hand() -> None:
    """ab = 1 is the context's product; ac = 8.5 and bc = -2.5 are the row's."""
    products = InnerProducts(2, 1)
    a, b, c = (torch.tensor(E[field]) for field in "abc")
    found = products(torch.stack([a, b])[None], c[None, None], torch.tensor([0]))
    assert [each.tolist() for each in found] == [[[1.0]], [[]], [[8.5, -2.5]]]
    assert flat_sum("ipnn") == sum((1, 2, 3, -1, 0.5, 4)) + 1.0 + 8.5 - 2.5


@torch.no_grad()
def test_kernel_products_by_hand() -> None:
    """With Q = ((0, 1), (0, 0)) a product is left[0] * right[1]: ab = -1, ac = 4, bc = 12."""
    products = KernelProducts(2, 1, 2)
    upper = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    products.context_kernel.copy_(upper)
    products.across_kernel.copy_(upper.repeat(1, 2))
    a, b, c = (torch.tensor(E[field]) for field in "abc")
    found = products(torch.stack([a, b])[None], c[None, None], torch.tensor([0]))
    assert [each.tolist() for each in found] == [[[-1.0]], [[]], [[4.0, 12.0]]]
    assert flat_sum("opnn") == sum((1, 2, 3, -1, 0.5, 4)) - 1.0 + 4.0 + 12.0


@torch.no_grad()
def test_pnn_star_has_both_products() -> None:
    """The inner products (7) and the kernel products (15) stand beside the embeddings (9.5)."""
    assert flat_sum("pnn_star") == 9.5 + 7.0 + 15.0


def flat_sum(name: str) -> float:
    """Return the sum of a product network's hidden inputs, whose kernels are ((0, 1), (0, 0))."""
    network = adding(flat(name, **E))
    assert isinstance(network, ProductNetwork)
    upper = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    for product in network.products:
        if isinstance(product, KernelProducts):
            product.context_kernel.copy_(upper)
            product.across_kernel.copy_(upper.repeat(1, 2))
    return float(network(ABC))


@torch.no_grad()
def test_wide_and_deep_by_hand() -> None:
    """The wide part is the weights' sum, -1; the deep part here the embeddings' sum, 9.5."""
    assert silent(flat("wide_deep", **WE))(ABC).tolist() == [-1.0]
    assert adding(flat("wide_deep", **WE))(ABC).tolist() == [8.5]


@torch.no_grad()
def test_deepfm_by_hand() -> None:
    """The FM part is 7 - 1; the deep part here the sum of the same embeddings, 9.5."""
    assert silent(flat("deepfm", **WE))(ABC).tolist() == [6.0]
    assert adding(flat("deepfm", **WE))(ABC).tolist() == [15.5]


@torch.no_grad()
@pytest.mark.parametrize("name", ["fm", "ffm", "deepfm"])
@pytest.mark.parametrize("side", ["context", "candidate"])
def test_a_single_field_has_no_pairs(name: str, side: str) -> None:
    """F = 1 makes the interaction exactly zero, whichever side the field is on."""
    slot = (Slot("a", "a", 1, 3),)
    layout = Layout(slot, (), (), ()) if side == "context" else Layout((), slot, (), ())
    network = build(layout, replace(CONFIG, network=name, batch_norm=False)).eval()
    if name == "deepfm":
        silent(network)
    network.table[1:, 1:].normal_()
    one, none = torch.tensor([[2], [3]]), torch.zeros((2, 0), dtype=torch.int64)
    context, candidate = (one, none) if side == "context" else (none, one)
    assert network(NetworkInputs(context, candidate, torch.arange(2))).tolist() == [0.0, 0.0]


@torch.no_grad()
@pytest.mark.parametrize("name", ["ipnn", "opnn", "pnn_star"])
@pytest.mark.parametrize("side", ["context", "candidate"])
def test_a_single_field_has_no_products(name: str, side: str) -> None:
    """F = 1 leaves the embedding as the only input of the MLP."""
    slot = (Slot("a", "a", 1, 3),)
    layout = Layout(slot, (), (), ()) if side == "context" else Layout((), slot, (), ())
    network = build(layout, replace(CONFIG, network=name, batch_norm=False)).eval()
    assert isinstance(network.mlp, Mlp)
    assert network.mlp.first.in_features == CONFIG.embedding_size
    one, none = torch.tensor([[2], [3]]), torch.zeros((2, 0), dtype=torch.int64)
    context, candidate = (one, none) if side == "context" else (none, one)
    assert network(NetworkInputs(context, candidate, torch.arange(2))).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["fm", "ffm", "deepfm", "ipnn", "opnn", "pnn_star"])
def test_zero_vectors_interact_to_zero(name: str) -> None:
    """One embedding beside two zero vectors leaves every interaction at zero."""
    network = flat(name, **{f: [0.0] * row_width(name) for f in "abc"})
    network.table[A, -2:] = torch.tensor([0.3, -0.7])
    if isinstance(network, ProductNetwork):
        adding(network)
        # What remains is the sum of the embedding's own numbers; relu would hide it.
        network.table[A] = torch.tensor([0.7, -0.3])
        assert network(ABC).item() == pytest.approx(0.4, abs=1e-7)
    else:
        assert (silent(network) if name == "deepfm" else network)(ABC).item() == 0.0


def row_width(name: str) -> int:
    """Return the columns of a table of three fields with two dimensions."""
    config = replace(CONFIG, network=name, embedding_size=2)
    return build(THREE, config).table.shape[1]


@torch.no_grad()
@every_network
def test_a_new_network_predicts_near_the_base_rate(name: str) -> None:
    """Before training every score is close to the base rate, and padding is zero."""
    network = build(LAYOUT, TrainConfig(network=name), base_rate=0.03).eval()
    score = torch.sigmoid(network(inputs(2, 50, 3)))
    assert score.numpy() == pytest.approx(0.03, abs=0.01)
    assert not network.table[0].any()


@torch.no_grad()
@every_network
def test_a_row_scores_alone_as_in_a_batch(name: str) -> None:
    """Neighbours do not move a score."""
    network, values = trained(name), inputs(3, 64, 4)
    together = network(values)
    for row in (0, 17, 63):
        home = slice(int(values.row_context[row]), int(values.row_context[row]) + 1)
        alone = network(
            NetworkInputs(
                values.context[home],
                values.candidate[row : row + 1],
                torch.zeros(1, dtype=torch.int32),
                [column[home] for column in values.context_lists],
                [column[row : row + 1] for column in values.candidate_lists],
            )
        )
        assert alone.item() == pytest.approx(together[row].item(), abs=2e-5)


@torch.no_grad()
@every_network
def test_repeating_a_list_changes_nothing(name: str) -> None:
    """A list said three times over has the same mean, for weights and embeddings alike."""
    network, values = trained(name), inputs(3, 20, 4)
    thrice = values._replace(
        context_lists=[column.repeat(1, 3) for column in values.context_lists],
        candidate_lists=[column.repeat(1, 3) for column in values.candidate_lists],
    )
    torch.testing.assert_close(network(values), network(thrice), atol=2e-5, rtol=1e-5)


@torch.no_grad()
@every_network
def test_padding_width_does_not_matter(name: str) -> None:
    """Wider padding, and padding before the values, leave the scores alone."""
    network, values = trained(name), inputs(3, 20, 4)
    wide = values._replace(
        context_lists=[nn.functional.pad(column, (0, 7)) for column in values.context_lists],
        candidate_lists=[nn.functional.pad(column, (2, 40)) for column in values.candidate_lists],
    )
    torch.testing.assert_close(network(values), network(wide), atol=2e-5, rtol=1e-5)


@torch.no_grad()
@every_network
def test_an_empty_list_contributes_nothing(name: str) -> None:
    """Padding only, and no places at all, equal a list whose rows are all zero."""
    network, values = trained(name), inputs(3, 20, 4)
    zeros = torch.zeros((3, 4), dtype=torch.int32)
    padded = network(values._replace(context_lists=[zeros]))
    absent = network(values._replace(context_lists=[zeros[:, :0]]))
    network.table[29:37] = 0
    zeroed = network(values._replace(context_lists=[zeros + 30]))
    assert torch.equal(padded, absent)
    torch.testing.assert_close(padded, zeroed, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@every_network
def test_folding_batch_norm_keeps_the_scores(name: str) -> None:
    """The folded network has no batch norm, shares the table and gives the same logits."""
    network, values = trained(name), inputs(3, 50, 4)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    folded = network.folded()
    assert not any(isinstance(module, nn.BatchNorm1d) for module in folded.modules())
    assert folded.table is network.table
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)] == norms
    torch.testing.assert_close(folded(values), network(values), atol=2e-5, rtol=1e-5)


@torch.no_grad()
@every_network
def test_rows_with_contexts_of_their_own_need_no_numbers(name: str) -> None:
    """Without ``row_context`` each row is scored with the context at its own place."""
    network, values = trained(name), inputs(20, 20, 4)
    numbered = network(values._replace(row_context=torch.arange(20)))
    assert torch.equal(network(values._replace(row_context=None)), numbered)


def test_whole_rows_are_learnt_from_as_shared_ones_are() -> None:
    """DeepFM's short cut of training: the same logits and gradients, to rounding."""
    config = replace(CONFIG, dropout=0.0)
    network = trained("deepfm", THREE, config).train()
    context, candidate = torch.tensor([[1, 4], [2, 3], [1, 3]]), torch.tensor([[6], [5], [6]])
    found = []
    for row_context in (None, torch.arange(3)):
        network.zero_grad()
        place = NetworkInputs(context, candidate, row_context)
        logit = network.logit(network.table, place, place)
        (logit * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters()]
        found.append([logit.detach(), *gradients])
    for whole, shared in zip(*found, strict=True):
        torch.testing.assert_close(whole, shared, atol=2e-5, rtol=1e-4)


@every_network
def test_padding_gets_no_gradient(name: str) -> None:
    """Row 0 stays out of training, however much padding the lists hold."""
    network = trained(name)
    network(inputs(3, 20, 4)).sum().backward()
    assert network.table.grad is not None
    assert not network.table.grad[0].any()
    assert network.table.grad[1:].any()


@every_network
def test_every_parameter_has_a_part_in_the_logit(name: str) -> None:
    """There is no dead weight: the count of parameters is that of a network that uses them."""
    network = trained(name)
    network(inputs(3, 50, 4)).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("lr", 1),
        ("fm", 5),
        ("ffm", 1 + 5 * 4),
        ("fnn", 5),
        ("ipnn", 4),
        ("opnn", 4),
        ("pnn_star", 4),
        ("wide_deep", 5),
        ("deepfm", 5),
    ],
)
def test_a_table_has_no_column_too_many(name: str, columns: int) -> None:
    """Six fields and four dimensions: FFM has a vector for each of five others."""
    network = build(LAYOUT, replace(CONFIG, network=name))
    assert network.table.shape == (LAYOUT.table_rows, columns)
    if isinstance(network, FFM):
        assert network.parameter_count() == LAYOUT.table_rows * columns + 1
