"""The file ``ROLLOUT`` beside ``CURRENT``: what a directory's services have decided by themselves.

No other module reads or writes it. It is written whole or not at all.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from app.bundle.directory import find_bundles, is_bundle, read_current
from app.files import read_regular, write_file

ROLLOUT = "ROLLOUT"
_MOST_BYTES = 64 * 1024
log = logging.getLogger(__name__)


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """``serving`` is the version that passed the gate, or that an operator chose, last."""

    serving: str | None = None


def read_rollout(directory: Path) -> Rollout:
    """Return what the file holds; one that is absent or cannot be read holds nothing.

    What cannot be read is told in the log.
    """
    file = directory / ROLLOUT
    try:
        return msgspec.json.decode(read_regular(file, _MOST_BYTES), type=Rollout)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read and counts as absent: %s", file, error)
    return Rollout()


def write_serving(directory: Path, version: str) -> None:
    """Note the version that serves, for the next start; where that cannot be, the log says so."""
    if is_bundle(directory) or read_rollout(directory).serving == version:
        return
    try:
        content = msgspec.json.encode(Rollout(version)) + b"\n"
        write_file(directory / ROLLOUT, content, mode=0o644)
    except OSError as error:
        log.warning(
            "%s is not written (%s): a restart serves the newest bundle, whether it would pass the"
            " gate or not",
            directory / ROLLOUT,
            error.strerror,
        )


def first_bundle(directory: Path, gated: bool) -> Path:
    """Return the bundle to start with: behind a gate the one that served last.

    An operator's choice goes before; without either it is the newest.

    Raises:
        BundleError: there is none.
    """
    found = find_bundles(directory).bundles
    if gated and not is_bundle(directory) and read_current(directory) is None:
        name = read_rollout(directory).serving
        for path in found:
            if path.name == name:
                return path
    return found[0]
