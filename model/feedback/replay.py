"""``replay``: logged requests, encoded and scored again offline, beside what was served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from app.bundle.manifest import Precision
from app.errors import CtrError, ValueProblem
from app.features.arrays import Indices
from app.features.encoder import Encoder, SideEncoder
from app.features.graph_inputs import Batch
from app.feedback.log_format import LoggedCandidate, LoggedRequest, unpacked
from app.scoring.engine import Engine
from model.feedback.reading import Logs
from model.quality.offline_scoring import ROWS_PER_RUN, open_engine
from model.score_files import Offline

MOST_EXAMPLES = 5
"""Rows that a report names: those that differ most."""


class SkewFound(CtrError):
    """Rows were served other scores, or other values, than they have offline."""

    exit_code = 3


class Example(NamedTuple):
    """A row that differs; ``fields`` are those whose encoded value is another one."""

    difference: float
    request_id: str
    place: str
    served: float
    offline: float
    fields: tuple[str, ...]


@dataclass
class Group:
    """Rows that are compared together."""

    rows: int = 0
    largest: float = 0.0
    """The largest difference of a logit."""
    beyond: int = 0
    """Rows beyond the tolerance."""
    unexplained: int = 0
    """Those of them whose encoded values are the same: the graph, or its precision, differs."""
    fields: Counter[str] = field(default_factory=Counter)
    """Rows by the field whose encoded value is another one."""
    examples: list[Example] = field(default_factory=list)

    def add(self, example: Example, tolerance: float, comparable: bool) -> None:
        """Count a row; ``comparable`` are those whose encoded values were compared."""
        self.rows += 1
        self.largest = max(self.largest, example.difference)
        self.fields.update(example.fields)
        beyond = example.difference > tolerance
        self.beyond += beyond
        self.unexplained += beyond and comparable and not example.fields
        if beyond or example.fields:
            keep = heappush if len(self.examples) < MOST_EXAMPLES else heappushpop
            keep(self.examples, example)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a report, the examples by falling difference."""
        return {
            "rows": self.rows,
            "largest_difference": self.largest,
            "beyond_tolerance": self.beyond,
            "same_values_beyond_tolerance": self.unexplained,
            "fields": dict(self.fields.most_common()),
            "examples": [each._asdict() for each in sorted(self.examples, reverse=True)],
        }


@dataclass
class Report:
    """The outcome: rows of the bundle, those of degraded requests, those of other versions."""

    version: str
    tolerance: float
    requests: int = 0
    own: Group = field(default_factory=Group)
    degraded: Group = field(default_factory=Group)
    others: dict[str, Group] = field(default_factory=dict)
    without_values: int = 0
    """Candidates whose item changed before they were logged."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Rows by the field whose logged value the bundle refuses."""
    cut_short: int = 0

    @property
    def skewed(self) -> bool:
        """True if rows that were served whole, by this bundle, are not as they are offline."""
        return bool(self.own.beyond or self.own.fields or self.unreadable)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "version": self.version,
            "tolerance": self.tolerance,
            "requests": self.requests,
            "served": self.own.to_dict(),
            "degraded": self.degraded.to_dict(),
            "other_versions": {name: each.to_dict() for name, each in self.others.items()},
            "without_values": self.without_values,
            "unreadable": dict(self.unreadable),
            "cut_short": self.cut_short,
        }

    def lines(self) -> Iterator[str]:
        """Yield it as people read it."""
        yield f"{self.requests:,} requests, compared with {self.version} within {self.tolerance:g}"
        yield f"served: {_told(self.own)}"
        if self.degraded.rows:
            yield f"served degraded: {_told(self.degraded)}"
        for version, group in self.others.items():
            yield f"served by {version}: {_told(group)}"
        for name, rows in self.unreadable.most_common():
            yield f"the bundle refuses logged values of {name}: {rows:,} rows"
        for each in sorted(self.own.examples, reverse=True):
            fields = f"; {', '.join(each.fields)}" if each.fields else ""
            yield (
                f"  {each.request_id}, {each.place}: logit {each.served:.6g} served,"
                f" {each.offline:.6g} offline{fields}"
            )
        if self.without_values:
            yield f"{self.without_values:,} candidates have no values: their items had changed"
        if self.cut_short:
            yield f"{self.cut_short} files are cut short or damaged"


def _told(group: Group) -> str:
    if not group.rows:
        return "no rows"
    told = (
        f"{group.rows:,} rows, logits differ by at most {group.largest:.2g}, {group.beyond:,} rows"
        " beyond the tolerance"
    )
    if group.unexplained:
        told += f" ({group.unexplained:,} with the same encoded values)"
    if group.fields:
        named = ", ".join(f"{name} ({rows:,})" for name, rows in group.fields.most_common())
        told += f"; fields whose encoded values differ: {named}"
    return told


class _Row(NamedTuple):
    request: LoggedRequest
    candidate: LoggedCandidate
    context: bytes
    words: bytes
    fields: tuple[str, ...]


def replay(
    directories: Sequence[Path],
    bundle: Path,
    tolerance: float | None = None,
    precision: Precision = "float32",
) -> Report:
    """Compare every logged row; only some thousand are in memory at a time.

    ``tolerance`` is the one of a logit, by default the engine's.

    Raises:
        CtrError: the bundle or the directories cannot be used.
    """
    logs = Logs(directories)
    offline = Offline.open(bundle)
    engine: Engine = offline.engine
    if precision != "float32":
        layout = offline.bundle.vocabulary.layout
        graph = offline.bundle.graph_in(precision)
        engine = open_engine(graph, offline.encoder, layout, precision)
    version = offline.bundle.version
    report = Report(version, engine.tolerance if tolerance is None else tolerance)
    rows = _rows(logs, offline.encoder, report)
    while part := list(islice(rows, ROWS_PER_RUN)):
        _compare(part, engine, report)
    report.cut_short = logs.cut_short
    return report


def _rows(logs: Logs, encoder: Encoder, report: Report) -> Iterator[_Row]:
    """Yield the rows of all requests, encoded again."""
    for line in logs.requests():
        if not isinstance(line, LoggedRequest):
            continue
        report.requests += 1
        own = line.version == report.version
        for candidate in line.candidates:
            if candidate.features is None:
                report.without_values += 1
                continue
            values = {**line.context, **candidate.features}
            try:
                context = encoder.context.row(values)
                words = encoder.candidate.row(values)
            except ValueProblem:
                report.unreadable.update(_refused(encoder, values))
                continue
            fields: tuple[str, ...] = ()
            if own:
                served = line.contexts[candidate.context], candidate.encoded
                fields = (
                    *_different(encoder.context, served[0], context),
                    *_different(encoder.candidate, served[1], words),
                )
            yield _Row(line, candidate, context, words, fields)


def _refused(encoder: Encoder, values: Mapping[str, Any]) -> Iterator[str]:
    for side in (encoder.context, encoder.candidate):
        for name, _ in side.problems(values):
            yield name


def _different(side: SideEncoder, served: str, packed: bytes) -> Iterator[str]:
    """Yield the fields of a side whose words are other ones than were served."""
    if (before := unpacked(served)).tobytes() == packed:
        return
    now = np.frombuffer(packed, np.int32)
    for encoder, places in zip(side.encoders, side.places, strict=True):
        if len(before) != len(now) or (before[places] != now[places]).any():
            yield encoder.name


def _compare(rows: Sequence[_Row], engine: Engine, report: Report) -> None:
    """Score rows and count them by their group."""
    scores = engine.score(
        Batch(
            _array([each.context for each in rows]),
            _array([each.words for each in rows]),
            np.arange(len(rows), dtype=np.int32),
        )
    )
    for row, logit in zip(rows, scores.logit.tolist(), strict=True):
        request, candidate = row.request, row.candidate
        group = report.own
        if request.version != report.version:
            group = report.others.setdefault(request.version, Group())
        elif request.degraded:
            group = report.degraded
        example = Example(
            abs(logit - candidate.logit),
            request.request_id,
            f"index {candidate.index}" if candidate.id is None else f"id {candidate.id}",
            candidate.logit,
            logit,
            row.fields,
        )
        group.add(example, report.tolerance, request.version == report.version)


def _array(packed: Sequence[bytes]) -> Indices:
    return np.frombuffer(b"".join(packed), np.int32).reshape(len(packed), -1)
