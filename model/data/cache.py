"""Encoded data on disk, used again while the files, the spec and this program are the same.

An entry lies under the hash of all that decides it, is written whole or not at all and verified
when it is read, so it can be out of date or damaged without being used. Its arrays stay on disk:
what training looks at is paged in, and out again where memory is short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import polars as pl

from app.errors import BundleError
from app.features import canonical, encoder, field_encoders, layout, row_compiler, spec, vocabulary
from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from app.features.vocabulary import Vocabulary
from model.arrays import Arrays, DamagedError, read_arrays, write_arrays
from model.data import dataset, files, inputs, spill, split
from model.data import encode as encoding
from model.data import vocabulary as learning
from model.data.dataset import Dataset
from model.data.encode import encode
from model.data.files import Source
from model.data.inputs import Raw
from model.data.reader import raw_rows
from model.data.split import PARTS, Part
from model.progress import bar

DECIDING: Sequence[ModuleType] = (
    canonical, encoder, field_encoders, layout, row_compiler, spec, vocabulary,
    dataset, encoding, files, inputs, spill, split, learning,
)  # fmt: skip
"""Whose code decides what raw values become."""
VOCABULARY, ROWS = "vocabulary", "test.jsonl"
SAMPLE = 1024
"""Raw rows of the test part that are kept."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What files have become: the rows of each part, and some of the test part as they were."""

    vocabulary: Vocabulary
    data: Mapping[Part, Dataset]
    sources: Mapping[Part, Sequence[Source]]
    warnings: Sequence[str]
    test_rows: Sequence[Mapping[str, Any]]
    """What a caller would send for some rows of the test part; none if that was not wanted."""


def program() -> str:
    """Return a hash of the code that reads and encodes, and of what it reads with."""
    digest = hashlib.sha256(pl.__version__.encode())
    for module in DECIDING:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def write_encoded(
    directory: Path, spec: FeatureSpec, vocabulary: Vocabulary, raw: Raw, progress: bool = False
) -> None:
    """Encode raw rows, a frame at a time, into a directory of their own."""
    encoder = Encoder(spec, vocabulary)
    counts = np.bincount(raw.part, minlength=len(PARTS))
    tests = int(counts[PARTS.index("test")]) if "test" in raw.parts else 0
    # Evenly over the part, which may be in the order of time.
    sample = np.linspace(0, tests, min(SAMPLE, tests), endpoint=False).astype(np.int64)
    rows: list[dict[str, Any]] = []
    tested = 0
    with (
        write_arrays(directory) as entry,
        bar("encoding", len(raw.spill), "row", progress) as shown,
    ):
        for where, frame in raw.spill.frames():
            data = encode(spec, encoder, frame)
            for part in raw.parts:
                chosen = np.flatnonzero(raw.part[where] == PARTS.index(part))
                for name, array in _columns(data.take(chosen)).items():
                    entry.append(f"{part}.{name}", array)
                if part == "test":
                    wanted = sample[(sample >= tested) & (sample < tested + len(chosen))] - tested
                    rows += raw_rows(spec, frame[chosen[wanted].tolist()])
                    tested += len(chosen)
            shown.update(frame.height)
        (entry.directory / VOCABULARY).mkdir()
        vocabulary.save(entry.directory / VOCABULARY)
        (entry.directory / ROWS).write_bytes(msgspec.json.Encoder().encode_lines(rows))
        entry.description = {
            "kept": {part: spec.kept(part) for part in raw.parts},
            "sources": {
                part: [asdict(source) for source in sources]
                for part, sources in raw.sources.items()
            },
            "warnings": list(raw.warnings),
        }


def read_encoded(directory: Path, spec: FeatureSpec) -> Encoded:
    """Return what :func:`write_encoded` has kept; its files may be removed then.

    Raises:
        DamagedError: it is not there, or not whole.
    """
    described, arrays = read_arrays(directory, mapped=True)
    try:
        vocabulary = Vocabulary.load(directory / VOCABULARY, spec)
    except BundleError as error:
        raise DamagedError(str(error)) from error
    sources: dict[Part, Sequence[Source]] = {
        part: tuple(Source(**source) for source in found)
        for part, found in described["sources"].items()
    }
    data = {part: _dataset(part, arrays, described["kept"][part]) for part in sources}
    rows = msgspec.json.Decoder().decode_lines((directory / ROWS).read_bytes())
    return Encoded(vocabulary, data, sources, described["warnings"], rows)


def _columns(data: Dataset) -> Arrays:
    arrays: Arrays = {"context": data.context, "candidate": data.candidate, "label": data.label}
    for name, lists in (("contexts", data.context_lists), ("candidates", data.candidate_lists)):
        arrays |= {f"{name}.{number}": column for number, column in enumerate(lists)}
    if data.context_value is not None:
        arrays["context_value"] = data.context_value
    if data.candidate_value is not None:
        arrays["candidate_value"] = data.candidate_value
    return arrays


def _dataset(part: Part, arrays: Arrays, kept: float) -> Dataset:
    def lists(name: str) -> Arrays:
        return {key: array for key, array in arrays.items() if key.startswith(f"{part}.{name}.")}

    contexts, candidates = lists("contexts"), lists("candidates")
    return Dataset(
        arrays[f"{part}.context"],
        arrays[f"{part}.candidate"],
        tuple(contexts[f"{part}.contexts.{number}"] for number in range(len(contexts))),
        tuple(candidates[f"{part}.candidates.{number}"] for number in range(len(candidates))),
        arrays[f"{part}.label"],
        arrays.get(f"{part}.context_value"),
        arrays.get(f"{part}.candidate_value"),
        kept,
    )
