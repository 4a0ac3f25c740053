"""A device that is not there: tensors with shapes and a device, but no values.

Under :func:`pretended_device` every operation checks that its tensors are on one device, as CUDA's
kernels demand, and works out shapes; nothing is computed. The device is torch's ``meta``: with one
named ``cuda`` a torch that was built without CUDA aborts the process as soon as gradients are asked
for (2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from model.networks.network import Network
from model.training import trainer
from model.training.feed import Feed

THERE = torch.device("meta")


class PretendedFeed(Feed):
    """Puts tensors on the pretended device; a loss has no value, so one is made up."""

    def put(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        assert {tensor.device.type for tensor in tensors} == {"cpu"}
        return super().put(tensors)

    def reading(self, loss: Tensor) -> Callable[[], float]:
        assert (loss.device, loss.shape) == (self.device, ())
        return lambda: 0.5


@contextmanager
def pretended_device() -> Iterator[PretendedFeed]:
    """Pretend that there is a device; give the feed to it.

    A trainer makes its network of real tensors, as it does where there is a device.
    """
    build = trainer.build

    def real(*words: Any) -> Network:
        with unset_fake_temporarily():
            return build(*words)

    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch.object(trainer, "build", real),
        # A random state has no values here.
        patch.object(torch, "set_rng_state", lambda _: None),
    ):
        yield PretendedFeed(THERE)
