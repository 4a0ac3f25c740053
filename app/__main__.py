"""``python -m app``: the settings → one server, or a supervisor with several."""

from __future__ import annotations

import logging
import os
import socket
import sys

# numpy's BLAS starts a thread for each CPU of the machine, whatever the quota; nothing here uses
# them. It reads this once, when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from app import __version__
from app.bundle.directory import newest
from app.check import check
from app.command_line import read_command, read_settings
from app.errors import CtrError, KeyFileError
from app.main import build_server
from app.serving.loading import open_bundle
from app.settings import Settings
from app.web.admin_keys import Keys
from app.workers.shared_numbers import SharedNumbers
from app.workers.supervisor import Supervisor, WorkerResources, bind

log = logging.getLogger("app")


def main() -> int:
    """Serve until a signal; return the exit code."""
    command = read_command(sys.argv[1:])
    if command.version:
        print(__version__)
        return 0
    settings = read_settings(command.settings)
    if command.check is not None:
        return check(settings, command.against)
    try:
        admin = bind_admin(settings)
    except (CtrError, OSError) as error:
        log.error("cannot serve: the admin port: %s", error)
        return 1
    if settings.workers > 1:
        return supervise(settings, admin)
    return build_server(settings, admin_listener=admin).run_to_end()


def bind_admin(settings: Settings) -> socket.socket | None:
    """Bind the admin port, if the settings have one.

    Raises:
        KeyFileError: there is no usable file of keys.
        OSError: the port cannot be bound.
    """
    if settings.admin_port is None:
        return None
    if settings.admin_key_file is None:
        raise KeyFileError("setting admin_port needs admin_key_file")
    Keys(settings.admin_key_file)
    return bind(settings.admin_host, settings.admin_port, 1)[0]


def supervise(settings: Settings, admin: socket.socket | None) -> int:
    """Load what the workers share, and run them until a signal; return the exit code.

    The first worker, or its successor, has the admin port too.
    """
    shared = SharedNumbers(settings.workers)
    try:
        listeners = bind(settings.host, settings.port, settings.workers)
        opened = open_bundle(settings, newest(settings.bundle))
    except (CtrError, OSError) as error:
        log.error("cannot serve: %s", error)
        return 1
    log.info("%d workers on %s", settings.workers, listeners[0].getsockname()[:2])

    def work(worker: WorkerResources) -> int:
        """Be a worker; return its exit code."""
        return build_server(
            settings,
            admin_listener=admin if worker.number == 0 else None,
            worker=worker,
            opened=opened,
        ).run_to_end()

    return Supervisor(listeners, shared, work, settings.drain_seconds).run()


if __name__ == "__main__":
    sys.exit(main())
