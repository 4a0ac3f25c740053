"""The manifest: a bundle's description, with the name, size and hash of every other file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from app.errors import BundleError
from app.files import sha256

FORMAT_VERSION = 2
READABLE_FORMATS = (1, 2)
MANIFEST = "manifest.json"
SPEC = "features.toml"
VOCABULARY = "vocabulary"
GRAPH = "score.onnx"
INT8_GRAPH = "score.int8.onnx"
Precision = Literal["float32", "int8"]
SPLIT_GRAPHS: Mapping[Precision, tuple[str, str]] = {
    "float32": ("candidate.onnx", "combine.onnx"),
    "int8": ("candidate.int8.onnx", "combine.int8.onnx"),
}
"""The graph of the item part, and the one that takes it: together they give what the whole does."""
EXPLAIN_GRAPH = "explain.onnx"
"""The graph of the terms of a logit, of networks that have some."""
WEIGHTS = "weights.bin"
"""Weights of all graphs, where they are too many for the graphs' own files; engines map it."""
EXAMPLES = "examples.jsonl"


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file's SHA-256 and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Return the record of a file as it is on disk."""
        return cls(sha256(path), path.stat().st_size)


class SlotHistogram(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts of the indices of a slot in the training part; a list has several in a row.

    The values are those of ``buckets``, in their order, for a number that has buckets; for others
    the most ``frequent`` indices with their ``counts``, in falling order, and the ``rest``.
    """

    missing: int
    oov: int
    buckets: tuple[int, ...] | None = None
    frequent: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None
    rest: int = 0


class ScoreHistogram(msgspec.Struct, frozen=True):
    """Counts of the validation part's scores: bin b holds edges[b-1] <= score < edges[b]."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class SlotStatistics(msgspec.Struct, frozen=True):
    """Shares of the training part's rows in which a slot was missing or OOV; its table rows.

    The mean is not among the ``values``. Bundles of format 1 have no histogram.
    """

    missing: float
    oov: float
    values: int
    histogram: SlotHistogram | None = None


class ItemParts(msgspec.Struct, frozen=True):
    """The item part: what a graph computes from a candidate alone.

    ``widths`` are the numbers an item has in each array. ``combine.onnx`` takes these instead of
    the candidate's inputs but those that it ``takes`` besides. ``context`` is the width of what it
    computes from a context alone. ``first_cut`` is the length of the vectors of the first cut;
    None for networks without one.
    """

    widths: tuple[int, ...]
    context: int
    takes: tuple[str, ...] = ()
    first_cut: int | None = None


class Explainable(msgspec.Struct, frozen=True):
    """The terms that a network's logit is a sum of, as ``explain.onnx`` gives them.

    ``first_order`` is one of each slot, ``pairs`` one of each pair of slots, ``crosses`` are the
    pairs of slots where only some have one; ``deep`` says that hidden layers give the rest.
    """

    first_order: bool
    pairs: bool
    crosses: tuple[tuple[str, str], ...] = ()
    deep: bool = False


class Manifest(msgspec.Struct, frozen=True):
    """Description of a bundle; every other file is in ``files``, by its path in the bundle."""

    format_version: int
    id: str
    created: str
    network: str
    vocabulary_hash: str
    metrics: dict[str, Any]
    training: dict[str, Any]
    data: list[dict[str, Any]]
    statistics: dict[str, SlotStatistics]
    files: dict[str, FileRecord]
    scores: ScoreHistogram | None = None
    """Scores of the validation part; absent in format 1."""
    parts: ItemParts | None = None
    """The item part; absent where the bundle has no graphs for it."""
    explainable: Explainable | None = None
    """The terms of the logit; absent in bundles of earlier releases."""

    @property
    def version(self) -> str:
        """The bundle's name: its UTC time of creation and the start of its id."""
        return f"{datetime.fromisoformat(self.created):%Y%m%dT%H%M%SZ}-{self.id[:12]}"


_decoder = msgspec.json.Decoder(Manifest)
_object_decoder = msgspec.json.Decoder(dict[str, Any])


def read_manifest(bundle: Path) -> Manifest:
    """Read a bundle's description, without comparing the files with it.

    Raises:
        BundleError: the manifest is absent, damaged, or of another format version.
    """
    try:
        content = (bundle / MANIFEST).read_bytes()
        version = _object_decoder.decode(content).get("format_version")
        if version not in READABLE_FORMATS:
            raise BundleError(
                f"{bundle.name}: format version {version!r} cannot be read, "
                f"only {', '.join(map(str, READABLE_FORMATS))}"
            )
        return _decoder.decode(content)
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"{bundle.name}: {MANIFEST} cannot be read: {error}") from error


def described_files(bundle: Path) -> Iterator[tuple[str, Path]]:
    """Yield every file of a bundle but the manifest, with its path in the bundle."""
    for path in sorted(bundle.rglob("*")):
        name = path.relative_to(bundle).as_posix()
        if path.is_file() and name != MANIFEST:
            yield name, path


def bundle_id(files: Mapping[str, FileRecord]) -> str:
    """Return the SHA-256 over the sorted (path, SHA-256) pairs of files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].sha256}\n".encode())
    return digest.hexdigest()


def vocabulary_hash(files: Mapping[str, FileRecord]) -> str:
    """Return the id of the vocabulary's files alone: equal vocabularies have equal hashes."""
    return bundle_id(
        {name: record for name, record in files.items() if name.startswith(f"{VOCABULARY}/")}
    )
