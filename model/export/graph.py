"""Network → ONNX graph → parity check against the engine that will serve → golden examples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.bundle.bundle import Example
from app.errors import CtrError, ValueProblem
from app.features.arrays import Indices
from app.features.encoder import Encoder
from app.features.graph_inputs import CONTEXTS, ROWS, Batch, Scores, graph_inputs
from app.features.layout import Layout
from app.scoring.engine import Engine
from model.data.dataset import Dataset
from model.export.serving_form import serving_form, trained_deepfm
from model.networks.network import Network, NetworkInputs
from model.quality.calibration import CalibratedLogit, Calibration, calibrated
from model.quality.figures import sigmoid

CANDIDATE_COUNTS = (0, 1, 2, 3, 7, 64, 1000)
CONTEXT_COUNTS = (1, 2, 7)
EXAMPLES = 32
_SMALL = 1024
"""Bytes of weights that stay in the graph's own file."""
_CUT = "slice_"
"""How the exporter calls a parameter's part."""
_UNSEEN = "\N{REPLACEMENT CHARACTER} never seen"
_ALTERED: dict[int, Sequence[Any]] = {
    5: [None],
    6: [_UNSEEN, 2**63 - 25, [_UNSEEN], [2**63 - 25]],
    7: [[]],
}
"""What stands in for real values in some golden requests: missing, unseen, empty."""
SCORE_TOLERANCE = 1e-5
SMALLEST = 1e-30
"""How far a score may be from what its logit says: a share of it, and below all float32 hold."""
MAX_INLINE_BYTES = 2**31 - 2**24
"""Weights that one ONNX file holds beside its nodes; more lie in a file of their own."""


class ExportError(CtrError):
    """A network that cannot be exported, or whose export does not agree with it."""


class ScoreGraph(nn.Module):
    """The exported function: indices and numbers in, logit and score out."""

    def __init__(
        self, network: Network, layout: Layout, calibration: Calibration | None = None
    ) -> None:
        super().__init__()
        self.calibrated = nn.Identity() if calibration is None else CalibratedLogit(calibration)
        self.network = serving_form(network, layout)
        self.context_lists = len(layout.context_lists)
        self.candidate_lists = len(layout.candidate_lists)
        self.context_values = layout.context_values > 0

    def forward(
        self, context: Tensor, candidate: Tensor, row_context: Tensor, others: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return logit and score, float32 [N] each.

        ``others`` are the lists and then the numbers of scaled slots, of each the context's
        first, where there are any.
        """
        rest = iter(others)
        context_lists = list(islice(rest, self.context_lists))
        candidate_lists = list(islice(rest, self.candidate_lists))
        context_value = next(rest) if self.context_values else None
        inputs = NetworkInputs(
            context, candidate, row_context, context_lists, candidate_lists,
            context_value, next(rest, None),
        )  # fmt: skip
        logit = self.network(inputs)
        # onnxruntime's Sigmoid is right to about 1e-7 absolutely, which is nothing at a score of
        # 1e-4; its Exp is right to the last bits, relatively.
        return logit, 1 / (1 + torch.exp(-self.calibrated(logit)))


def read_weights(graph: Path, network: str, layout: Layout) -> dict[str, Tensor]:
    """Return the weights of an exported network by the names that it has for them.

    Batch norm is folded into them. The halves of the first hidden layer's weights, which the
    exporter cuts, are joined again.
    """
    found: dict[str, Tensor] = {}
    halves: dict[int, Tensor] = {}
    for value in onnx.load(graph).graph.initializer:
        head, _, name = value.name.partition(".")
        if head == "network":
            found[name] = torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
        elif value.name.startswith(_CUT) and len(value.dims) == 2:
            number = int(value.name.removeprefix(_CUT))
            halves[number] = torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
    if network == "deepfm":
        return trained_deepfm(found, layout)
    if halves:
        context, row = (halves[number] for number in sorted(halves))
        found["mlp.first.weight"] = torch.cat([context, row], 1)
    return found


def write_graph(
    network: Network, layout: Layout, path: Path, calibration: Calibration | None = None
) -> None:
    """Export a network as it is for inference, batch norm folded, all sizes symbolic.

    The score is the logit's sigmoid, or what ``calibration`` makes of it.

    Weights of more than two gigabytes are beside it, in ``<name>.data``. The files depend on the
    weights alone: no paths, times or generated names of this run.
    """
    graph = ScoreGraph(network, layout, calibration).eval()
    inputs = graph_inputs(layout)
    example = [
        torch.ones([_size(axis) for axis in each.axes], dtype=getattr(torch, each.dtype))
        for each in inputs
    ]
    shapes = [
        {place: axis for place, axis in enumerate(each.axes) if isinstance(axis, str)}
        for each in inputs
    ]
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        # The exporter warns of its own internals; what it made is checked row by row below.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph,
            (*example[:3], example[3:]),
            dynamo=True,
            input_names=[each.name for each in inputs],
            output_names=Scores._fields,
            dynamic_shapes=(*shapes[:3], shapes[3:]),
            external_data=False,
            verbose=False,
        )
        logging.getLogger("torch.onnx").setLevel(level)
    if program is None:
        raise ExportError("the exporter gave no graph")
    model = program.model_proto
    _strip(model)
    save_graph(model, path)


def _size(axis: str | int) -> int:
    """Return the size of an axis in the example that a graph is exported with."""
    return {CONTEXTS: 2, ROWS: 3}.get(axis, 2) if isinstance(axis, str) else axis


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph, and what does not fit into one file beside it, as ``<name>.data``."""
    if sum(len(weights.raw_data) for weights in model.graph.initializer) > MAX_INLINE_BYTES:
        onnx.external_data_helper.convert_model_to_external_data(
            model, location=data_of(path).name, size_threshold=_SMALL
        )
        # This changes the model: its large weights are in the file from then on.
        onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
    path.write_bytes(model.SerializeToString(deterministic=True))


def remove_graph(path: Path) -> None:
    """Remove what :func:`save_graph` has written."""
    path.unlink()
    data_of(path).unlink(missing_ok=True)


def data_of(path: Path) -> Path:
    """Where the weights of a large graph are."""
    return path.with_name(f"{path.name}.data")


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes about the Python source: paths and stack traces."""
    model.producer_version = ""
    del model.metadata_props[:]
    graphs: list[Any] = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output,
                  *model.graph.initializer]:  # fmt: skip
        value.doc_string = ""
        del value.metadata_props[:]


def network_logits(network: Network, data: Dataset, row_context: Indices) -> NDArray[np.float32]:
    """The network's own logits: contexts of the first rows, one candidate from each row."""
    contexts = int(row_context.max(initial=0)) + 1
    every = data.inputs()
    value = every.context_value
    with torch.inference_mode():
        logit: Tensor = network(
            every._replace(
                context=every.context[:contexts],
                row_context=torch.from_numpy(row_context),
                context_lists=[column[:contexts] for column in every.context_lists],
                context_value=None if value is None else value[:contexts],
            )
        )
    return np.asarray(logit.numpy(), np.float32)


def check_parity(
    network: Network, engine: Engine, data: Dataset, calibration: Calibration | None = None
) -> tuple[float, int]:
    """Compare network and engine over real rows, at every count of contexts and candidates.

    The engine's scores must be what its logits say.

    Returns the largest difference of a logit and the number of rows compared, at least 1,000
    (rows repeat where the data has fewer).

    Raises:
        ExportError: a difference is above the engine's tolerance, or a score is another one.
    """
    network.eval()
    worst, compared = 0.0, 0
    start = 0
    for rows in CANDIDATE_COUNTS:
        for contexts in sorted({*CONTEXT_COUNTS, max(rows, 1)}):
            count = max(rows, contexts)
            taken = np.arange(start, start + count) % len(data)
            start += count
            part = data.take(taken)
            row_context = (np.arange(rows) % contexts).astype(np.int32)
            candidates = part.take(slice(0, rows))
            expected = network_logits(
                network,
                replace(candidates, context=part.context, context_lists=part.context_lists,
                        context_value=part.context_value),
                row_context,
            )  # fmt: skip
            found = engine.score(
                Batch(part.context_rows[:contexts], candidates.candidate_rows, row_context)
            )
            if len(found.logit) != rows:
                raise ExportError(f"{rows} rows gave {len(found.logit)} logits")
            # Not max(worst, ...) first: it would drop a NaN.
            away = float(np.abs(found.logit - expected).max(initial=0.0))
            worst = max(worst, away)
            compared += rows
            if not away <= engine.tolerance:
                raise ExportError(
                    f"network and graph disagree by {away:.2g} in a logit for {contexts} contexts "
                    f"and {rows} candidates; {engine.tolerance:g} is allowed"
                )
            score = sigmoid(calibrated(calibration, found.logit))
            if not (np.abs(found.score - score) <= SCORE_TOLERANCE * score + SMALLEST).all():
                raise ExportError("a score of the graph is not what its logit says")
    return worst, compared


def golden_examples(
    encoder: Encoder,
    network: Network,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    calibration: Calibration | None = None,
) -> list[Example]:
    """Make golden requests of real rows, and of missing, unseen and empty values."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(rows), min(EXAMPLES * 3, len(rows)), replace=False)
    raw = [rows[place] for place in chosen]
    sides = {
        "context": encoder.context.fields,
        "candidate": encoder.candidate.fields,
    }
    examples = []
    for number in range(min(EXAMPLES, len(raw))):
        context = {k: v for k, v in raw[number].items() if k in sides["context"]}
        shown = [raw[(number * 3 + i) % len(raw)] for i in range(1 + number % 4)]
        candidates = [{k: v for k, v in row.items() if k in sides["candidate"]} for row in shown]
        if alternatives := _ALTERED.get(number % 8):
            context = _altered(encoder, context, alternatives)
            candidates = [_altered(encoder, row, alternatives) for row in candidates]
        examples.append(example(encoder, network, context, candidates, calibration))
    return examples


def _altered(encoder: Encoder, row: dict[str, Any], alternatives: Sequence[Any]) -> dict[str, Any]:
    """Replace every value by the first of the alternatives that its field takes."""
    result = dict(row)
    for field in [*encoder.context.encoders, *encoder.candidate.encoders]:
        for value in alternatives if field.name in row else ():
            try:
                field.one(value)
            except ValueProblem:
                continue
            result[field.name] = value
            break
    return result


def example(
    encoder: Encoder,
    network: Network,
    context: dict[str, Any],
    candidates: list[dict[str, Any]],
    calibration: Calibration | None = None,
) -> Example:
    """Make one golden request, with the network's own logits and what is calibrated of them."""
    context_row = np.frombuffer(encoder.context.row(context), np.int32)
    packed = b"".join(map(encoder.candidate.row, candidates))
    candidate_rows = np.frombuffer(packed, np.int32).reshape(-1, encoder.candidate.shape.width)
    rows = len(candidates)
    repeated = np.repeat(context_row.reshape(1, -1), rows, axis=0)
    label = np.zeros(rows, np.uint8)
    data = Dataset.of_rows(repeated, candidate_rows, encoder.shapes, label)
    logits = network_logits(network, data, np.zeros(rows, np.int32))
    scores = None if calibration is None else sigmoid(calibration.apply(logits)).tolist()
    return Example(
        context, candidates, context_row.tolist(), candidate_rows.tolist(), logits.tolist(),
        scores=scores,
    )  # fmt: skip
