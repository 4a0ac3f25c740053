"""``join``: logged candidates and what became of them → rows to train on.

Requests and events are first cut into parts by the hash of the request's id, on the disk; then each
part is joined in memory. So both may be larger than memory, and may come in any order.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import polars as pl

from app.errors import CtrError
from app.feedback.event_format import LoggedEvent, decode_event, encode_event
from app.feedback.log_format import (
    LoggedBundle,
    LoggedCandidate,
    LoggedRequest,
    decode_line,
    encode_line,
)
from app.files import partial_directory
from model.feedback.columns import ColumnKinds, column
from model.feedback.reading import FeedbackDataError, Logs
from model.score_table import ScoreTable, score_table

PART_BYTES, MOST_PARTS = 16 * 2**20, 256
"""Bytes of events of a part, about, and most parts."""
CHUNK_ROWS = 20_000
"""Rows that become a part of the table at once."""
SERVED = {
    "served_request_id": pl.String(),
    "served_time": pl.Float64(),
    "served_version": pl.String(),
    "served_place": pl.Int64(),
    "served_score": pl.Float64(),
}
"""Columns beside those of the values: what was served. Places count from 1; /predict has none."""


class JoinError(CtrError):
    """Logs that do not go together."""


@dataclass
class JoinCounts:
    """Numbers of requests, candidates and events, by their fate."""

    requests: int = 0
    repeated: int = 0
    """Requests whose id another one of the same bundle had before: they are left out."""
    rows: int = 0
    clicks: int = 0
    not_shown: int = 0
    open: int = 0
    """Candidates without a click whose window has not passed."""
    without_values: int = 0
    """Candidates whose item changed before they were logged."""
    events: int = 0
    late: int = 0
    """Clicks after the window."""
    orphaned: int = 0
    """Events of requests that are not in the log."""
    unmatched: int = 0
    """Events of requests in the log that name no logged candidate."""
    cut_short: int = 0
    """Files that end in the middle of a line."""
    unusable: Sequence[str] = ()
    """Fields that no column can hold: of objects, or of lists and other values."""

    def lines(self) -> Iterator[str]:
        """Yield them as people read them."""
        share = f" ({self.clicks / self.rows:.2%})" if self.rows else ""
        yield f"{self.rows:,} rows, {self.clicks:,} clicks{share}, from {self.requests:,} requests"
        yield (
            f"left out: {self.open:,} candidates whose window has not passed, {self.not_shown:,}"
            f" that were not shown, {self.without_values:,} whose item had changed,"
            f" {self.repeated:,} requests whose id had come before"
        )
        yield (
            f"{self.events:,} events: {self.late:,} clicks came late, {self.orphaned:,} are of"
            f" requests that are not in the log, {self.unmatched:,} of candidates that are not"
        )
        if self.cut_short:
            yield f"{self.cut_short} files are cut short or damaged"

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON holds them."""
        return asdict(self)


class Names(NamedTuple):
    """The columns that training needs besides the fields."""

    label: str
    timestamp: str | None


def join(
    directories: Sequence[Path], out: Path, window: float, now: float, shown: int | None = None
) -> JoinCounts:
    """Write the rows of all requests in the directories.

    Args:
        window: seconds after a request in which a click counts.
        now: the moment up to which events are there, in seconds since 1970.
        shown: where the log has no ``shown`` events, the candidates of a ranking that count as
            seen; None stands for all.

    Raises:
        FeedbackDataError, JoinError: the logs cannot be used.
        ResultError: the rows cannot be written.
    """
    logs = Logs(directories)
    counts = JoinCounts()
    with score_table(out) as table, partial_directory(out.parent) as scratch:
        parts = _Parts(scratch, logs)
        parts.fill(counts)
        _Join(parts, table, window, now, shown, counts).run()
        counts.unusable = parts.kinds.unusable
    counts.cut_short = logs.cut_short
    return counts


class _Parts:
    """Requests and events on the disk, cut by the hash of the request's id."""

    def __init__(self, directory: Path, logs: Logs) -> None:
        self._directory, self._logs = directory, logs
        size = sum(path.stat().st_size for path in logs.event_files if path.exists())
        self.count = min(MOST_PARTS, 1 + size // PART_BYTES)
        self.kinds = ColumnKinds()
        self.has_shown = False
        self._names: dict[Names, str] = {}

    @property
    def names(self) -> Names:
        """The names of the columns, the same of all bundles.

        Raises:
            JoinError: they are not.
        """
        if len(self._names) > 1:
            told = "; ".join(f"{v}: {n.label}, {n.timestamp}" for n, v in self._names.items())
            raise JoinError(f"bundles with other labels or timestamps are joined apart: {told}")
        if not self._names:
            raise FeedbackDataError("the log holds no request")
        return next(iter(self._names))

    def fill(self, counts: JoinCounts) -> None:
        """Read the logs; note the types of all values."""
        with ExitStack() as stack:
            requests, events = (
                [
                    stack.enter_context(gzip.open(self._path(kind, number), "wb", 1))
                    for number in range(self.count)
                ]
                for kind in ("requests", "events")
            )
            for line in self._logs.requests():
                if isinstance(line, LoggedBundle):
                    self._names[Names(line.label, line.timestamp)] = line.version
                    continue
                self.kinds.see(line.context)
                for candidate in line.candidates:
                    self.kinds.see(candidate.features or {})
                requests[self._part(line.request_id)].write(encode_line(line) + b"\n")
            for event in self._logs.events():
                counts.events += 1
                self.has_shown |= event.event.shown
                part = self._part(event.event.request_id)
                events[part].write(encode_event(event) + b"\n")

    def requests(self, number: int) -> Iterator[LoggedRequest]:
        """Yield the requests of a part."""
        with gzip.open(self._path("requests", number)) as file:
            for line in file:
                found = decode_line(line)
                assert isinstance(found, LoggedRequest)
                yield found

    def events(self, number: int) -> dict[str, list[LoggedEvent]]:
        """Return the events of a part by request."""
        found: dict[str, list[LoggedEvent]] = {}
        with gzip.open(self._path("events", number)) as file:
            for line in file:
                event = decode_event(line)
                found.setdefault(event.event.request_id, []).append(event)
        return found

    def _path(self, kind: str, number: int) -> Path:
        return self._directory / f"{kind}-{number}.gz"

    def _part(self, request_id: str) -> int:
        return crc32(request_id.encode(errors="surrogatepass")) % self.count


class _Join:
    """Joins part after part into a table."""

    def __init__(
        self,
        parts: _Parts,
        table: ScoreTable,
        window: float,
        now: float,
        shown: int | None,
        counts: JoinCounts,
    ) -> None:
        self._parts, self._table, self._counts = parts, table, counts
        self._window, self._now, self._shown = window, now, shown
        self._names = parts.names
        self._schema = parts.kinds.schema()
        self._rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Join all parts."""
        for number in range(self._parts.count):
            events = self._parts.events(number)
            seen: dict[str, set[str]] = {}
            matched: dict[str, set[int]] = {}
            for request in self._parts.requests(number):
                name = request.request_id
                # A request whose instances belonged to two bundles has a line of each.
                versions = seen.setdefault(name, set())
                if request.version in versions:
                    self._counts.repeated += 1
                    continue
                self._counts.requests += not versions
                versions.add(request.version)
                found = self._add(request, events.get(name, []))
                matched.setdefault(name, set()).update(found)
            for name, own in events.items():
                if name in seen:
                    self._counts.unmatched += len(own) - len(matched[name])
                else:
                    self._counts.orphaned += len(own)
        self._write()

    def _add(self, request: LoggedRequest, events: Sequence[LoggedEvent]) -> set[int]:
        """Add a request's rows; return the places of the events that are of its candidates."""
        matched: set[int] = set()
        for candidate in request.candidates:
            places = [place for place, each in enumerate(events) if _names(each, candidate)]
            matched.update(places)
            own = [events[place] for place in places]
            if candidate.features is None:
                self._counts.without_values += 1
            elif not self._was_shown(candidate, own):
                self._counts.not_shown += 1
            else:
                self._add_row(request, candidate, own)
        return matched

    def _was_shown(self, candidate: LoggedCandidate, events: Sequence[LoggedEvent]) -> bool:
        """Tell whether a candidate was seen: an event says so, or its place does."""
        if events:
            return True
        if self._parts.has_shown:
            return False
        return self._shown is None or candidate.place is None or candidate.place <= self._shown

    def _add_row(
        self, request: LoggedRequest, candidate: LoggedCandidate, events: Sequence[LoggedEvent]
    ) -> None:
        clicks = [_moment(each) for each in events if each.event.label == 1]
        end = request.time + self._window
        in_time = any(moment <= end for moment in clicks)
        if clicks and not in_time:
            self._counts.late += len(clicks)
        if not in_time and self._now <= end:
            self._counts.open += 1
            return
        row = {
            **request.context,
            **(candidate.features or {}),
            "served_request_id": request.request_id,
            "served_time": request.time,
            "served_version": request.version,
            "served_place": candidate.place,
            "served_score": candidate.score,
            self._names.label: int(in_time),
        }
        if self._names.timestamp is not None:
            row.setdefault(self._names.timestamp, int(request.time))
        self._rows.append(row)
        self._counts.rows += 1
        self._counts.clicks += in_time
        if len(self._rows) >= CHUNK_ROWS:
            self._write()

    def _write(self) -> None:
        """Add the rows so far to the table."""
        schema = {**self._schema, **SERVED, self._names.label: pl.Int8()}
        if self._names.timestamp is not None:
            schema.setdefault(self._names.timestamp, pl.Int64())
        frame = pl.DataFrame(
            [
                column(name, [row.get(name) for row in self._rows], dtype)
                for name, dtype in schema.items()
            ]
        )
        self._table.add(frame)
        self._rows = []


def _moment(event: LoggedEvent) -> float:
    return event.received if event.event.time is None else event.event.time


def _names(logged: LoggedEvent, candidate: LoggedCandidate) -> bool:
    """Tell whether an event is of a candidate: by its index, else by its id, 7 as "7"."""
    event = logged.event
    if event.index is not None and candidate.index is not None:
        return event.index == candidate.index
    return event.id is not None and candidate.id is not None and str(event.id) == str(candidate.id)
