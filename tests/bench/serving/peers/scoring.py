"""The way of both peers from raw values to scores: look the rows up and run the plain graph.

Written for speed with the usual means, so that the peers are measured at their best: a table
for each field, look-ups in C, one run for a whole batch on one thread. It is imported inside
the peers' own environments, which have numpy, msgspec and onnxruntime.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from itertools import chain
from operator import getitem
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.features.layout import Slot
from app.features.vocabulary import Texts, Vocabulary
from tests.bench.serving.peers.peer import PROVIDER

BUNDLE, GRAPH = "PEER_BUNDLE", "PEER_GRAPH"
"""Environment variables that name the files of a peer's process."""

CPU = "CPUExecutionProvider"
Values = tuple[str | None, ...]


class Table(dict[Any, int]):
    """Value → row of one field, for every value: an absent or empty one is missing."""

    def __init__(self, texts: Texts, slot: Slot) -> None:
        super().__init__(texts.lookup())
        self[None] = self[""] = slot.missing
        self._oov = slot.oov

    def __missing__(self, value: Any) -> int:
        return self._oov


class Tables:
    """The look-ups of a vocabulary of text fields.

    ``row_type`` is what a row's JSON object is decoded into: its values in the order of the
    graph's columns, whatever order the object has them in.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        slots = vocabulary.layout.slots
        self.row_type = msgspec.defstruct(
            "Row", [(slot.field, str | None, None) for slot in slots], gc=False
        )
        self._tables = []
        for slot in slots:
            texts = vocabulary.slots[slot.name]
            assert isinstance(texts, Texts)
            self._tables.append(Table(texts, slot))

    def encode(self, rows: Sequence[Values]) -> NDArray[np.int32]:
        """Encode N rows of F values into indices [N, F]."""
        tables = self._tables
        found = chain.from_iterable([map(getitem, tables, row) for row in rows])
        count, width = len(rows), len(tables)
        return np.fromiter(found, np.int32, count * width).reshape(count, width)


class Scorer:
    """Rows of raw values → scores, over the files that the environment names."""

    def __init__(self) -> None:
        self._tables = Tables(Bundle.open(Path(os.environ[BUNDLE])).vocabulary)
        self.row_type = self._tables.row_type
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        provider = os.environ.get(PROVIDER, CPU)
        if provider != CPU:
            ort.preload_dlls()
        self._session = ort.InferenceSession(os.environ[GRAPH], options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise SystemExit(f"onnxruntime cannot use {provider} here")
        # Else the collector walks the tables again and again, and requests wait for it.
        gc.collect()
        gc.freeze()

    def score(self, rows: Sequence[Values]) -> NDArray[np.float32]:
        """Return the scores [N] of N rows of F values."""
        scores: NDArray[np.float32]
        (scores,) = self._session.run(["score"], {"index": self._tables.encode(rows)})
        return scores
