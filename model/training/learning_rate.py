"""The learning rate of a step: warm-up, then decay."""

from __future__ import annotations

from model.config import TrainConfig


def learning_rate(progress: float, config: TrainConfig) -> float:
    """Return the rate after a share ``progress`` of all steps: linear up, then linear to zero."""
    falling = (1 - progress) / (1 - config.warmup)
    rising = progress / config.warmup if config.warmup else 1.0
    return config.learning_rate * min(rising, falling)
