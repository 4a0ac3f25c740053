"""A Criteo-shaped bundle for benchmarks: the size of a real one, with weights of no meaning.

39 string fields, 24 of the context and 15 of the candidate, a million table rows, embeddings
of 16, hidden layers of 400-400-400; values and their frequencies follow Zipf's law.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.bundle.bundle import Bundle, Example
from app.bundle.manifest import (
    EXAMPLES,
    EXPLAIN_GRAPH,
    GRAPH,
    INT8_GRAPH,
    SPEC,
    SPLIT_GRAPHS,
    VOCABULARY,
)
from app.bundle.writing import new_bundle
from app.features.arrangement import arrange
from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from app.features.vocabulary import SlotVocabulary, Texts, Vocabulary
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.export import (
    explain,
    exporter,
    first_cut,
    graph,
    graph_builder,
    operators,
    quantize,
    serving_form,
    split,
)  # fmt: skip
from model.export.explain import write_explain
from model.export.golden import example
from model.export.graph import write_graph
from model.export.quantize import CALIBRATION_ROWS, with_int8_logits, write_int8
from model.export.split import write_split
from model.networks import deepfm, mlp, network
from model.networks.deepfm import DeepFM
from model.networks.network import Network
from model.quality.offline_scoring import open_engine
from tests.support.encoding import encoded_columns
from tests.support.torch_export import quiet_exporter

CONTEXT_FIELDS, CANDIDATE_FIELDS = 24, 15
FIELDS = CONTEXT_FIELDS + CANDIDATE_FIELDS
TABLE_ROWS = 1_000_000
PLAIN_GRAPH = "plain.onnx"
BODIES = 10_000
"""Rows that are asked for in turn."""


def field_name(field: int) -> str:
    """C0 to C38."""
    return f"C{field}"


def values_of(field: int) -> int:
    """The number of values of a field: from ten to a quarter of all, as click logs have them."""
    shares = np.geomspace(1, 30_000, FIELDS)
    return max(10, int(shares[(field * 17) % FIELDS] / shares.sum() * (TABLE_ROWS - 3 * FIELDS)))


def value(field: int, rank: int) -> str:
    """A field's value of a rank: eight hexadecimal digits, like Criteo's."""
    return f"{(field * 0x9E3779B1 + rank * 0x85EBCA6B + 0x1234567) & 0xFFFFFFFF:08x}"


class Plain(nn.Module):
    """The same network unfactored: all fields of every row, as it is usually exported."""

    def __init__(self, network: DeepFM) -> None:
        super().__init__()
        self.network = network.folded()

    def forward(self, index: Tensor) -> Tensor:
        """Return scores [N] for indices [N, F]."""
        network, mlp = self.network, self.network.mlp
        rows = functional.embedding(index, network.table)
        weight, embedding = rows[:, :, 0], rows[:, :, 1:]
        total = embedding.sum(1)
        pairwise = 0.5 * (total.square() - embedding.square().sum(1)).sum(1)
        hidden = functional.relu(mlp.first(embedding.flatten(1)))
        for linear in mlp.deeper:
            hidden = functional.relu(linear(hidden))
        deep = mlp.output(hidden).squeeze(1)
        return torch.sigmoid(network.bias + weight.sum(1) + pairwise + deep)


def spec_text() -> str:
    """The feature spec of the shape."""
    fields = "".join(
        f'\n[[fields]]\nname = "{field_name(field)}"\nkind = "categorical"\n'
        f'side = "{"context" if field < CONTEXT_FIELDS else "candidate"}"\nmin_count = 1\n'
        for field in range(FIELDS)
    )
    return f'label = "click"\n{fields}'


def make(directory: Path) -> tuple[Path, Path]:
    """Return bundle and plain graph below ``directory``, making them once."""
    done = directory / "made.json"
    sources = _sources()
    if done.is_file():
        made = json.loads(done.read_text())
        if made.get("sources") == sources:
            return directory / made["bundle"], directory / PLAIN_GRAPH
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    text = spec_text()
    spec = FeatureSpec.parse(text)
    vocabulary = vocabulary_of(spec)
    layout = vocabulary.layout
    torch.manual_seed(1)
    config = TrainConfig(hidden=(400, 400, 400), embedding_size=16, init_std=0.1, batch_norm=False)
    network = DeepFM(layout, config, 0.2).eval()
    encoder = Encoder(spec, vocabulary)

    def finish(path: Path) -> list[Example]:
        draws = Draws(1)
        golden = [
            example(encoder, network, draws.side(True), [draws.side(False) for _ in range(3)])
            for _ in range(8)
        ]
        engine = open_engine(path / GRAPH, encoder, layout)
        rows = [draws.columns(side, CALIBRATION_ROWS) for side in (True, False)]
        data = Dataset(
            encoded_columns(encoder.context, rows[0], CALIBRATION_ROWS),
            encoded_columns(encoder.candidate, rows[1], CALIBRATION_ROWS),
            (), (), np.zeros(CALIBRATION_ROWS, np.uint8),
        )  # fmt: skip
        write_int8(path / GRAPH, path / INT8_GRAPH, engine, data, seed=1)
        quick = open_engine(path / INT8_GRAPH, encoder, layout, "int8")
        return [with_int8_logits(each, quick) for each in golden]

    bundle = write_untrained(directory, text, vocabulary, network, finish)
    with quiet_exporter():
        torch.onnx.export(
            Plain(network).eval(), (torch.ones(3, FIELDS, dtype=torch.int32),),
            directory / PLAIN_GRAPH, dynamo=True, input_names=["index"], output_names=["score"],
            dynamic_shapes=({0: "rows"},), external_data=False, verbose=False,
        )  # fmt: skip
    done.write_text(json.dumps({"bundle": bundle.name, "sources": sources}))
    return bundle, directory / PLAIN_GRAPH


def vocabulary_of(spec: FeatureSpec) -> Vocabulary:
    """Return the vocabulary of the shape; the more frequent a value, the earlier its row."""
    layout = arrange(spec, {field_name(f): values_of(f) for f in range(FIELDS)})
    slots: dict[str, SlotVocabulary] = {}
    for field, slot in enumerate(layout.slots):
        ranks = {value(field, rank): rank for rank in reversed(range(values_of(field)))}
        keys = sorted(ranks)
        rows = np.empty(len(keys), np.int32)
        rows[np.argsort([ranks[key] for key in keys])] = np.arange(
            slot.first + 2, slot.first + 2 + len(keys)
        )
        slots[slot.name] = Texts.of(keys, rows)
    return Vocabulary(layout, slots)


def write_untrained(
    directory: Path,
    text: str,
    vocabulary: Vocabulary,
    network: Network,
    finish: Callable[[Path], list[Example]],
    name: str = "deepfm",
) -> Path:
    """Write a bundle with the first weights of a network, of this name, below ``directory``.

    ``finish`` adds what else belongs to it and returns its golden requests.
    """
    described: dict[str, Any] = {"network": name, "metrics": {}, "data": [], "statistics": {},
                 "training": {"parity": {"worst_logit_difference": 0.0}}}  # fmt: skip
    with new_bundle(directory) as bundle:
        path = bundle.directory
        (path / SPEC).write_text(text)
        (path / VOCABULARY).mkdir()
        vocabulary.save(path / VOCABULARY)
        write_graph(network, vocabulary.layout, path / GRAPH)
        (path / EXAMPLES).write_bytes(msgspec.json.Encoder().encode_lines(finish(path)))
        graphs = {"float32": path / GRAPH, "int8": path / INT8_GRAPH}
        for precision, (candidate, combine) in SPLIT_GRAPHS.items():
            if graphs[precision].exists():
                described["parts"] = write_split(
                    graphs[precision], name, vocabulary.layout, path / candidate, path / combine
                )
        described["explainable"] = write_explain(
            path / GRAPH, name, vocabulary.layout, (), path / EXPLAIN_GRAPH
        )
        return bundle.finish(described)


def _sources() -> str:
    """Hash of the code that decides the files, so that no old graph is ever measured."""
    digest = hashlib.sha256()
    exporting = (serving_form, explain, exporter, graph, graph_builder, operators, quantize)
    exporting += (split, first_cut)
    for module in (deepfm, mlp, network, *exporting, sys.modules[__name__]):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


class Draws:
    """Seeded draws of raw values; a value's frequency falls as its rank to the power 1.1."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def ranks(self, field: int, count: int) -> NDArray[np.int64]:
        """Draw ranks of values."""
        drawn = self._random.zipf(1.1, count) - 1
        return drawn % values_of(field)

    def side(self, context: bool) -> dict[str, str]:
        """Draw one side of a row."""
        fields = range(CONTEXT_FIELDS) if context else range(CONTEXT_FIELDS, FIELDS)
        return {field_name(f): value(f, int(self.ranks(f, 1)[0])) for f in fields}

    def columns(self, context: bool, count: int) -> dict[str, list[str]]:
        """Draw many rows of one side, as columns."""
        fields = range(CONTEXT_FIELDS) if context else range(CONTEXT_FIELDS, FIELDS)
        return {
            field_name(f): [value(f, rank) for rank in self.ranks(f, count).tolist()]
            for f in fields
        }


def predict_rows(count: int = BODIES) -> list[dict[str, str]]:
    """Draw rows of distinct contexts."""
    draws = Draws(7)
    columns = draws.columns(True, count) | draws.columns(False, count)
    names = [field_name(field) for field in range(FIELDS)]
    values = zip(*(columns[name] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def opened(bundle: Path) -> tuple[Bundle, Encoder]:
    """Open the bundle for its vocabulary."""
    found = Bundle.open(bundle)
    return found, Encoder(found.spec, found.vocabulary)
