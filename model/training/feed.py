"""The way of a batch to the device that trains, and of its loss back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CPU = torch.device("cpu")


class Feed:
    """Copies tensors to ``device`` and reads losses there; on the CPU neither is any work."""

    ahead = 0
    """Steps whose losses are not yet read when the next one begins."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device

    def put(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors of the host on the device; those that are there already, as they are."""
        return [tensor.to(self.device) for tensor in tensors]

    def reading(self, loss: Tensor) -> Callable[[], float]:
        """Return what waits for a loss, and returns it."""
        return loss.item


class CudaFeed(Feed):
    """A feed that never waits for the device.

    A batch is copied from pinned memory in a stream of its own, so that its copies run while the
    step before it computes. Losses are copied back likewise and read ``ahead`` steps later, which
    also bounds how far the host is in front of the device.
    """

    ahead = 2

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def put(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.cuda.stream(self._copies):
            # torch keeps a pinned block until the copy from it has ended, and then uses it again.
            there = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copies)
        for tensor in there:
            # Its memory belongs to the stream of copies, which must not reuse it too early.
            tensor.record_stream(computing)
        return there

    def reading(self, loss: Tensor) -> Callable[[], float]:
        host = torch.empty((), pin_memory=True)
        host.copy_(loss.detach(), non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self.device))

        def value() -> float:
            arrived.synchronize()
            return host.item()

        return value


def feed_to(device: torch.device) -> Feed:
    """Return the feed of a device."""
    return CudaFeed(device) if device.type == "cuda" else Feed(device)
