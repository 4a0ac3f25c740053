"""The uvicorn servers: the service's own, and the admin port's beside it in the same loop."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.serving.state import ServingState
from app.web.bounded_protocol import BoundedProtocol
from app.web.connections import Connections
from app.web.endpoints import ScoringEndpoints
from app.web.known_heads import KnownHeads
from app.web.last_connections import take_connections_again, take_last_connections
from app.web.protocol import ScoringProtocol
from app.workers.children import reap
from app.workers.descriptors import DescriptorWatch
from app.workers.signals import ignore_stops, stops
from app.workers.wake_ups import until_next

SPARE_SECONDS = 1
"""Seconds that requests have beyond the time to drain, at the end of which clients are cut, before
uvicorn cancels them."""
TICK_SECONDS = 1.0
"""Greatest age of the date in answers."""
ADMIN_CONNECTIONS, ADMIN_KEEP_ALIVE_SECONDS = 64, 5
"""Bounds of the admin port."""
log = logging.getLogger(__name__)


def _reap_all(*_: object) -> None:
    """Reap children that the process was given: it starts none itself."""
    for _ in reap():
        pass


class _Server(uvicorn.Server):
    """uvicorn's server, which looks at the time once a second and sleeps in between.

    uvicorn's own main loop wakes up ten times a second to see whether it should end; this one is
    woken by ``ending``.
    """

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def main_loop(self) -> None:
        # Tick 0 of uvicorn's is the one that renews the date of answers.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(until_next(TICK_SECONDS)):
                    await self._ending.wait()


class AdminServer(_Server):
    """The admin endpoints on listeners of their own.

    An async context manager: entering it starts it, leaving it ends it.
    """

    def __init__(
        self,
        app: FastAPI,
        listeners: list[socket.socket],
        receive_seconds: float,
        max_body_bytes: int,
    ) -> None:
        protocol = partial(
            BoundedProtocol,
            receive_seconds,
            max_body_bytes,
            Connections(ADMIN_CONNECTIONS, ADMIN_KEEP_ALIVE_SECONDS),
        )
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                http=cast(type[asyncio.Protocol], protocol),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            ),
            asyncio.Event(),
        )
        self._listeners = listeners

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # They are the service's.
        yield

    async def __aenter__(self) -> None:
        self._running = asyncio.create_task(self.serve(self._listeners))

    async def __aexit__(self, *_: object) -> None:
        self.should_exit = True
        self._ending.set()
        await self._running


class ServiceServer(_Server):
    """Serves the application until SIGTERM or SIGINT, until ``state`` has a failure, or until the
    supervisor is gone.

    The end has two parts. For ``lame_duck_seconds`` the service says on ``/ready`` that it ends,
    and still takes connections and requests, so that proxies notice in their own time; each
    answer says ``connection: close``. Then it drains: it listens no longer, answers what is under
    way, and closes idle connections after a short grace.

    uvicorn ends by the signal itself; here a clean stop has exit code 0.
    """

    def __init__(
        self,
        app: FastAPI,
        endpoints: ScoringEndpoints,
        state: ServingState,
        *,
        connections: Connections,
        lame_duck_seconds: float,
        drain_seconds: float,
        listeners: list[socket.socket],
        supervisor_pipe: int | None = None,
        admin: AdminServer | None = None,
    ) -> None:
        """Listen on ``listeners``.

        ``supervisor_pipe`` is the end of a pipe that is readable once the supervisor is gone;
        ``admin`` runs as long as this server does.
        """
        protocol = partial(ScoringProtocol, endpoints, connections, KnownHeads())
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                http=cast(type[asyncio.Protocol], protocol),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(drain_seconds) + SPARE_SECONDS,
            ),
            state.ending,
        )
        self.state = state
        self._listeners = listeners
        self._supervisor_pipe = supervisor_pipe
        self._connections = connections
        self._lame_duck_seconds = lame_duck_seconds
        self._drain_seconds = drain_seconds
        self._stopping = False
        self._descriptors = DescriptorWatch()
        self._admin = admin

    def run_to_end(self) -> int:
        """Serve; return the exit code."""
        take_connections_again(self._listeners)
        self.run(self._listeners)
        ignore_stops()
        if self.state.failure is not None:
            log.error("cannot serve: %s", self.state.failure)
            if self.state.engine_hangs:
                # An orderly end would wait for the threads of the run.
                logging.shutdown()
                os._exit(1)
            return 1
        return 0 if self.started else 1

    def stop(self) -> None:
        """Begin the end; at a second call, wait no longer."""
        self.state.draining = self._connections.ending = True
        if self._stopping:
            self.should_exit = self.force_exit = True
            self._ending.set()
            self._drop_untaken()
            return
        self._stopping = True
        for connection in self._open():
            connection.end_soon()
        if self._lame_duck_seconds and self.started:
            asyncio.get_running_loop().call_later(self._lame_duck_seconds, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        """Stop accepting, and let accepted requests finish."""
        self.should_exit = True
        self._ending.set()
        asyncio.get_running_loop().call_later(self._drain_seconds, self._drop_untaken)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await take_last_connections(sockets or [])
        await super().shutdown(sockets)

    def _drop_untaken(self) -> None:
        """Cut clients that do not take their answers: writing to them would never end."""
        for connection in self._open():
            connection.drop_untaken()

    def _open(self) -> list[BoundedProtocol]:
        return cast(list[BoundedProtocol], list(self.server_state.connections))

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        if self._admin is None:
            await super().serve(sockets)
            return
        async with self._admin:
            await super().serve(sockets)

    async def on_tick(self, counter: int) -> bool:
        self._descriptors.look()
        ends = await super().on_tick(counter)
        if self.state.failure is None:
            return ends
        # As by a signal, or idle connections would be waited for.
        self.state.draining = self._connections.ending = True
        return True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        endings = stops()
        for number in endings:
            loop.add_signal_handler(number, self.stop)
        if self._supervisor_pipe is None:
            # Not by the loop: uvloop keeps this signal for subprocesses, of which there are none.
            signal.signal(signal.SIGCHLD, _reap_all)
            _reap_all()
        if self._supervisor_pipe is not None:
            # The supervisor forked with the signals blocked, until there is a handler.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, endings)
            loop.add_reader(self._supervisor_pipe, self._supervisor_gone)
        yield

    def _supervisor_gone(self) -> None:
        assert self._supervisor_pipe is not None
        asyncio.get_running_loop().remove_reader(self._supervisor_pipe)
        log.error("the supervisor is gone")
        self.stop()
