"""The request log: a share of the scored requests, written by a thread of its own.

The event loop hands over references and goes on. Where the thread does not keep up, or the disk
takes nothing, lines are dropped and counted: no request waits, and none fails.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, perf_counter, sleep, time
from typing import Any, Literal

import msgspec

from app.backoff import Backoff
from app.errors import FeedbackError, StoreError
from app.features.encoder import Encoder
from app.features.graph_inputs import Scores
from app.feedback.log_files import LogFiles
from app.feedback.log_format import LoggedBundle, encode_line
from app.feedback.log_lines import Answered, LineMaker
from app.feedback.sample import Sample
from app.logs import LogLimit
from app.metrics.request_log import RequestLogMetrics
from app.scoring.job import Ids, ListedItems
from app.scoring.trace import Trace
from app.settings import Settings
from app.store.opening import open_store
from app.store.store import Store

QUEUE_LINES, QUEUE_BYTES = 8_192, 32 * 2**20
"""Requests that wait for the thread at most, and the bytes that they hold."""
GATHER_SECONDS = 0.25
"""Time for which requests gather before they are written."""
WRITE_BYTES = 256 * 2**10
"""Bytes of lines that are compressed and written at once."""
HOLD_SECONDS = 0.0003
"""Time for which lines are made before the event loop may go on, if it waits. Each such pause costs
as much as a short line."""
LOOK_SECONDS = 5.0
"""Time between two looks at the age of the file in use."""
CLOSE_SECONDS = 5.0
"""Time that a process that ends waits for its last lines to be written."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Pauses after a write that failed."""
log = logging.getLogger(__name__)


class RequestLog:
    """The log of one worker. All but its thread's part is for the event loop."""

    def __init__(self, settings: Settings, metrics: RequestLogMetrics, workers: int = 1) -> None:
        """Make the directory of the settings; nothing is written before the first request.

        Raises:
            FeedbackError: the directory cannot be used.
        """
        assert settings.request_log is not None
        self._directory = usable_directory(settings.request_log)
        self._metrics = metrics
        self._key = settings.request_log_key
        self._sample = Sample(settings.request_log_share)
        self.may_hold: Callable[[bytes], bool] = (
            self._sample.holds_request if self._key is None else _any_request
        )
        """Tells by the id of a request, before it is read, whether it may have to be logged."""
        self._files = LogFiles(self._directory, settings.request_log_bytes, workers)
        self._store_url = None if settings.store is None else settings.store.get_secret_value()
        self._store: Store | None = None
        self._lines = LineMaker(
            self._sample,
            self._key,
            settings.omitted,
            settings.item_key,
            self._stored,
            metrics.count_changed,
        )
        self._queue: deque[Answered] = deque()
        # Each has one writer, so that neither needs a lock.
        self._bytes_in = self._bytes_out = 0
        self._filled, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._limit = LogLimit(60.0)
        self._keys_of_instances = _keys_decoder(self._key)
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._retry_at = 0.0
        self._versions: set[str] = set()
        self._closed_abandoned = False

    @property
    def writes(self) -> bool:
        """False while the disk takes nothing."""
        return not self._backoff.failures

    def trace(self, request_id: bytes, body: bytes) -> Trace | None:
        """Return the trace of a request that may have to be logged, before it is read."""
        return Trace(body, self._key) if self.may_hold(request_id) else None

    def take(
        self,
        request_id: bytes,
        version: str,
        route: Literal["predict", "rank"],
        encoder: Encoder,
        trace: Trace,
        scores: Scores,
        ids: Ids | None,
        listed: ListedItems | None,
        top_k: int | None,
        degraded: list[str],
        places: Sequence[int] | None = None,
    ) -> None:
        """Queue a request that was answered, if it belongs to the sample and there is room.

        Of a part of one ``places`` are those of its instances in the whole.
        """
        if self._key is not None and not self._chosen(route, trace, request_id):
            return
        answered = Answered(
            time(),
            request_id,
            version,
            route,
            encoder,
            trace,
            scores,
            ids,
            listed,
            top_k,
            degraded,
            places,
        )
        if len(self._queue) >= QUEUE_LINES or self._bytes_in - self._bytes_out >= QUEUE_BYTES:
            self._metrics.count_queue_full()
            return
        self._bytes_in += answered.size
        self._queue.append(answered)
        if not self._filled.is_set():
            self._filled.set()
            if self._thread is None:
                # Not before: a fork has no thread but its own.
                self._thread = threading.Thread(target=self._work, name="request log", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what waits, as long as that does not take long, and close the file."""
        if self._thread is not None:
            self._closing.set()
            self._filled.set()
            self._thread.join(CLOSE_SECONDS)

    def _chosen(self, route: str, trace: Trace, request_id: bytes) -> bool:
        """Tell whether a request, or an instance of it, belongs to the sample by its key."""
        if route == "rank":
            return self._sample.holds_key(trace.key_value, request_id)
        assert self._keys_of_instances is not None
        keys = {each.key for each in self._keys_of_instances.decode(trace.body).instances}
        return any(self._sample.holds_key(key, request_id) for key in keys)

    # The thread's part.

    def _work(self) -> None:
        while not self._closing.is_set():
            if self._filled.wait(LOOK_SECONDS):
                self._closing.wait(GATHER_SECONDS)
                self._filled.clear()
            self._tend()
        self._tend()
        with suppress(OSError):
            self._files.close()

    def _tend(self) -> None:
        """Write all that has gathered, and close a file that is old."""
        try:
            if not self._closed_abandoned:
                self._files.close_abandoned()
                self._closed_abandoned = True
            self._files.close_old()
        except OSError as error:
            self._failed(error)
        self._begin()
        lines: list[bytes] = []
        size, held = 0, perf_counter()
        while self._queue:
            answered = self._queue.popleft()
            self._bytes_out += answered.size
            line = self._line(answered)
            if line is not None:
                lines.append(line)
                size += len(line)
            if size >= WRITE_BYTES:
                self._write(lines)
                self._begin()
                lines, size = [], 0
            if perf_counter() - held > HOLD_SECONDS:
                # The event loop may have waited for this thread.
                sleep(0)
                held = perf_counter()
        if lines:
            self._write(lines)

    def _begin(self) -> None:
        """Note that the next line begins a file, if it does: the file needs its bundles."""
        if self._files.is_new:
            self._versions.clear()

    def _line(self, answered: Answered) -> bytes | None:
        """Return a request's line, with that of its bundle before it if the file lacks it."""
        if monotonic() < self._retry_at:
            self._metrics.count_unwritten(1)
            return None
        try:
            made = self._lines.line(answered)
            if made is None:
                return None
            line = encode_line(made) + b"\n"
            if answered.version not in self._versions:
                self._versions.add(answered.version)
                line = encode_line(_bundle_of(answered)) + b"\n" + line
        except Exception as error:
            self._metrics.count_unreadable()
            # Not its message, which may show a value.
            kind = type(error).__name__
            self._limit.log(log, logging.ERROR, "a request cannot be logged: %s", kind)
            return None
        return line

    def _write(self, lines: list[bytes]) -> None:
        try:
            written = self._files.write(b"".join(lines))
        except OSError as error:
            self._failed(error)
            self._metrics.count_unwritten(len(lines))
            # The next file, or this one, begins with its bundles again.
            self._versions.clear()
            return
        if not self.writes:
            self._backoff.reset()
            log.info("the request log is written again")
        self._metrics.count_written(len(lines), written)

    def _failed(self, error: OSError) -> None:
        self._retry_at = monotonic() + self._backoff.fail()
        self._limit.log(
            log, logging.ERROR, "the request log cannot be written: %s", error.strerror or error
        )

    def _stored(self, identity: int | str) -> Mapping[str, Any] | None:
        """Return the values that the store has of an item now."""
        if self._store_url is None:
            return None
        try:
            if self._store is None:
                self._store = open_store(self._store_url)
            found = self._store.get(identity)
        except StoreError as error:
            self._limit.log(log, logging.WARNING, "an item cannot be logged: %s", error)
            if self._store is not None:
                self._store.close()
                self._store = None
            return None
        return None if found is None else found.values


def _any_request(request_id: bytes) -> bool:
    """Every request may have to be logged where its key decides, which is in its body."""
    return True


def _bundle_of(answered: Answered) -> LoggedBundle:
    spec = answered.encoder.spec
    is_field = spec.timestamp in answered.encoder.fields
    return LoggedBundle(answered.version, spec.label, None if is_field else spec.timestamp)


def usable_directory(directory: Path) -> Path:
    """Make a directory, unless it is there, and return it.

    Raises:
        FeedbackError: it cannot be made, or is something else.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeedbackError(f"{directory} cannot be used: {error.strerror}") from error
    return directory


def _keys_decoder(key: str | None) -> Any:
    """Return a decoder of ``/predict`` bodies that reads the field of the key and no other."""
    if key is None:
        return None
    instance = msgspec.defstruct("Instance", [("key", Any, None)], rename={"key": key})
    instances = list.__class_getitem__(instance)
    return msgspec.json.Decoder(msgspec.defstruct("Body", [("instances", instances)]))
