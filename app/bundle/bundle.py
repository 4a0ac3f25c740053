"""The exported directory: the only thing that crosses from training to serving."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from app.errors import BundleError, SpecError
from app.features.spec import FeatureSpec
from app.features.vocabulary import Vocabulary

FORMAT_VERSION = 1
READABLE_FORMATS = (1,)
MANIFEST = "manifest.json"
SPEC = "features.toml"
VOCABULARY = "vocabulary"
CURRENT = "CURRENT"
GRAPH = "score.onnx"
INT8_GRAPH = "score.int8.onnx"
EXAMPLES = "examples.jsonl"
Precision = Literal["float32", "int8"]
STEEPEST = 8.0
"""A calibrated score's own logit moves at most so many times as far as the logit."""
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle must hash to, and how many bytes it has."""

    sha256: str
    size: int


class SlotStatistics(msgspec.Struct, frozen=True):
    """How often a slot was missing or OOV in the training part (shares of its rows)."""

    missing: float
    oov: float
    values: int


class Manifest(msgspec.Struct, frozen=True):
    """Description of a bundle; every other file is in ``files``."""

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


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """A golden request: raw rows, the indices they encode to, the trainer's logits.

    ``context_row`` [width] and ``candidate_rows`` [N, width] are the side encoders' rows
    (a scaled field's number by its bits);
    ``int8_logits`` are those of the int8 graph, where there is one. The scores are there where
    the graph calibrates them; elsewhere a score is the sigmoid of its logit.
    """

    context: dict[str, Any]
    candidates: list[dict[str, Any]]
    context_row: list[int]
    candidate_rows: list[list[int]]
    logits: list[float]
    int8_logits: list[float] | None = None
    scores: list[float] | None = None
    int8_scores: list[float] | None = None

    def expected(self, precision: Precision) -> list[float]:
        """The logits of the graph of a precision."""
        return self.logits if precision == "float32" else self.int8_logits or []

    def expected_scores(self, precision: Precision) -> list[float] | None:
        """The scores of the graph of a precision, if it calibrates them."""
        return self.scores if precision == "float32" else self.int8_scores


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle whose files all have the size and the hash that its manifest tells."""

    path: Path
    manifest: Manifest
    spec: FeatureSpec
    vocabulary: Vocabulary
    examples: tuple[Example, ...]

    @property
    def version(self) -> str:
        """Time of creation and start of the id, whatever the directory is called now."""
        return _version(datetime.fromisoformat(self.manifest.created), self.manifest.id)

    @property
    def number(self) -> int:
        """The start of the id as a number that fits a number shared by workers."""
        return number_of(self.version)

    @property
    def graph(self) -> Path:
        """The float32 graph."""
        return self.path / GRAPH

    def graph_in(self, precision: Precision) -> Path:
        """The graph whose matrix products have a precision.

        Raises:
            BundleError: the bundle was made without it.
        """
        if precision == "float32":
            return self.graph
        if INT8_GRAPH not in self.manifest.files:
            raise BundleError(
                f"{self.version} has no {INT8_GRAPH}: train it with --quantize int8, or serve it"
                " in float32"
            )
        return self.path / INT8_GRAPH

    @classmethod
    def open(cls, path: Path, mapped: bool = False) -> Bundle:
        """Read and verify a bundle; ``mapped`` leaves the vocabulary's arrays on disk.

        Raises:
            BundleError: something is absent, altered, or of another format version.
        """
        manifest = read_manifest(path)
        _verify_files(path, manifest)
        if vocabulary_hash(manifest.files) != manifest.vocabulary_hash:
            raise BundleError(f"{path.name}: the vocabulary is not the one of the manifest")
        try:
            spec = FeatureSpec.load(path / SPEC)
        except SpecError as error:
            raise BundleError(f"{path.name}: {error}") from error
        vocabulary = Vocabulary.load(path / VOCABULARY, spec, mapped)
        try:
            decoder = msgspec.json.Decoder(Example)
            examples = tuple(decoder.decode_lines((path / EXAMPLES).read_bytes()))
        except (OSError, msgspec.MsgspecError) as error:
            raise BundleError(f"{path.name}: {EXAMPLES} cannot be read: {error}") from error
        return cls(path, manifest, spec, vocabulary, examples)


def number_of(version: str) -> int:
    """The part of the id that a version's name ends in, as a number below 2⁴⁸."""
    return int(version[-12:], 16)


def newest(path: Path) -> Path:
    """Return the bundle at ``path``, or the one of that directory that is to be used.

    Raises:
        BundleError: there is none.
    """
    return candidates(path)[0]


def candidates(path: Path) -> list[Path]:
    """Return the bundle at ``path``, or those of that directory that might be used, best first.

    That is the one that its file ``CURRENT`` names, if it has one; else the newest comes first.

    Raises:
        BundleError: there is none.
    """
    if _holds_manifest(path):
        return [path]
    if not path.is_dir():
        raise BundleError(f"no bundle at {path}: there is no such directory")
    name = _current(path)
    if name is not None:
        if not _NAME.fullmatch(name) or not _holds_manifest(path / name):
            raise BundleError(f"{path / CURRENT} names {name[:80]!r}, and there is no such bundle")
        return [path / name]
    complete = complete_bundles(path)
    if not complete:
        raise BundleError(f"no bundle at {path}: no {MANIFEST}, and no bundle directory inside")
    readable: list[tuple[str, str, Path]] = []
    problems = []
    for child in complete:
        try:
            readable.append((read_manifest(child).created, child.name, child))
        except BundleError as error:
            problems.append(str(error))
    if not readable:
        raise BundleError(f"no bundle at {path} can be read: {problems[0]}")
    return [child for _, _, child in sorted(readable, reverse=True)]


def complete_bundles(directory: Path) -> list[Path]:
    """Return what looks like a bundle in a directory, in no order.

    Raises:
        BundleError: the directory cannot be read.
    """
    try:
        return [
            child for child in directory.iterdir() if _NAME.fullmatch(child.name)
            and _holds_manifest(child)
        ]  # fmt: skip
    except OSError as error:
        raise BundleError(f"{directory} cannot be read: {error.strerror}") from error


def _holds_manifest(path: Path) -> bool:
    """Whether a directory looks like a bundle; one that nobody may look into says so when read."""
    try:
        return (path / MANIFEST).is_file()
    except PermissionError:
        return _NAME.fullmatch(path.name) is not None


def _current(directory: Path) -> str | None:
    """Return the name in the directory's file ``CURRENT``, if that is there.

    Raises:
        BundleError: it is there and is no file that can be read.
    """
    file = directory / CURRENT
    try:
        return file.read_text(errors="replace").strip()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not file.is_symlink():
            return None
        raise BundleError(
            f"{file} cannot be read, and should be a file with a bundle's name: {error.strerror}"
        ) from error


def read_manifest(path: Path) -> Manifest:
    """Read a bundle's description; whether its files agree with it is not looked at.

    Raises:
        BundleError: there is none, or it is of another format version.
    """
    try:
        raw = (path / MANIFEST).read_bytes()
        head = msgspec.json.decode(raw, type=dict[str, Any])
        if head.get("format_version") not in READABLE_FORMATS:
            raise BundleError(
                f"{path.name}: format version {head.get('format_version')!r} cannot be read, "
                f"only {', '.join(map(str, READABLE_FORMATS))}"
            )
        return msgspec.json.decode(raw, type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"{path.name}: {MANIFEST} cannot be read: {error}") from error


def _verify_files(path: Path, manifest: Manifest) -> None:
    present = {name for name, _ in _files(path)} - {MANIFEST}
    for name in sorted(manifest.files.keys() - present):
        raise BundleError(f"{path.name}: {name} is absent")
    for name in sorted(present - manifest.files.keys()):
        raise BundleError(f"{path.name}: {name} is not in the manifest")
    for name, record in sorted(manifest.files.items()):
        found = _record(path / name)
        if found.size != record.size:
            raise BundleError(
                f"{path.name}: {name} has {found.size} bytes, the manifest says {record.size}"
            )
        if found.sha256 != record.sha256:
            raise BundleError(f"{path.name}: {name} was altered: its sha256 does not agree")
    if bundle_id(manifest.files) != manifest.id:
        raise BundleError(f"{path.name}: the manifest's id is not that of its files")


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    for child in path.rglob("*"):
        if child.is_file():
            yield child.relative_to(path).as_posix(), child


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(digest.hexdigest(), file.tell())


def bundle_id(files: dict[str, FileRecord]) -> str:
    """sha256 over the sorted (path, sha256) pairs of all files but the manifest."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].sha256}\n".encode())
    return digest.hexdigest()


def vocabulary_hash(files: dict[str, FileRecord]) -> str:
    """The id of the vocabulary's files alone: equal vocabularies have equal hashes."""
    return bundle_id(
        {name: record for name, record in files.items() if name.startswith(f"{VOCABULARY}/")}
    )


def write_bundle(
    directory: Path,
    fill: Callable[[Path], None],
    describe: Callable[[Path], dict[str, Any]],
) -> Path:
    """Write a bundle under a temporary name, make it durable, rename it; return its path.

    ``fill`` writes every file but the manifest into the directory it is given; ``describe``
    then gives the manifest's fields that are not derived from the files. If either raises,
    or the process is interrupted, nothing is left that looks like a bundle.

    Raises:
        BundleError: the directory cannot be written to, or is full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".bundle-", dir=directory))
    except OSError as error:
        raise _unwritten(directory, error) from error
    try:
        fill(temporary)
        files = {name: _record(path) for name, path in sorted(_files(temporary))}
        created = datetime.now(UTC)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            id=bundle_id(files),
            created=created.isoformat(timespec="microseconds"),
            vocabulary_hash=vocabulary_hash(files),
            files=files,
            **describe(temporary),
        )
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (temporary / MANIFEST).write_bytes(data + b"\n")
        for _, path in _files(temporary):
            sync(path)
        for folder in (temporary / VOCABULARY, temporary):
            sync(folder)
        temporary.chmod(0o755)
        target = directory / _version(created, manifest.id)
        if target.is_dir():
            # The same content, written within the same second.
            shutil.rmtree(temporary)
            return target
        temporary.rename(target)
        sync(directory)
        return target
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritten(directory, error) from error
        raise


def _unwritten(directory: Path, error: OSError) -> BundleError:
    return BundleError(f"no bundle could be written to {directory}: {error.strerror or error}")


def _version(created: datetime, identity: str) -> str:
    return f"{created:%Y%m%dT%H%M%SZ}-{identity[:12]}"


def sync(path: Path) -> None:
    """Make a file's or a directory's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
