"""A float32 graph → the same graph with its matrix products in int8.

Static quantisation (Jacob et al. 2018, arXiv:1712.05877): int8 weights with a scale for each
output, uint8 inputs with one scale and zero point that calibration rows fix once. Nothing is
scaled by what else is in a batch, so a row's score does not depend on its neighbours.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from app.bundle.bundle import Example
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine
from model.data.dataset import Dataset
from model.export.graph import data_of, save_graph
from model.quality.figures import evaluate_scores
from model.quality.offline_scoring import batch_of

CALIBRATION_ROWS = 2_048
LARGEST_AUC_LOSS = 2e-4
LARGEST_MEAN_CHANGE = 2e-3


@dataclass(frozen=True, slots=True)
class Loss:
    """What int8 changes on the validation part, beside float32."""

    auc: float
    """AUC lost; below zero where int8 happens to be better."""
    mean: float
    """Relative change of the mean score."""
    worst_logit_difference: float

    @property
    def accepted(self) -> bool:
        """Whether a ranking and a bid would not notice."""
        return self.auc <= LARGEST_AUC_LOSS and abs(self.mean) <= LARGEST_MEAN_CHANGE

    def __str__(self) -> str:
        return (
            f"int8 loses {self.auc:.5f} of AUC ({LARGEST_AUC_LOSS:g} is allowed) and changes the"
            f" mean score by {self.mean:+.3%} ({LARGEST_MEAN_CHANGE:.1%}), a logit by at most"
            f" {self.worst_logit_difference:.1e}"
        )


def loss(label: NDArray[np.uint8], float32: Scores, int8: Scores) -> Loss:
    """Compare the scores of one part's rows; a part of one class has no AUC to lose."""
    before, after = (evaluate_scores(label, scores.logit) for scores in (float32, int8))
    auc = 0.0 if before.auc is None or after.auc is None else before.auc - after.auc
    mean = float(int8.score.mean(dtype=np.float64) / float32.score.mean(dtype=np.float64) - 1)
    return Loss(auc, mean, float(np.abs(int8.logit - float32.logit).max(initial=0.0)))


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration rows out once."""

    def __init__(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def write_int8(graph: Path, out: Path, engine: Engine, data: Dataset, seed: int) -> None:
    """Quantise every dense layer of ``graph``, whose float32 engine is ``engine``.

    The range of each product's input is taken from up to 2,048 random rows of ``data``.
    Weights keep seven of their eight bits: processors without VNNI add products of two in 16
    bits, which would overflow with all eight, and a bundle gives the same scores everywhere.
    """
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(data), min(CALIBRATION_ROWS, len(data)), replace=False)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".int8-") as scratch:
        partial = Path(scratch) / out.name
        level = logging.getLogger().level
        with warnings.catch_warnings():
            # It advises a preparation that this graph, made of plain products, does not need.
            warnings.simplefilter("ignore")
            logging.getLogger().setLevel(logging.ERROR)
            quantize_static(
                graph,
                partial,
                _Rows([engine.feed(batch_of(data.take(rows)))]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Gemm"],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
                use_external_data_format=data_of(graph).exists(),
            )
            logging.getLogger().setLevel(level)
        save_graph(onnx.load(partial), out)


def with_int8_logits(example: Example, engine: Engine) -> Example:
    """Add what the int8 graph gives to a golden request's rows, calibrated scores too."""
    rows = len(example.candidates)
    context = np.array([example.context_row], np.int32)
    candidate = np.array(example.candidate_rows, np.int32).reshape(rows, -1)
    found = engine.score(Batch(context, candidate, np.zeros(rows, np.int32)))
    scores = None if example.scores is None else found.score.tolist()
    return msgspec.structs.replace(example, int8_logits=found.logit.tolist(), int8_scores=scores)
