"""One process' share of the load: sends on time, whatever the service does, and records.

Every connection is an httpx transport of its own: httpx searches its pool, and everything that
waits for it, for each request and each answer, which at 200 connections costs several times the
request itself. So the cap on connections, and the line before it, are kept here, where both are
measured. A transport is what httpx clients send with; what they put around it (cookies,
redirects, authentication) is needed by no request here and would take a quarter of the CPU.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, process_time
from typing import Any

import httpx
import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.load import record as outcomes
from tests.load.bodies import Body, Deck, Part
from tests.load.record import Record

PROBE_SECONDS = 0.02
# Below the 5 s after which uvicorn and most others close an idle connection, so that no request
# meets a connection that is just being closed.
KEEPALIVE_SECONDS = 4.0

# httpcore looks for sniffio four times in each request; where it is not installed the failing
# imports cost more than the request. This makes them fail at once.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Load:
    """The work of a process. Times are seconds from the start of the measured time.

    ``due`` are the moments at which requests are due. With ``repeat`` each of them is a caller,
    who asks again as soon as answered, until the end.
    """

    url: str
    due: NDArray[np.float64]
    repeat: bool
    warmup: float
    duration: float
    parts: Sequence[Part]
    connections: int
    patience: float
    headers: dict[str, str]
    seed: int


class Answer(msgspec.Struct):
    """The part of a 200 that is read."""

    predictions: list[float] | None = None
    ranking: list[dict[str, Any]] | None = None


_read = msgspec.json.Decoder(Answer).decode


def outcome_of(response: httpx.Response, body: Body) -> str:
    """Name an answer: its status, or that a 200 does not hold the scores asked for."""
    if response.status_code != 200:
        return str(response.status_code)
    try:
        answer = _read(response.content)
    except msgspec.MsgspecError:
        return outcomes.WRONG
    scores = answer.ranking if body.path == "/rank" else answer.predictions
    return outcomes.RIGHT if scores is not None and len(scores) == body.answers else outcomes.WRONG


_OWN_ERRORS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS}


def failure_of(error: BaseException) -> str:
    """Name a request's end without an answer."""
    if any(isinstance(each, OSError) and each.errno in _OWN_ERRORS for each in _causes(error)):
        return outcomes.OWN_SOCKETS
    match error:
        case httpx.PoolTimeout():
            return outcomes.POOL_TIMEOUT
        case httpx.ConnectTimeout():
            return outcomes.CONNECT_TIMEOUT
        case httpx.ConnectError():
            return outcomes.CONNECT_FAILED
        case httpx.WriteTimeout():
            return outcomes.WRITE_TIMEOUT
        case httpx.ReadTimeout() | TimeoutError():
            return outcomes.READ_TIMEOUT
    return outcomes.LOST


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on down to the system's."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__


class Trip:
    """Moments of one request on its way, as httpcore tells them; 0 where it did not come to it."""

    __slots__ = ("connect", "connecting", "ended", "opened", "sent")

    def __init__(self) -> None:
        self.connecting = 0.0
        self.connect = 0.0
        self.opened = 0
        self.sent = 0.0
        self.ended = 0.0

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Note the moments that matter; the last send counts where one is repeated."""
        if event == "http11.send_request_headers.started":
            self.sent = monotonic()
        elif event == "connection.connect_tcp.started":
            self.connecting = monotonic()
        elif event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.opened = 1
            self.connect = monotonic() - self.connecting


class Pacer(threading.Thread):
    """Calls into the event loop at given moments.

    A thread's sleep is exact to some 0.1 ms; the loop's own timers are rounded up to
    milliseconds, which would be most of a fast answer's latency.
    """

    def __init__(self, due: NDArray[np.float64], call: Callable[[Sequence[float]], None]) -> None:
        super().__init__(daemon=True)
        self._due = due
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Hand over all moments that have come, then sleep until the next one."""
        due, done = self._due, 0
        while done < len(due) and not self._stopped.wait(max(due[done] - monotonic(), 0)):
            come = max(int(np.searchsorted(due, monotonic(), side="right")), done + 1)
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._call, due[done:come].tolist())
            done = come

    def stop(self) -> None:
        """Call no more."""
        self._stopped.set()


class Client:
    """Runs a load once."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._start = self._end = 0.0
        self._record = Record(load.duration)
        self._deck = iter(Deck(load.parts, load.seed))
        base = httpx.URL(load.url)
        self._targets = {
            path: base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path.encode())
            for path in ("/predict", "/rank", "/ready")
        }
        self._headers = [
            (b"host", base.netloc),
            (b"content-type", b"application/json"),
            *((name.lower().encode(), value.encode()) for name, value in load.headers.items()),
        ]
        self._timeout = httpx.Timeout(
            connect=load.patience, read=load.patience, write=load.patience, pool=load.patience
        ).as_dict()
        # Certificates take 30 ms to read.
        self._tls = httpx.create_ssl_context(verify=base.scheme == "https")
        self._transports = [self._transport() for _ in range(load.connections)]
        self._free = list(range(load.connections))
        self._waiting: deque[tuple[float, float]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._unfinished = len(load.due)
        self._finished = asyncio.Event()
        if not self._unfinished:
            self._finished.set()
        self._interrupted = asyncio.Event()
        self._broken: BaseException | None = None

    async def rehearse(self) -> None:
        """Ask the service once, so that no import of the client library falls into the run."""
        request = httpx.Request(
            "GET", self._targets["/ready"], extensions={"timeout": self._timeout}
        )
        with suppress(httpx.HTTPError):
            async with self._transport() as transport:
                await (await transport.handle_async_request(request)).aread()

    async def run(self, start: float) -> Record:
        """Send until the end, wait for what is on its way, and return what was seen.

        ``start`` is where the measured time starts, by the monotonic clock.
        """
        self._start, self._end = start, start + self._load.duration
        pacers = [
            Pacer(self._load.due + self._start, self._arrivals),
            Pacer(np.arange(self._start, self._end, PROBE_SECONDS), self._probe),
        ]
        # The bodies stay: the collector need not walk them during the run.
        gc.collect()
        gc.freeze()
        for pacer in pacers:
            pacer.start()
        try:
            await self._until(self._start)
            cpu, since = process_time(), monotonic()
            await self._until(self._end)
            self._record.own.cpu.append((process_time() - cpu) / max(monotonic() - since, 1e-6))
            if not self._interrupted.is_set():
                await self._first(self._finished, self._interrupted)
            if self._interrupted.is_set():
                self._record.interrupted = True
                self._record.cut_off = self._in_flight
                self._record.window = min(max(monotonic() - self._start, 0.0), self._load.duration)
        finally:
            for pacer in pacers:
                pacer.stop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for transport in self._transports:
                await transport.aclose()
        if self._broken is not None:
            raise self._broken
        return self._record

    def interrupt(self) -> None:
        """End the run early, with what was seen so far."""
        self._interrupted.set()

    async def _until(self, moment: float) -> None:
        """Wait for a moment, or the interruption."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(moment):
                await self._interrupted.wait()

    @staticmethod
    async def _first(*events: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _probe(self, due: Sequence[float]) -> None:
        now = monotonic()
        for moment in due:
            self._record.own.loop_lag.record(_microseconds(now - moment))

    def _arrivals(self, due: Sequence[float]) -> None:
        for moment in due:
            self._arrive(moment)

    def _arrive(self, intended: float) -> None:
        """A request is due: send it, or let it wait for a connection."""
        own = self._record.own
        self._in_flight += 1
        own.most_in_flight = max(own.most_in_flight, self._in_flight)
        if self._free:
            # The last one used, so that no more are opened than are needed.
            self._begin(self._free.pop(), intended, 0.0)
        else:
            self._waiting.append((intended, monotonic()))
            own.most_waiting = max(own.most_waiting, len(self._waiting))

    def _transport(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_SECONDS
        )
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits)

    def _begin(self, slot: int, intended: float, wait: float) -> None:
        own = self._record.own
        own.most_connections = max(own.most_connections, len(self._transports) - len(self._free))
        task = asyncio.create_task(self._exchange(slot, intended, wait))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._interrupted.set()

    async def _exchange(self, slot: int, intended: float, wait: float) -> None:
        kind, body = next(self._deck)
        trip = Trip()
        request = httpx.Request(
            "POST",
            self._targets[body.path],
            headers=[*self._headers, (b"content-length", b"%d" % len(body.content))],
            stream=httpx.ByteStream(body.content),
            extensions={"timeout": self._timeout, "trace": trip.trace},
        )
        try:
            # httpx' read timeout starts again with every byte; this ends an answer that drips.
            async with asyncio.timeout(2 * self._load.patience):
                response = await self._transports[slot].handle_async_request(request)
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        except (httpx.HTTPError, OSError) as error:
            trip.ended = monotonic()
            *_, root = _causes(error)
            outcome, message = failure_of(error), f"{type(error).__name__}: {root}"
        else:
            trip.ended = monotonic()
            outcome = outcome_of(response, body)
            message = "" if outcome == outcomes.RIGHT else response.text[:300]
        self._note_own(trip, intended, wait)
        self._note(kind, outcome, message, intended, trip)
        self._release(slot)
        self._finish()

    def _release(self, slot: int) -> None:
        """Give a connection to who has waited longest, dropping those whose patience is at end."""
        while self._waiting:
            intended, since = self._waiting.popleft()
            wait = monotonic() - since
            if wait <= self._load.patience:
                self._begin(slot, intended, wait)
                return
            kind, _ = next(self._deck)
            lost = Trip()
            lost.ended = monotonic()
            self._note_own(lost, intended, wait)
            message = f"no connection became free within {self._load.patience:g} s"
            self._note(kind, outcomes.POOL_TIMEOUT, message, intended, lost)
            self._finish()
        self._free.append(slot)

    def _finish(self) -> None:
        """A request has ended; its caller, if it is one that repeats, asks again."""
        self._in_flight -= 1
        if self._load.repeat and monotonic() < self._end and not self._interrupted.is_set():
            self._arrive(monotonic())
            return
        self._unfinished -= 1
        if not self._unfinished:
            self._finished.set()

    def _note_own(self, trip: Trip, intended: float, wait: float) -> None:
        own = self._record.own
        own.connections_opened += trip.opened
        own.sent += self._start <= (trip.connecting or trip.sent) < self._end
        if not self._start <= intended < self._end:
            return
        own.scheduled += 1
        own.connection_wait.record(_microseconds(wait))
        if trip.opened:
            own.connect.record(_microseconds(trip.connect))
        if trip.sent:
            own.send_delay.record(_microseconds(trip.sent - intended - wait - trip.connect))

    def _note(self, kind: str, outcome: str, message: str, intended: float, trip: Trip) -> None:
        stats = self._record.kind(kind)
        if outcome == outcomes.RIGHT:
            stats.arrived += self._start <= trip.ended < self._end
        if not self._start <= intended < self._end:
            return
        latency = _microseconds(trip.ended - intended)
        service = _microseconds(trip.ended - trip.sent)
        stats.count_one(outcome, latency, service)
        self._record.second(int(intended - self._start)).count_one(outcome, latency, service)
        if outcome != outcomes.RIGHT:
            self._record.samples.setdefault(outcome, message)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
