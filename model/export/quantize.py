"""A float32 graph → the same graph with its matrix products in int8.

Static quantisation (Jacob et al. 2018, arXiv:1712.05877): int8 weights with a scale for each
output, uint8 inputs with one scale and zero point that calibration rows fix once. Nothing is
scaled by what else is in a batch, so a row's score does not depend on its neighbours.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
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
from app.bundle.manifest import WEIGHTS
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import Engine
from model.config import Quantized
from model.data.dataset import Dataset
from model.export.graph import save_variant
from model.quality.offline_scoring import batch_of
from model.quality.paired import Estimate, auc_difference, mean_ratio

CALIBRATION_ROWS = 2_048
LARGEST_AUC_LOSS = 5e-4
"""A fraction of what another seed changes: three seeds on MovieLens-100k differ by 0.004."""
LARGEST_MEAN_CHANGE = 2e-3
LEAST_ROWS = 200
"""Validation rows with a click, and without, from which on a loss is measured: a standard error
from so many is itself known within 5 %."""


class Verdict(StrEnum):
    """The verdict of the validation part on an int8 graph."""

    accepted = "accepted"
    refused = "refused"
    undecided = "undecided"


@dataclass(frozen=True, slots=True)
class Loss:
    """Figures of the int8 graph beside those of the float32 one, over the validation part's rows.

    Errors are paired standard errors.
    """

    rows: int
    clicks: int
    auc: float
    """AUC lost; below zero where int8 is better, NaN where there is none."""
    auc_error: float
    mean: float
    """Relative change of the mean score."""
    mean_error: float
    worst_logit_difference: float

    @property
    def verdict(self) -> Verdict:
        """The decision: accepted below both limits, refused beyond one, undecided between.

        Accepted is a graph whose losses have upper bounds (5 % one-sided) below the limits, refused
        one with a lower bound beyond a limit. Either needs ``LEAST_ROWS`` rows of each class: with
        fewer, the standard errors are themselves too uncertain.

        The 10,000 validation rows of MovieLens-100k know a loss of AUC within 0.00006 and a change
        of the mean within 0.005 %. Graphs of three seeds lost 0.00011, 0.00001 and -0.00001 of AUC
        and changed the mean by 0.15 %, 0.12 % (accepted) and 0.33 % (refused); with ranges taken
        from a single row they lost up to 0.003 and changed it by 0.6 % to 1.2 % (all refused).
        """
        if min(self.clicks, self.rows - self.clicks) < LEAST_ROWS:
            return Verdict.undecided
        estimates = (
            (Estimate(self.auc, self.auc_error), LARGEST_AUC_LOSS),
            (Estimate(abs(self.mean), self.mean_error), LARGEST_MEAN_CHANGE),
        )
        if all(estimate.most <= limit for estimate, limit in estimates):
            return Verdict.accepted
        # Written so that NaN refuses.
        if not all(estimate.least <= limit for estimate, limit in estimates):
            return Verdict.refused
        return Verdict.undecided

    def kept(self, quantize: Quantized) -> bool:
        """Tell whether the graph goes into the bundle."""
        if self.verdict is Verdict.undecided:
            return quantize is Quantized.int8_unmeasured
        return self.verdict is Verdict.accepted

    def described(self, quantize: Quantized) -> dict[str, Any]:
        """Return the figures and the decision as the manifest holds them."""
        figures = {
            name: None if math.isnan(value) else value for name, value in asdict(self).items()
        }
        return {"accepted": self.kept(quantize), "verdict": str(self.verdict), **figures}

    def told(self, quantize: Quantized) -> str:
        """Return the decision, the figures and, if undecided, what to do, as one line."""
        if self.verdict is Verdict.accepted:
            return f"the int8 graph {self}"
        if self.verdict is Verdict.refused:
            return f"the int8 graph is left out: it {self}"
        if self.kept(quantize):
            return f"the loss of the int8 graph is not known: {self._lacking()}; it {self}"
        return (
            f"the int8 graph is left out: {self._lacking()}; it {self}; train with more"
            " validation rows, or accept it as it is with --quantize int8-unmeasured"
        )

    def _lacking(self) -> str:
        told = f"{self.rows:,} validation rows, {self.clicks:,} with a click,"
        if min(self.clicks, self.rows - self.clicks) < LEAST_ROWS:
            return f"{told} are too few to measure its loss ({LEAST_ROWS} of each class are needed)"
        return f"{told} do not tell whether its loss is within the limits"

    def __str__(self) -> str:
        return (
            f"loses {self.auc:.5f} ± {self.auc_error:.5f} of AUC ({LARGEST_AUC_LOSS:g} is allowed)"
            f" and changes the mean score by {self.mean:+.3%} ± {self.mean_error:.3%}"
            f" ({LARGEST_MEAN_CHANGE:.1%}), a logit by at most {self.worst_logit_difference:.1e}"
        )


def measured_loss(label: NDArray[np.uint8], float32: Scores, int8: Scores) -> Loss:
    """Compare the scores of one part's rows, labels [R]."""
    auc = auc_difference(label, float32.logit, int8.logit)
    ratio = mean_ratio(int8.score, float32.score)
    return Loss(
        rows=len(label),
        clicks=int(label.sum()),
        auc=auc.value,
        auc_error=auc.error,
        mean=ratio.value - 1,
        mean_error=ratio.error,
        worst_logit_difference=float(np.abs(int8.logit - float32.logit).max(initial=0.0)),
    )


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
                use_external_data_format=graph.with_name(WEIGHTS).exists(),
            )
            logging.getLogger().setLevel(level)
        save_variant(onnx.load(partial), out, graph)


def with_int8_logits(example: Example, engine: Engine) -> Example:
    """Add what the int8 graph gives to a golden request's rows, calibrated scores too."""
    rows = len(example.candidates)
    context = np.array([example.context_row], np.int32)
    candidate = np.array(example.candidate_rows, np.int32).reshape(rows, -1)
    found = engine.score(Batch(context, candidate, np.zeros(rows, np.int32)))
    scores = None if example.scores is None else found.score.tolist()
    return msgspec.structs.replace(example, int8_logits=found.logit.tolist(), int8_scores=scores)
