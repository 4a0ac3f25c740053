"""``python -m app``: the settings → one server, or a supervisor with several."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys

# numpy's BLAS starts a thread for each CPU of the machine, whatever the quota; nothing here uses
# them. It reads this once, when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from app.missing_packages import advise
from app.workers.signals import ignore_unused

sys.excepthook = advise
# Imports take a second, in which a signal would end the process.
ignore_unused()

from app import __version__
from app.catalogue.command import store_command
from app.catalogue.kinds import ITEMS, PROFILES
from app.check import check
from app.command_line import read_command, read_settings
from app.errors import CtrError, KeyFileError
from app.feedback.request_log import usable_directory
from app.main import build_server, openapi_document
from app.rollout.gate import Gate
from app.rollout.state_file import first_bundle
from app.serving.loading import open_bundle
from app.settings import Settings
from app.web.keys import Keys
from app.workers.listeners import Listeners
from app.workers.shared_numbers import SharedNumbers
from app.workers.supervisor import Supervisor, WorkerResources

log = logging.getLogger("app")


def main() -> int:
    """Serve until a signal, or carry out another command; return the exit code."""
    for kind in (ITEMS, PROFILES):
        if sys.argv[1:2] == [f"{kind.name}s"]:
            return store_command(kind, sys.argv[2:])
    command = read_command(sys.argv[1:])
    if command.version:
        print(__version__)
        return 0
    settings = read_settings(command.settings)
    if command.check is not None:
        return check(settings, command.against)
    if command.openapi:
        return print_openapi(settings)
    try:
        if settings.gate is not None:
            Gate.load(settings.gate)
    except CtrError as error:
        log.error("setting gate: %s", error)
        return 2
    try:
        check_feedback(settings)
    except CtrError as error:
        log.error("cannot serve: %s", error)
        return 1
    try:
        admin = bind_admin(settings)
    except (CtrError, OSError) as error:
        log.error("cannot serve: the admin port: %s", error)
        return 1
    try:
        listeners = Listeners(settings.host, settings.port, settings.workers)
    except OSError as error:
        log.error("cannot serve: %s", error)
        return 1
    log.info("listening on %s, %d worker(s)", listeners.names, settings.workers)
    try:
        if settings.workers > 1:
            return supervise(settings, listeners, admin)
        (own,) = listeners.of_worker
        return build_server(settings, own, admin_listeners=admin).run_to_end()
    finally:
        listeners.close()


def print_openapi(settings: Settings) -> int:
    """Print the OpenAPI document of the settings' bundle; return the exit code."""
    try:
        document = openapi_document(settings)
    except CtrError as error:
        log.error("no OpenAPI document: %s", error)
        return 1
    print(json.dumps(document, ensure_ascii=False))
    return 0


def check_feedback(settings: Settings) -> None:
    """Check the directories and the keys of the request log and of feedback.

    Raises:
        FeedbackError: a directory cannot be used.
        KeyFileError: there is no usable file of keys.
    """
    for directory in (settings.request_log, settings.feedback):
        if directory is not None:
            usable_directory(directory)
    if settings.feedback_key_file is not None:
        Keys(settings.feedback_key_file)


def bind_admin(settings: Settings) -> list[socket.socket]:
    """Bind the admin port, if the settings have one.

    Raises:
        KeyFileError: there is no usable file of keys.
        OSError: the port cannot be bound.
    """
    if settings.admin_port is None:
        return []
    if settings.admin_key_file is None:
        raise KeyFileError("setting admin_port needs admin_key_file")
    Keys(settings.admin_key_file)
    # Sockets that systemd passes are the service's.
    (listeners,) = Listeners(settings.admin_host, settings.admin_port, environment={}).of_worker
    return listeners


def supervise(settings: Settings, listeners: Listeners, admin: list[socket.socket]) -> int:
    """Load what the workers share, and run them until a signal; return the exit code.

    The first worker, or its successor, has the admin port too.
    """
    shared = SharedNumbers(settings.workers)
    try:
        opened = open_bundle(settings, first_bundle(settings.bundle, settings.gate is not None))
    except (CtrError, OSError) as error:
        log.error("cannot serve: %s", error)
        return 1

    def work(worker: WorkerResources) -> int:
        """Be a worker; return its exit code."""
        return build_server(
            settings,
            worker.listeners,
            admin_listeners=admin if worker.number == 0 else [],
            worker=worker,
            opened=opened,
        ).run_to_end()

    end_seconds = settings.lame_duck_seconds + settings.drain_seconds
    return Supervisor(listeners.of_worker, shared, work, end_seconds).run()


if __name__ == "__main__":
    sys.exit(main())
