"""A bundle: the exported directory, the only thing that crosses from training to serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.bundle.manifest import (
    EXAMPLES,
    EXPLAIN_GRAPH,
    GRAPH,
    INT8_GRAPH,
    SPEC,
    SPLIT_GRAPHS,
    VOCABULARY,
    Manifest,
    Precision,
    read_manifest,
    vocabulary_hash,
)
from app.bundle.verification import verify_files
from app.bundle.verified_files import VerifiedFiles
from app.errors import BundleError, SpecError
from app.features.spec import FeatureSpec
from app.features.vocabulary import Vocabulary


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """A golden request: features as callers send them, their indices, the trainer's logits.

    ``context_row`` [width] and ``candidate_rows`` [N, width] are rows as the side encoders give
    them (a scaled field's number by its bits). ``int8_logits`` are those of the int8 graph, where
    the bundle has one. Scores are listed where the graph calibrates them; elsewhere a score is
    the sigmoid of its logit.
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
        """Return the logits of the graph of a precision."""
        return self.logits if precision == "float32" else self.int8_logits or []

    def expected_scores(self, precision: Precision) -> list[float] | None:
        """Return the scores of the graph of a precision, if it calibrates them."""
        return self.scores if precision == "float32" else self.int8_scores


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle, every file of which has the size and hash that its manifest gives."""

    path: Path
    manifest: Manifest
    spec: FeatureSpec
    vocabulary: Vocabulary
    examples: tuple[Example, ...]

    @property
    def version(self) -> str:
        """Time of creation and start of the id, even where the directory was renamed."""
        return self.manifest.version

    @property
    def number(self) -> int:
        """The start of the id as a number below 2⁴⁸, which workers can share."""
        return number_of(self.version)

    @property
    def steepest(self) -> float:
        """The largest slope of the calibration: a calibrated score's logit over the logit."""
        calibration = self.manifest.training.get("calibration")
        return max(calibration["slopes"]) if calibration else 1.0

    @property
    def graph(self) -> Path:
        """The float32 graph."""
        return self.path / GRAPH

    @property
    def lacks(self) -> list[str]:
        """The members of today's format that this bundle does not have."""
        present = {
            "mean_rows": all(slot.mean is not None for slot in self.vocabulary.layout.slots),
            "slot_histograms": all(
                each.histogram is not None for each in self.manifest.statistics.values()
            ),
            "score_histogram": self.manifest.scores is not None,
            "item_parts": self.manifest.parts is not None,
            "explainable": self.manifest.explainable is not None,
        }
        return [name for name, there in present.items() if not there]

    def graph_in(self, precision: Precision) -> Path:
        """Return the graph whose matrix products have a precision.

        Raises:
            BundleError: the bundle was exported without it.
        """
        if precision == "float32":
            return self.graph
        if INT8_GRAPH not in self.manifest.files:
            raise BundleError(
                f"{self.version} has no {INT8_GRAPH}: train it with --quantize int8, or serve it"
                " in float32"
            )
        return self.path / INT8_GRAPH

    def split_graphs_in(self, precision: Precision) -> tuple[Path, Path] | None:
        """Return the graphs of the item part and of the rest; None in bundles without them."""
        if self.manifest.parts is None:
            return None
        candidate, combine = SPLIT_GRAPHS[precision]
        return self.path / candidate, self.path / combine

    @property
    def explain_graph(self) -> Path | None:
        """The graph of the logit's terms, if the bundle has one."""
        return self.path / EXPLAIN_GRAPH if EXPLAIN_GRAPH in self.manifest.files else None

    @classmethod
    def open(
        cls, path: Path, mapped: bool = False, verified: VerifiedFiles | None = None
    ) -> Bundle:
        """Read and verify a bundle; ``mapped`` leaves the vocabulary's arrays on disk.

        Large files that are ``verified`` already are not read again.

        Raises:
            BundleError: a file is absent, altered, unreadable, or of another format version.
        """
        try:
            return cls._open(path, mapped, verified or VerifiedFiles())
        except OSError as error:
            name = Path(str(error.filename or "a file"))
            shown = name.relative_to(path) if name.is_relative_to(path) else name
            raise BundleError(f"{path.name}: {shown} cannot be read: {error.strerror}") from error

    @classmethod
    def _open(cls, path: Path, mapped: bool, verified: VerifiedFiles) -> Bundle:
        manifest = read_manifest(path)
        verify_files(path, manifest, verified)
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
    """Return the start of the id, in which a version ends, as a number below 2⁴⁸."""
    return int(version[-12:], 16)
