"""``python -m app``: read the settings, run the server, tell how it ended."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

# numpy's BLAS starts a thread for each CPU of the machine, whatever the quota; nothing here uses
# them. It reads this once, when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from app import logs
from app.bundle.directory import newest
from app.errors import CtrError, KeyFileError
from app.main import create_app
from app.serving.loading import Opened, open_bundle
from app.serving.state import State
from app.settings import Settings
from app.web.admin import create_admin
from app.web.admin_keys import Keys
from app.web.bounded_protocol import BoundedProtocol
from app.web.protocol import ScoringProtocol
from app.workers.shared_numbers import SharedNumbers
from app.workers.supervisor import Supervisor, WorkerResources, bind

SPARE_SECONDS = 1
"""What requests have beyond the time to drain when nobody waits for their clients any more."""
log = logging.getLogger("app")


class _Server(uvicorn.Server):
    """uvicorn, but SIGTERM and SIGINT end in exit code 0: a clean stop is no failure.

    A worker stops too when its supervisor is gone. The ``admin`` server runs as long as it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state: State,
        worker: WorkerResources | None,
        drain_seconds: float,
        admin: AdminServer | None,
    ) -> None:
        super().__init__(config)
        self._state = state
        self._worker = worker
        self._drain_seconds = drain_seconds
        self._admin = admin
        self.failed: str | None = None

    def stop(self) -> None:
        """Stop accepting, let accepted requests finish; at a second call, wait no longer."""
        self._state.draining = True
        if self.should_exit:
            self.force_exit = True
            self._let_go()
        else:
            asyncio.get_running_loop().call_later(self._drain_seconds, self._let_go)
        self.should_exit = True

    def _let_go(self) -> None:
        """Cut those who do not take their answers: whoever writes to them would wait for ever."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.drop_untaken()

    def fail(self, problem: str) -> None:
        """End with an error."""
        self.failed = problem
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        if self._admin is None:
            await super().serve(sockets)
            return
        async with self._admin:
            await super().serve(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self._worker is not None:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            loop.add_reader(self._worker.alive, self._orphaned)
        yield

    def _orphaned(self) -> None:
        assert self._worker is not None
        asyncio.get_running_loop().remove_reader(self._worker.alive)
        log.error("the supervisor is gone")
        self.stop()


class AdminServer(uvicorn.Server):
    """The admin endpoints on a socket of their own, beside a service in the same loop.

    An async context manager: leaving it ends it.
    """

    def __init__(self, app: FastAPI, listener: socket.socket, receive_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                http=cast(type[asyncio.Protocol], partial(BoundedProtocol, receive_seconds, 0)),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._listener = listener

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # They are the service's.
        yield

    async def __aenter__(self) -> None:
        self._running = asyncio.create_task(self.serve([self._listener]))

    async def __aexit__(self, *_: object) -> None:
        self.should_exit = True
        await self._running


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Return the names that look like settings and are none: a mistyped one has no effect."""
    prefix = str(Settings.model_config["env_prefix"])
    known = {f"{prefix}{name}".upper() for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.startswith(prefix) and name.upper() not in known
    )


def main() -> int:
    """Serve until a signal; return the exit code."""
    try:
        settings = Settings(_cli_parse_args=True)
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(map(str, problem["loc"]))
            print(f"setting {name}: {problem['msg']}", file=sys.stderr)
        return 2
    logs.set_up(settings.log_level)
    for name in unknown_variables(os.environ):
        log.warning("environment variable %s is no setting and is ignored", name)

    try:
        admin = bind_admin(settings)
    except (CtrError, OSError) as error:
        log.error("cannot serve: the admin port: %s", error)
        return 1
    if settings.workers > 1:
        return supervise(settings, admin)
    return serve(settings, admin)


def bind_admin(settings: Settings) -> socket.socket | None:
    """Bind the admin port, if there is to be one.

    Raises:
        KeyFileError: nobody could use it.
        OSError: it cannot be had.
    """
    if settings.admin_port is None:
        return None
    if settings.admin_key_file is None:
        raise KeyFileError("setting admin_port needs admin_key_file")
    Keys(settings.admin_key_file)
    return bind(settings.admin_host, settings.admin_port, 1)[0]


def supervise(settings: Settings, admin: socket.socket | None) -> int:
    """Load what workers can share, and have them serve until a signal; return the exit code.

    The first of them, or its successor, has the admin port too.
    """
    shared = SharedNumbers(settings.workers)
    try:
        listeners = bind(settings.host, settings.port, settings.workers)
        opened = open_bundle(settings, newest(settings.bundle))
    except (CtrError, OSError) as error:
        log.error("cannot serve: %s", error)
        return 1
    log.info("%d workers on %s", settings.workers, listeners[0].getsockname()[:2])

    return Supervisor(
        listeners,
        shared,
        lambda worker: serve(settings, None if worker.number else admin, worker, opened),
        settings.drain_seconds,
    ).run()


def serve(
    settings: Settings,
    admin: socket.socket | None,
    worker: WorkerResources | None = None,
    opened: Opened | None = None,
) -> int:
    """Serve until a signal, alone or as one worker of several; return the exit code."""

    def fail(problem: str) -> None:
        server.fail(problem)

    app = create_app(settings, fail, worker.shared if worker else None, opened)
    config = uvicorn.Config(
        app,
        ws="none",
        http=cast(type[asyncio.Protocol], partial(ScoringProtocol, app.scoring)),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + SPARE_SECONDS,
    )
    admin_server = None
    if admin is not None and settings.admin_key_file is not None:
        admin_server = AdminServer(
            create_admin(app.serving, Keys(settings.admin_key_file)),
            admin,
            settings.receive_seconds,
        )
        log.info("admin endpoints on %s", admin.getsockname()[:2])
    server = _Server(config, app.serving, worker, settings.drain_seconds, admin_server)
    server.run([worker.listener] if worker else None)
    if server.failed is not None:
        log.error("cannot serve: %s", server.failed)
        return 1
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
