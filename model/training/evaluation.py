"""Evaluations of a network on the validation part while it trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.dataset import Dataset
from model.group import ALONE, Group
from model.networks.network import Network
from model.quality.figures import auc, log_loss

PREDICT_ROWS = 8192
"""Rows scored at once, which bounds the memory of an evaluation."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The state of training after ``step`` batches; ``epoch`` is fractional."""

    step: int
    epoch: float
    train_loss: float | None
    """Mean log loss of the training rows since the last evaluation; None before any."""
    log_loss: float
    """On the validation rows, as the AUC is."""
    auc: float | None
    """None if the validation rows are all of one class."""
    learning_rate: float
    rows_per_second: float
    """Training rows since the last evaluation, per second spent on training."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, as JSON can hold them."""
        return asdict(self)

    def shown(self) -> dict[str, str]:
        """Return the figures that a progress bar shows."""
        auc = "none" if self.auc is None else f"{self.auc:.4f}"
        loss = "none" if self.train_loss is None else f"{self.train_loss:.4f}"
        return {"training loss": loss, "validation AUC": auc}

    def beats(self, other: Evaluation, metric: str) -> bool:
        """Return whether this is better, by AUC and then log loss, or by log loss alone."""
        if metric == "log_loss" or self.auc is None or other.auc is None:
            return self.log_loss < other.log_loss
        return (self.auc, -self.log_loss) > (other.auc, -other.log_loss)


def evaluated(network: Network, validation: Dataset, group: Group = ALONE) -> Evaluation:
    """Evaluate a network as it is before any step."""
    logit = predict(network, validation, group)
    return Evaluation(
        step=0,
        epoch=0.0,
        train_loss=None,
        log_loss=log_loss(validation.label, logit, validation.kept),
        auc=auc(validation.label, logit),
        learning_rate=0.0,
        rows_per_second=0.0,
    )


def predict(network: Network, data: Dataset, group: Group = ALONE) -> NDArray[np.float32]:
    """Return the logit [R] of every row; the network is left in evaluation mode.

    The processes of a group, whose networks are the same, share the work. All get every logit, as
    one process alone would have it.
    """
    network.eval()
    logit = np.zeros(len(data), np.float32)
    stride = PREDICT_ROWS * group.size
    with torch.inference_mode():
        for start in range(PREDICT_ROWS * group.rank, len(data), stride):
            part = data.take(slice(start, start + PREDICT_ROWS))
            logit[start : start + PREDICT_ROWS] = network(part.inputs()).numpy()
    group.add([torch.from_numpy(logit)])
    return logit
