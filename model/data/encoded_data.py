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
from app.features.spec import DataPart, FeatureSpec
from app.features.vocabulary import Vocabulary
from model.array_files import Arrays, DamagedError, read_arrays, write_arrays
from model.cluster.places import Places
from model.data.dataset import Dataset
from model.data.frame_encoding import (
    FrameToEncode,
    arrays_file,
    encode_frame,
    forget_encoder,
    sample_of,
)
from model.data.input_files import SplitRows
from model.data.log_files import Source
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
    entry: Path,
    spec: FeatureSpec,
    vocabulary: Path,
    split_rows: SplitRows,
    directory: Path,
    places: Places,
    progress: bool = False,
) -> None:
    """Encode rows, a frame at a time, and put them together as ``entry``, whole or not at all.

    ``directory`` keeps what is encoded of each frame until then.

    Raises:
        OSError: there is no room for the rows.
    """
    found = [*split_rows.on_disk.places()]
    samples: Sequence[Sequence[int]] = [()] * len(found)
    if "test" in split_rows.parts:
        samples = sample_of(split_rows.part, [rows for rows, _ in found], SAMPLE)
    frames = [
        FrameToEncode(
            number,
            directory,
            spec,
            vocabulary,
            not places.many,
            path,
            where,
            split_rows.part_file,
            split_rows.parts,
            sample,
        )
        for number, ((where, path), sample) in enumerate(zip(found, samples, strict=True))
    ]
    rows: list[dict[str, Any]] = []
    with progress_bar("encoding", len(split_rows.on_disk), "rows", progress) as shown:
        for frame, tested in zip(frames, places.map(encode_frame, frames), strict=True):
            rows += tested
            shown.update(frame.rows.stop - frame.rows.start)
    forget_encoder()
    with write_arrays(entry) as writer:
        for frame in frames:
            with np.load(arrays_file(directory, frame.number), allow_pickle=False) as arrays:
                for name, array in arrays.items():
                    writer.append(name, array)
        (writer.directory / VOCABULARY).mkdir()
        Vocabulary.load(vocabulary, spec, mapped=True).save(writer.directory / VOCABULARY)
        (writer.directory / ROWS).write_bytes(msgspec.json.Encoder().encode_lines(rows))
        writer.description = {
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
