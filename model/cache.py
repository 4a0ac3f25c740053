"""Encoded data on disk, used again while the files, the spec and this program are the same.

An entry lies under the hash of all that decides it, is written whole or not at all and verified
when it is read, so it can be out of date or damaged without being used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import polars as pl

import app.canonical
import app.encoder
import app.layout
import app.spec
import app.vocabulary
import model.data
import model.dataset
import model.encode
import model.vocab
from app.errors import BundleError
from app.spec import FeatureSpec
from app.vocabulary import Vocabulary
from model.arrays import Arrays, DamagedError, read_arrays, write_arrays
from model.data import BadLines, Part, Source, Table
from model.dataset import Dataset

DECIDING: Sequence[ModuleType] = (
    app.canonical, app.encoder, app.layout, app.spec, app.vocabulary,
    model.data, model.dataset, model.encode, model.vocab,
)  # fmt: skip
"""Whose code decides what raw values become."""
VOCABULARY, ROWS = "vocabulary", "test.parquet"


@dataclass(frozen=True, slots=True)
class Encoded:
    """What files have become: ``tables`` has the test part's raw rows at least."""

    vocabulary: Vocabulary
    data: Mapping[Part, Dataset]
    tables: Mapping[Part, Table]
    sources: Mapping[Part, Sequence[Source]]
    warnings: Sequence[str]


def program() -> str:
    """Return a hash of the code that reads and encodes, and of what it reads with."""
    digest = hashlib.sha256(pl.__version__.encode())
    for module in DECIDING:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def write_encoded(directory: Path, encoded: Encoded) -> None:
    """Keep encoded data under a directory of its own."""
    arrays: Arrays = {}
    for part, data in encoded.data.items():
        arrays |= {f"{part}.{name}": array for name, array in _columns(data).items()}

    def fill(partial: Path) -> None:
        (partial / VOCABULARY).mkdir()
        encoded.vocabulary.save(partial / VOCABULARY)
        if "test" in encoded.tables:
            encoded.tables["test"].frame.write_parquet(partial / ROWS)

    described = {
        "kept": {part: data.kept for part, data in encoded.data.items()},
        "sources": {
            part: [asdict(source) for source in sources]
            for part, sources in encoded.sources.items()
        },
        "warnings": list(encoded.warnings),
    }
    write_arrays(directory, described, arrays, fill)


def read_encoded(directory: Path, spec: FeatureSpec) -> Encoded:
    """Return what :func:`write_encoded` has kept.

    Raises:
        DamagedError: it is not there, or not whole.
    """
    described, arrays = read_arrays(directory)
    try:
        vocabulary = Vocabulary.load(directory / VOCABULARY, spec)
    except BundleError as error:
        raise DamagedError(str(error)) from error
    sources: dict[Part, Sequence[Source]] = {
        part: tuple(Source(**source) for source in found)
        for part, found in described["sources"].items()
    }
    tables: dict[Part, Table] = {}
    if (directory / ROWS).is_file():
        frame = pl.read_parquet(directory / ROWS)
        tables["test"] = Table(frame, tuple(sources["test"]), BadLines())
    data = {part: _dataset(part, arrays, described["kept"][part]) for part in sources}
    return Encoded(vocabulary, data, tables, sources, described["warnings"])


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
