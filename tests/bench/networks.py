"""`/rank` of a thousand candidates: each network's exported graph beside its plain form.

Both run on one thread in this process, turn and turn about, on the same rows of a Criteo-shaped
million of table rows: the engine with one context and its candidates, and a session over the
plain graph with the context repeated for each candidate. The medians go to standard output as a
Markdown table, with the median of the turns' ratios: what else the machine does slows both of a
turn. With ``--history L`` the context has a list of L past items besides, with the rows of one of
the candidate's fields: DIN weighs it by the candidate, other networks take its mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from app.features.arrangement import arrange
from app.features.graph_inputs import Batch
from app.features.layout import Layout, RowShape, Slot
from app.features.spec import MAX_LIST_VALUES, FeatureSpec
from app.scoring.engine import Engine
from model.config import NETWORKS, TrainConfig
from model.export.graph import write_graph
from model.networks import build
from tests.bench.plain import PlainGraph
from tests.bench.serving.shape import (
    CANDIDATE_FIELDS,
    CONTEXT_FIELDS,
    FIELDS,
    field_name,
    spec_text,
    values_of,
)
from tests.support.torch_export import quiet_exporter

EMBEDDING = {"ffm": 4}
"""Sizes other than 16; FFM's row has a vector for each other field, and 16 fill no ONNX file."""
WARM_UP = 5
TOLERANCE = 1e-4


class Figure(NamedTuple):
    """Medians of one network, in milliseconds, and how far its two graphs' logits lie apart."""

    network: str
    plain: float
    factored: float
    ratio: float
    """The plain form's time as a multiple."""
    difference: float


def draw(slots: tuple[Slot, ...], rows: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Draw indices [rows, F] of known values; the frequent ones have the first rows."""
    columns = [s.oov + 1 + (random.zipf(1.1, rows) - 1) % (s.size - 2) for s in slots]
    return np.stack(columns, 1).astype(np.int32)


def session(path: Path) -> ort.InferenceSession:
    """Open a graph on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write_plain(graph: PlainGraph, path: Path, history: int) -> None:
    """Export the plain form, whose rows have a history of their own if there is one."""
    inputs = [torch.ones(3, FIELDS, dtype=torch.int32)]
    inputs += [torch.ones(3, history, dtype=torch.int32)] if history else []
    names = ["index", "history"][: len(inputs)]
    with quiet_exporter():
        torch.onnx.export(
            graph.eval(), tuple(inputs), path, dynamo=True,
            input_names=names, output_names=["logit", "score"],
            dynamic_shapes=tuple({0: "rows"} for _ in inputs),
            external_data=False, verbose=False,
        )  # fmt: skip


def with_history(text: str) -> str:
    """Add a list of past items to the spec, with the values of the candidate's largest field."""
    largest = max(range(CONTEXT_FIELDS, FIELDS), key=values_of)
    return (
        f'{text}\n[[fields]]\nname = "history"\nkind = "multi_categorical"\nside = "context"\n'
        f'attends = "{field_name(largest)}"\nmax_values = {MAX_LIST_VALUES}\n'
    )


def measure(
    name: str, layout: Layout, candidates: int, repeats: int, scratch: Path, history: int = 0
) -> Figure:
    """Export both forms of a network with random weights, and time them."""
    torch.manual_seed(1)
    config = TrainConfig(
        network=name, hidden=(400, 400, 400), embedding_size=EMBEDDING.get(name, 16),
        init_std=0.1, batch_norm=False,
    )  # fmt: skip
    network = build(layout, config, 0.2).eval()
    factored, plain = scratch / f"{name}.onnx", scratch / f"{name}.plain.onnx"
    write_graph(network, layout, factored)
    write_plain(PlainGraph(network, layout, config), plain, history)
    del network
    places = ((CONTEXT_FIELDS, CONTEXT_FIELDS + history),) if history else ()
    shapes = [
        RowShape(CONTEXT_FIELDS + history, CONTEXT_FIELDS, places),
        RowShape(CANDIDATE_FIELDS, CANDIDATE_FIELDS, ()),
    ]
    engine, bare = Engine(factored, layout, shapes[0], shapes[1], threads=1), session(plain)
    for path in (factored, plain):
        path.unlink()

    random = np.random.default_rng(1)
    owners = np.zeros(candidates, np.int32)
    turns = []
    difference = 0.0
    for _ in range(WARM_UP + repeats):
        events = draw(layout.context_lists * history, 1, random) if history else None
        single = draw(layout.context, 1, random)
        context = single if events is None else np.concatenate([single, events], axis=1)
        candidate = draw(layout.candidate, candidates, random)
        start = perf_counter()
        found = engine.score(Batch(context, candidate, owners))
        between = perf_counter()
        index = np.concatenate([np.repeat(single, candidates, axis=0), candidate], axis=1)
        feed = {"index": index}
        if events is not None:
            feed["history"] = np.repeat(events, candidates, axis=0)
        begun = perf_counter()
        logit, _ = bare.run(None, feed)
        turns.append((perf_counter() - begun, between - start))
        difference = max(difference, float(np.abs(found.logit - logit).max()))
    if not difference <= TOLERANCE:
        raise SystemExit(f"{name}: the two graphs' logits lie {difference:.1e} apart")
    whole, shared = zip(*turns[WARM_UP:], strict=True)
    ratio = median(first / second for first, second in turns[WARM_UP:])
    return Figure(name, median(whole) * 1e3, median(shared) * 1e3, ratio, difference)


def main() -> int:
    """Measure the networks that are named, all by default."""
    parser = argparse.ArgumentParser(prog="scripts/bench-networks", description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all of them by default")
    parser.add_argument("--candidates", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=60, help="timed runs of each graph")
    parser.add_argument(
        "--history", type=int, default=0, metavar="L", help="past items of the context"
    )
    options = parser.parse_args()
    if not 0 <= options.history <= MAX_LIST_VALUES:
        parser.error(f"--history must be from 0 to {MAX_LIST_VALUES}")
    names = options.networks or NETWORKS
    for name in names:
        if name not in NETWORKS:
            parser.error(f"{name!r} is no network; there are {', '.join(NETWORKS)}")
    spec = FeatureSpec.parse(with_history(spec_text()) if options.history else spec_text())
    layout = arrange(spec, {field_name(field): values_of(field) for field in range(FIELDS)})
    print(
        "| network | plain, ms | factored, ms | factored, µs a row | plain / factored |"
        " largest logit difference |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            figure = measure(
                name, layout, options.candidates, options.repeats, Path(scratch), options.history
            )
            print(
                f"| {name} | {figure.plain:.2f} | {figure.factored:.2f} |"
                f" {figure.factored * 1e3 / options.candidates:.2f} | {figure.ratio:.2f} |"
                f" {figure.difference:.0e} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
