"""A product in bfloat16 by as many threads as the trainer takes: fails where a sum is missing."""

from __future__ import annotations

import torch

from model.config import TrainConfig


def main() -> None:
    """Multiply matrices of ones; memory that nothing is written to is not a number."""
    torch.set_num_threads(TrainConfig(threads=2).thread_count())
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("error")
    value, weight = torch.ones(2048, 640), torch.ones(400, 640)
    product = value.bfloat16() @ weight.bfloat16().T
    assert (product == 640).all(), f"{(product != 640).sum()} sums are missing"


if __name__ == "__main__":
    main()
