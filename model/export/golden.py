"""Golden requests: real rows and the network's logits for them, which every service verifies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.bundle.bundle import Example
from app.errors import ValueProblem
from app.features.encoder import Encoder
from model.data.dataset import Dataset
from model.export.parity import network_logits
from model.networks.network import Network
from model.quality.calibration import Calibration
from model.quality.figures import sigmoid

EXAMPLES = 32
_UNSEEN = "\N{REPLACEMENT CHARACTER} never seen"
_ALTERED: dict[int, Sequence[Any]] = {
    5: [None],
    6: [_UNSEEN, 2**63 - 25, [_UNSEEN], [2**63 - 25]],
    7: [[]],
}
"""Values that replace real ones in the 6th, 7th and 8th of every eight golden requests: missing,
never seen, an empty list. A field takes the first that its rules allow."""


def golden_examples(
    encoder: Encoder,
    network: Network,
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    calibration: Calibration | None = None,
) -> list[Example]:
    """Make golden requests of real rows, some with missing, unseen and empty values."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(rows), min(EXAMPLES * 3, len(rows)), replace=False)
    shuffled = [rows[place] for place in chosen]
    sides = {
        "context": encoder.context.fields,
        "candidate": encoder.candidate.fields,
    }
    examples = []
    for number in range(min(EXAMPLES, len(shuffled))):
        context = {k: v for k, v in shuffled[number].items() if k in sides["context"]}
        shown = [shuffled[(number * 3 + i) % len(shuffled)] for i in range(1 + number % 4)]
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
    """Make one golden request, with the network's own logits and calibrated scores if any."""
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
        context,
        candidates,
        context_row.tolist(),
        candidate_rows.tolist(),
        logits.tolist(),
        scores=scores,
    )
