"""The device that trains: the CPU, or a GPU with CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from model.group import ALONE, Group
from model.training.feed import CPU
from model.training.trainer import TrainingError

DRIVER = Path("/proc/driver/nvidia")
"""The place where Linux shows NVIDIA's driver, if it is loaded."""


class Chosen(NamedTuple):
    """A device, and its name as people read it."""

    device: torch.device
    name: str
    """The GPU's name, or ``cpu``."""
    why: str = ""
    """The reason why ``auto`` did not take a GPU; empty where it did, or was not asked."""

    @property
    def worth_saying(self) -> bool:
        """True if a GPU trains, or there is the driver of one that does not."""
        return self.device.type != "cpu" or (bool(self.why) and DRIVER.exists())

    def __str__(self) -> str:
        return f"{self.name} (not CUDA: {self.why})" if self.why else self.name


def cuda_problem() -> str | None:
    """Return the reason why torch cannot use CUDA on this machine; None if it can."""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return "this torch was built without CUDA"
    try:
        # A driver that is too old, or a GPU that this build has no code for, shows up here alone.
        torch.zeros(1, device="cuda").add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        return f"no usable CUDA device ({str(error).splitlines()[0][:200]})"
    return None


def choose(wanted: str, group: Group = ALONE) -> Chosen:
    """Return the device that a setting names; ``auto`` takes a GPU where there is one.

    Raises:
        TrainingError: ``cuda`` was asked for and cannot be used.
    """
    if wanted == "cpu":
        return Chosen(CPU, "cpu")
    problem = "several processes train together on CPUs alone" if group.size > 1 else cuda_problem()
    if problem is None:
        device = torch.device("cuda", torch.cuda.current_device())
        return Chosen(device, torch.cuda.get_device_name(device))
    if wanted == "cuda":
        raise TrainingError(f"device: CUDA was asked for and cannot be used: {problem}")
    return Chosen(CPU, "cpu", problem)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Turn a device's lack of memory into an error that says what to lower.

    Raises:
        TrainingError: the device had not enough memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).splitlines()[0][:200]
        raise TrainingError(
            f"the GPU has too little memory: {reason}; lower batch_size or embedding_size, raise"
            ' the min_count of the largest fields, or set device to "cpu"'
        ) from error
