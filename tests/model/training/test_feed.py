"""Feeds: the way of a batch to the device that trains."""

from __future__ import annotations

import pytest
import torch

from model.training import feed as module
from model.training.feed import CPU, Feed, feed_to


def test_each_device_has_its_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's does not wait; the CPU's has nothing to do."""
    monkeypatch.setattr(module, "CudaFeed", lambda device: ("never waits", device))
    gpu = torch.device("cuda", 1)
    assert feed_to(gpu) == ("never waits", gpu)  # type: ignore[comparison-overlap]
    assert type(feed_to(CPU)) is Feed
