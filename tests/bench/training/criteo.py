"""Rows per second of training in the shape of Criteo's data, beside the peers.

39 fields over a million table rows, embeddings of 16, hidden layers of 400-400-400, batches of
4,096, indices by Zipf's law; clicks follow hidden weights of the values, so that there is
something to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.features.arrangement import arrange
from app.features.spec import FeatureSpec
from tests.bench.networks import draw
from tests.bench.serving.shape import FIELDS, field_name, spec_text, values_of
from tests.bench.training.running import BFLOAT16, PEERS, PRODUCT, Figures, Library, in_turn
from tests.bench.training.work import Rows, Work, write_rows

FLOAT32 = PRODUCT.name
SAME, USUAL = "same work", "as usual"
WAYS: Mapping[str, Mapping[str, Any]] = {
    SAME: {},
    USUAL: {"usual": True, "embedding_l2": 1e-5, "dropout": 0.2},
}
"""Nothing but the network and Adam; and the regularisation that FuxiCTR's published settings have
for DeepFM on Criteo, with what each library does by default, see ``Work.usual``."""


def draw_rows(rows: int, seed: int = 1) -> Rows:
    """Draw indices of known values, the frequent ones first, and clicks of about a quarter."""
    spec = FeatureSpec.parse(spec_text())
    layout = arrange(spec, {field_name(field): values_of(field) for field in range(FIELDS)})
    random = np.random.default_rng(seed)
    index = np.concatenate(
        [draw(layout.context, rows, random), draw(layout.candidate, rows, random)], 1
    )
    weight = random.normal(0, 0.2, layout.table_rows).astype(np.float32)
    logit = weight[index].sum(1) - 1.25
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    slots = layout.context + layout.candidate
    first = np.array([slot.first for slot in slots], np.int32)
    return Rows(index - first, label, [slot.size for slot in slots])


def measure(
    scratch: Path, rows: int, turns: int, threads: int, bfloat16: bool,
    tell: Callable[[str], None], peers: Sequence[Library] = PEERS,
) -> dict[str, Any]:  # fmt: skip
    """Return every library's rates in both ways, and the product's over the better peer's.

    Raises:
        Failed: a peer cannot be measured.
    """
    write_rows(scratch / "criteo", draw_rows(rows))
    ways = {}
    for way, settings in WAYS.items():
        work = Work(str(scratch / "criteo"), threads, **settings)
        works = {FLOAT32: partial(PRODUCT.run, work)}
        if bfloat16:
            works[BFLOAT16] = partial(PRODUCT.run, replace(work, precision="bfloat16"))
        works |= {peer.name: partial(peer.run, work) for peer in peers}
        ways[way] = summary(in_turn(turns, works, tell, way), peers)
    return ways


def summary(found: Mapping[str, Sequence[Figures]], peers: Sequence[Library]) -> dict[str, Any]:
    """Return medians, and the median over the turns of each ratio to the better peer."""
    rates = {name: [turn["rows_per_second"] for turn in turns] for name, turns in found.items()}
    best = max((peer.name for peer in peers), key=lambda name: median(rates[name]), default=None)
    over = {
        name: median(ours / theirs for ours, theirs in zip(rates[name], rates[best], strict=True))
        for name in (FLOAT32, BFLOAT16)
        if best and name in rates
    }
    return {
        "rows_per_second": {name: median(values) for name, values in rates.items()},
        "best_peer": best,
        "over_best_peer": over,
        "turns": {name: [dict(turn) for turn in turns] for name, turns in found.items()},
    }


def table(ways: Mapping[str, Any]) -> str:
    """Lay out the rates as a Markdown table."""
    lines = ["| work | library | rows/s | product over it |", "|---|---|---:|---:|"]
    for way, figures in ways.items():
        rates = figures["rows_per_second"]
        for name, rate in rates.items():
            lines.append(f"| {way} | {name} | {rate:,.0f} | {rates[FLOAT32] / rate:.2f} |")
    return "\n".join(lines)
