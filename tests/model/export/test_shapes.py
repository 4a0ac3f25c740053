"""A result without content has the shape and the type that torch itself gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.config import NETWORKS
from model.export.exporter import TORCH_FAILS
from model.export.shapes import ELEMENTWISE, result_of
from model.networks import weight_bytes
from tests.support.graphs import ATTENDING, CONFIG, exported_below
from tests.support.networks import trained

pytestmark = pytest.mark.slow

Call = tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def content_free(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


WIDE, TALL, FLAT, NONE = (content_free(*shape) for shape in ((5, 3), (4, 1, 3), (3,), ()))
WHOLE, TRUTH = content_free(5, 3, dtype=torch.int64), content_free(5, 1, dtype=torch.bool)
CALLS: list[Call] = [
    ("__rdiv__", Tensor.__rdiv__, (WIDE, 1), {}),
    ("__rdiv__", Tensor.__rdiv__, (WHOLE, 1), {}),
    ("add", torch.add, (WIDE, TALL), {}),
    ("add", torch.add, (WHOLE, WIDE), {}),
    ("add", torch.add, (WHOLE, 1.5), {}),
    ("add", torch.add, (WHOLE, NONE), {}),
    ("add", torch.add, (TRUTH, WHOLE), {"alpha": 2}),
    ("clamp", torch.clamp, (WIDE,), {"min": 0.5}),
    ("clamp", torch.clamp, (WIDE, FLAT, TALL), {}),
    ("div", torch.div, (WHOLE, WHOLE), {}),
    ("div", torch.div, (WHOLE, WHOLE), {"rounding_mode": "floor"}),
    ("exp", torch.exp, (WHOLE,), {}),
    ("ge", torch.ge, (WIDE, FLAT), {}),
    ("gt", torch.gt, (TALL, 0), {}),
    ("minimum", torch.minimum, (WHOLE, WIDE), {}),
    ("mul", torch.mul, (content_free(0, 3), FLAT), {}),
    ("mul", torch.mul, (TRUTH, WIDE.to(torch.float64)), {}),
    ("ne", torch.ne, (WHOLE, 0), {}),
    ("neg", torch.neg, (WHOLE,), {}),
    ("relu", functional.relu, (TALL,), {}),
    ("sigmoid", torch.sigmoid, (WHOLE,), {}),
    ("square", torch.square, (WIDE,), {}),
    ("sub", torch.sub, (WIDE, NONE), {}),
    ("tanh", torch.tanh, (TALL,), {}),
    ("where", torch.where, (TRUTH, WIDE, TALL), {}),
    ("where", torch.where, (TRUTH, WHOLE, 0.5), {}),
    ("linear", functional.linear, (WIDE, content_free(7, 3)), {"bias": content_free(7)}),
    ("linear", functional.linear, (TALL, content_free(7, 3), content_free(7)), {}),
    ("linear", functional.linear, (FLAT, content_free(7, 3)), {}),
    ("linear", functional.linear, (WIDE, FLAT), {}),
    ("cat", torch.cat, ([WIDE, WIDE, content_free(2, 3)],), {}),
    ("cat", torch.cat, ([WIDE, TRUTH],), {"dim": 1}),
    ("cat", torch.cat, ((WHOLE, WIDE), -1), {}),
    ("embedding", functional.embedding, (WHOLE, content_free(9, 4)), {}),
    ("embedding", functional.embedding, (content_free(dtype=torch.int32), WIDE), {}),
    ("embedding", functional.embedding, (WHOLE, WIDE, 1), {}),
    ("embedding", functional.embedding, (WHOLE,), {"weight": WIDE, "sparse": True}),
    ("matmul", torch.matmul, (WIDE, content_free(3, 8)), {}),
    ("matmul", torch.matmul, (content_free(6, 1, 5, 3), content_free(4, 3, 2)), {}),
    ("matmul", torch.matmul, (WIDE, FLAT), {}),
    ("repeat", Tensor.repeat, (WIDE, 2, 1, 4), {}),
    ("repeat", Tensor.repeat, (WIDE, (3, 1)), {}),
    ("sum", torch.sum, (TALL, 1), {}),
    ("sum", torch.sum, (WHOLE,), {}),
    ("sum", torch.sum, (WIDE, []), {}),
    ("sum", torch.sum, (TRUTH, (0, -1)), {"keepdim": True}),
    ("sum", Tensor.sum, (TALL, [0, 2]), {}),
    ("sum", Tensor.sum, (TALL,), {"dim": -1, "dtype": torch.float64}),
    ("zeros_like", torch.zeros_like, (WHOLE,), {}),
    ("zeros_like", torch.zeros_like, (WIDE,), {"dtype": torch.int64}),
    ("any", torch.any, (TRUTH, 1), {}),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0])
def test_shape_and_type_are_those_of_torch(call: Call) -> None:
    """For operands that are repeated, of other types, numbers of Python, and no elements."""
    name, func, args, kwargs = call
    found, expected = result_of(func, name, args, kwargs), func(*args, **kwargs)
    assert (found.device.type, found.shape, found.dtype) == ("meta", expected.shape, expected.dtype)


@pytest.mark.parametrize(
    "call",
    [
        ("add", torch.add, (WIDE, content_free(4)), {}),
        ("add", torch.add, (WIDE,), {}),
        ("clamp", torch.clamp, (WIDE,), {}),
        ("neg", torch.neg, (TRUTH,), {}),
        ("linear", functional.linear, (WIDE, content_free(7, 4)), {}),
        ("cat", torch.cat, ([WIDE, FLAT],), {}),
        ("cat", torch.cat, ([WIDE, WIDE], 2), {}),
        ("cat", torch.cat, ([WIDE, content_free(5, 4)],), {}),
        ("cat", torch.cat, ([],), {}),
        ("embedding", functional.embedding, (WIDE, WIDE), {}),
        ("matmul", torch.matmul, (WIDE, WIDE), {}),
        ("matmul", torch.matmul, (content_free(2, 5, 3), content_free(4, 3, 2)), {}),
        ("repeat", Tensor.repeat, (WIDE, 2), {}),
        ("sum", torch.sum, (WIDE, 2), {}),
        ("sum", torch.sum, (WIDE, (0, 0)), {}),
    ],
    ids=lambda call: call[0],
)
def test_what_torch_refuses_is_refused(call: Call) -> None:
    """Sizes that do not fit, axes that are not there, types that a function does not take."""
    name, func, args, kwargs = call
    with pytest.raises(TORCH_FAILS):
        func(*args, **kwargs)
    with pytest.raises(TORCH_FAILS):
        result_of(func, name, args, kwargs)


def test_every_elementwise_function_is_compared() -> None:
    """With torch's own result, above."""
    assert {call[0] for call in CALLS} >= ELEMENTWISE


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_asks_torch_for_what_imports_its_compiler(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where its weights are counted nor where it is exported, lists and attention included.

    torch's checks of what it does in Python import the compiler.
    """
    network = trained(name, ATTENDING, CONFIG)

    def imports(*_: object) -> None:
        raise AssertionError("would import torch's compiler")

    monkeypatch.setattr(torch, "_check_with", imports)
    assert weight_bytes(ATTENDING, replace(CONFIG, network=name)) > 0
    exported_below(network, ATTENDING, tmp_path / "made")
