"""A network that no graph can hold is refused by a function's name, and makes no wrong graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from model.export.exporter import onnx_model
from model.export.graph_builder import ExportError
from tests.support.calls import INPUTS, Calls, Function


def changed(change: Callable[[Tensor], object]) -> Function:
    """Return a function that computes with a value which has been changed in place."""

    def function(m: Calls, c: Tensor, r: Tensor, o: Tensor, a: Tensor, b: Tensor) -> Tensor:
        value = c * 2
        change(value)
        return value + 0.0

    return function


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda m, c, r, o, a, b: c.cumsum(1), "calls torch's cumsum, for which"),
        (lambda m, c, r, o, a, b: c * c.shape[0], "mul takes the size of a batch as a fixed"),
        (lambda m, c, r, o, a, b: c + torch.ones(c.shape[0], 1), "add takes the size of a batch"),
        (lambda m, c, r, o, a, b: r.repeat(1, r.shape[0], 1), "repeat takes the size"),
        (lambda m, c, r, o, a, b: b[:, : 2 * a.shape[1]], "may be longer than the value"),
        (lambda m, c, r, o, a, b: c[None], "indexed by None"),
        (lambda m, c, r, o, a, b: c[:, ::2], "indexed by slice"),
        (lambda m, c, r, o, a, b: c.squeeze(1), "squeeze of an axis of size 3"),
        (lambda m, c, r, o, a, b: m.layer(r), "an input that is no matrix"),
        (lambda m, c, r, o, a, b: c, "one of its inputs"),
    ],
)  # fmt: skip
def test_what_no_graph_can_do_is_named(function: Function, complaint: str) -> None:
    with pytest.raises(ExportError, match=complaint):
        onnx_model(Calls(function).eval(), INPUTS)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (changed(lambda value: value.__iadd__(1)), "add_"),
        (changed(lambda value: value.__setitem__((slice(None), 0), 0)), "__setitem__"),
        (changed(lambda value: value[:, :1].__setitem__(slice(None), 0)), "__setitem__"),
        (changed(lambda value: value.__setitem__(value > 0, 0)), "__setitem__"),
        (changed(lambda value: value.relu_()), "relu_"),
        (changed(lambda value: functional.relu(value, inplace=True)), "relu"),
        (changed(lambda value: torch.exp(value.square(), out=value)), "exp"),
        (changed(lambda value: setattr(value, "data", value.square())), "data"),
        (changed(lambda value: torch.zeros(3).__setitem__(0, value[0, 0])), "__setitem__"),
    ],
)
def test_a_change_in_place_is_never_lost(function: Function, complaint: str) -> None:
    with pytest.raises(ExportError, match=f"calls torch's {complaint} to change a value in place"):
        onnx_model(Calls(function).eval(), INPUTS)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda m, c, r, o, a, b: c * c[0, 0].item(), "torch's item, which does not run over"),
        (lambda m, c, r, o, a, b: c * float(c[0, 0]), "torch's __float__, which does not run"),
        (lambda m, c, r, o, a, b: c if c[0, 0] > 0 else -c, "torch's __bool__, which does not"),
        (lambda m, c, r, o, a, b: c * c.numpy().sum(), "torch's numpy, which does not run over"),
        (lambda m, c, r, o, a, b: c * torch.tensor([c[0, 0]]), "torch's __float__, which does"),
        (lambda m, c, r, o, a, b: c * ([] + 1), "does not run over tensors without content: can"),  # type: ignore[operator]
        (lambda m, c, r, o, a, b: torch.cat([*c[0]]), "torch's unbind, for which"),
        (lambda m, c, r, o, a, b: c.T @ c, "torch's T, for which"),
        (lambda m, c, r, o, a, b: torch.add(c, c, alpha=2), "add in a way .* 'alpha'"),
        (lambda m, c, r, o, a, b: r.sum((1, 2)), "torch's sum in a way that"),
        (lambda m, c, r, o, a, b: torch.cat(tensors=[c, c]), "torch's cat in a way that"),
        (lambda m, c, r, o, a, b: c.to(torch.bfloat16), "to in a way .* BFloat16"),
        (lambda m, c, r, o, a, b: functional.pad(c, (1, 0), value=1.0), "other values than zeros"),
        (lambda m, c, r, o, a, b: functional.pad(c, (1, 0), mode="replicate"), "other values"),
        (lambda m, c, r, o, a, b: functional.embedding(a, m.table, max_norm=1.0), "max_norm"),
        (lambda m, c, r, o, a, b: c.clamp(max=c.square()), "clamp takes numbers alone"),
        (lambda m, c, r, o, a, b: c.where(c > 0, 0.0), "the condition first"),
        (lambda m, c, r, o, a, b: c.repeat(2, 1, 1), "an axis that the value does not have"),
        (lambda m, c, r, o, a, b: c[True], "indexed by True"),
    ],
)  # fmt: skip
def test_a_call_that_the_table_does_not_know_is_refused(function: Function, complaint: str) -> None:
    with pytest.raises(ExportError, match=complaint):
        onnx_model(Calls(function).eval(), INPUTS)


def test_an_output_without_inputs_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, context: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
            return torch.zeros(1), context + 1

    with pytest.raises(ExportError, match="not computed of its inputs"):
        onnx_model(Constant(), INPUTS)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, c, r, o, a, b: c + (c.shape[0] + 1), "add"),
        (lambda m, c, r, o, a, b: c / float(c.shape[0]), "div"),
        (lambda m, c, r, o, a, b: c * torch.tensor(c.shape[0]), "mul"),
        (lambda m, c, r, o, a, b: a[:, : a.shape[1] - 1], "getitem"),
        (lambda m, c, r, o, a, b: c.new_zeros(c.shape[0] + 1, 3), "new_zeros"),
        (lambda m, c, r, o, a, b: functional.embedding(torch.cat([a, b], 1), m.table).flatten(1),
         "flatten"),
    ],
)  # fmt: skip
def test_a_number_that_is_computed_of_a_size_is_refused(function: Function, name: str) -> None:
    """It leaves no node, and would be the example's in every batch."""
    with pytest.raises(ExportError, match=rf"^{name} depends on a number that is computed of"):
        onnx_model(Calls(function).eval(), INPUTS)
