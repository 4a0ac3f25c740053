"""Encoded data on disk, used again while the files, the spec and the code are the same.

An entry lies under a fingerprint of all that decides it, is written whole or not at all, and is
verified when it is read, so neither stale nor damaged data are used. Its arrays stay on disk: the
pages that training reads are loaded, and dropped again where memory is short.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

import app.features
import model.data
from app.errors import BundleError
from app.features.encoder import Encoder
from app.features.spec import DataPart, FeatureSpec
from app.features.vocabulary import Vocabulary
from model.array_files import Arrays, DamagedError, read_arrays, write_arrays
from model.data.dataset import Dataset
from model.data.encode import encode
from model.data.input_files import SplitRows
from model.data.log_files import Source
from model.data.split import PARTS
from model.data.values import json_rows
from model.progress import progress_bar

DECIDING = tuple(Path(path) for package in (app.features, model.data) for path in package.__path__)
"""Folders whose code decides which indices the cells of a file become."""
VOCABULARY, ROWS = "vocabulary", "test.jsonl"
SAMPLE = 1024
"""Rows of the test part that are kept as JSON."""


@dataclass(frozen=True, slots=True)
class EncodedData:
    """The encoded rows of each part, and a sample of the test part as JSON."""

    vocabulary: Vocabulary
    data: Mapping[DataPart, Dataset]
    sources: Mapping[DataPart, Sequence[Source]]
    warnings: Sequence[str]
    test_rows: Sequence[Mapping[str, Any]]
    """Rows of the test part as a caller would send them; empty if that part was not read."""


def code_hash(folders: Sequence[Path] = DECIDING) -> str:
    """Return the SHA-256 of every module of some folders, and of polars' version."""
    digest = hashlib.sha256(pl.__version__.encode())
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"\0{path.relative_to(folder)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def write_encoded(
    directory: Path,
    spec: FeatureSpec,
    vocabulary: Vocabulary,
    split_rows: SplitRows,
    progress: bool = False,
) -> None:
    """Encode rows, a frame at a time, into a directory of their own."""
    encoder = Encoder(spec, vocabulary, training=True)
    counts = np.bincount(split_rows.part, minlength=len(PARTS))
    tests = int(counts[PARTS.index("test")]) if "test" in split_rows.parts else 0
    # Evenly over the part, which may be in the order of time.
    sample = np.linspace(0, tests, min(SAMPLE, tests), endpoint=False).astype(np.int64)
    rows: list[dict[str, Any]] = []
    tested = 0
    with (
        write_arrays(directory) as entry,
        progress_bar("encoding", len(split_rows.on_disk), "rows", progress) as shown,
    ):
        for where, frame in split_rows.on_disk.frames():
            data = encode(spec, encoder, frame)
            for part in split_rows.parts:
                chosen = np.flatnonzero(split_rows.part[where] == PARTS.index(part))
                for name, array in _columns(data.take(chosen)).items():
                    entry.append(f"{part}.{name}", array)
                if part == "test":
                    wanted = sample[(sample >= tested) & (sample < tested + len(chosen))] - tested
                    rows += json_rows(spec, frame[chosen[wanted].tolist()])
                    tested += len(chosen)
            shown.update(frame.height)
        (entry.directory / VOCABULARY).mkdir()
        vocabulary.save(entry.directory / VOCABULARY)
        (entry.directory / ROWS).write_bytes(msgspec.json.Encoder().encode_lines(rows))
        entry.description = {
            "kept": {part: spec.kept(part) for part in split_rows.parts},
            "sources": {
                part: [asdict(source) for source in sources]
                for part, sources in split_rows.sources.items()
            },
            "warnings": list(split_rows.warnings),
        }


def read_encoded(directory: Path, spec: FeatureSpec) -> EncodedData:
    """Return what :func:`write_encoded` has kept; its files may be removed then.

    Raises:
        DamagedError: it is not there, or not whole.
    """
    described, arrays = read_arrays(directory, mapped=True)
    try:
        vocabulary = Vocabulary.load(directory / VOCABULARY, spec)
    except BundleError as error:
        raise DamagedError(str(error)) from error
    sources: dict[DataPart, Sequence[Source]] = {
        part: tuple(Source(**source) for source in found)
        for part, found in described["sources"].items()
    }
    data = {part: _dataset(part, arrays, described["kept"][part]) for part in sources}
    rows = msgspec.json.Decoder().decode_lines((directory / ROWS).read_bytes())
    return EncodedData(vocabulary, data, sources, described["warnings"], rows)


def _columns(data: Dataset) -> Arrays:
    arrays: Arrays = {"context": data.context, "candidate": data.candidate, "label": data.label}
    for name, lists in (("contexts", data.context_lists), ("candidates", data.candidate_lists)):
        arrays |= {f"{name}.{number}": column for number, column in enumerate(lists)}
    if data.context_value is not None:
        arrays["context_value"] = data.context_value
    if data.candidate_value is not None:
        arrays["candidate_value"] = data.candidate_value
    if data.weight is not None:
        arrays["weight"] = data.weight
    return arrays


def _dataset(part: DataPart, arrays: Arrays, kept: float) -> Dataset:
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
        arrays.get(f"{part}.weight"),
    )
