"""The figure that chooses the best weights is one that the validation part can tell."""

from __future__ import annotations

import numpy as np
import pytest

from model.config import Metric
from model.training.evaluation import telling_metric


def labels(rows: int, clicks: int) -> np.ndarray:
    return (np.arange(rows) < clicks).astype(np.uint8)


@pytest.mark.parametrize(
    ("clicks", "metric", "warning"),
    [
        (0, "log_loss", "the validation labels are all of one class, so there is no AUC"),
        (2, "log_loss", "of 2,000 validation rows 2 have a click; an AUC needs 100 of each class"),
        (99, "log_loss", "of 2,000 validation rows 99 have a click"),
        (100, "auc", ""),
        (1_900, "auc", ""),
        (1_901, "log_loss", "of 2,000 validation rows 1,901 have a click"),
        (2_000, "log_loss", "the validation labels are all of one class"),
    ],
)
def test_log_loss_chooses_where_auc_cannot_tell(
    clicks: int, metric: Metric, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below 100 rows of a class, with a warning; a metric of log loss stays, in silence."""
    assert telling_metric("auc", labels(2_000, clicks)) == metric
    told = capsys.readouterr().err
    assert warning in told
    assert told.count("the best weights are those of the lowest log loss") == (metric != "auc")
    assert telling_metric("log_loss", labels(2_000, clicks)) == "log_loss"
    assert not capsys.readouterr().err
