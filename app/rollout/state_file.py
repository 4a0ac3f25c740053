"""The file ``ROLLOUT`` beside ``CURRENT``: what a directory's services have decided by themselves,
and the bundle that is on trial.

No other module reads or writes it. It is written whole or not at all, and all services over one
directory follow it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from app.bundle.directory import find_bundles, is_bundle, read_current
from app.errors import BundleError
from app.files import read_regular, write_file
from app.rollout.guard import Cause, Guard

ROLLOUT = "ROLLOUT"
MOST_STOPPED = 32
"""Ended trials whose reasons are kept, the last ones."""
_MOST_BYTES = 64 * 1024
Mode = Literal["canary", "shadow"]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
log = logging.getLogger(__name__)


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """The bundle on trial: a canary, which answers a share of the requests, or a shadow."""

    version: str
    mode: Mode
    share: Share
    began: int
    """Milliseconds since 1970; tells two trials of one bundle apart."""
    key: str | None = None
    """The context field whose values a canary's share is taken of."""
    guard: Guard = Guard()


class Ended(msgspec.Struct, frozen=True):
    """The end of a trial: the cause, in words too, and when, in milliseconds since 1970."""

    cause: Cause
    reason: str
    at: int


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True):
    """``serving`` is the version that passed the gate, that an operator chose, or beside which a
    trial began, last; ``stopped`` are versions whose trial ended badly, and why.
    """

    serving: str | None = None
    candidate: Candidate | None = None
    stopped: Mapping[str, Ended] = {}

    def without(self, version: str) -> Rollout:
        """The same, and nothing is held against a version."""
        stopped = {name: each for name, each in self.stopped.items() if name != version}
        return msgspec.structs.replace(self, stopped=stopped)

    def without_trial(self, candidate: Candidate, ended: Ended | None = None) -> Rollout:
        """The same after the end of a trial; ``ended`` says how, if it is held against the bundle.

        Another trial that has taken its place goes on.
        """
        if self.candidate is None or self.candidate.began != candidate.began:
            return self
        found = msgspec.structs.replace(self.without(candidate.version), candidate=None)
        if ended is None:
            return found
        kept = list(found.stopped.items())[1 - MOST_STOPPED :]
        return msgspec.structs.replace(found, stopped={**dict(kept), candidate.version: ended})


_decoder = msgspec.json.Decoder(Rollout)


def look_at_rollout(directory: Path) -> Rollout | None:
    """Return what the file holds: nothing where it is absent, and None where it cannot be read.

    What cannot be read is told in the log.
    """
    file = directory / ROLLOUT
    try:
        return _decoder.decode(read_regular(file, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return Rollout()
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read and counts as absent: %s", file, error)
    return None


def read_rollout(directory: Path) -> Rollout:
    """Return what the file holds; one that is absent or cannot be read holds nothing."""
    return look_at_rollout(directory) or Rollout()


def change_rollout(directory: Path, change: Callable[[Rollout], Rollout]) -> Rollout:
    """Change what the file holds; services that change it at the same time take turns.

    Raises:
        OSError: it cannot be written; it is what it was.
    """
    with _turn(directory):
        before = read_rollout(directory)
        after = change(before)
        if after != before:
            content = msgspec.json.format(msgspec.json.encode(after)) + b"\n"
            write_file(directory / ROLLOUT, content, mode=0o644)
        return after


@contextmanager
def _turn(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_serving(directory: Path, version: str) -> None:
    """Note the version that serves, for the next start; where that cannot be, the log says so."""
    if is_bundle(directory):
        return
    try:
        change_rollout(
            directory,
            lambda found: msgspec.structs.replace(found.without(version), serving=version),
        )
    except OSError as error:
        log.warning(
            "%s is not written (%s): a restart serves the newest bundle, whether it would pass the"
            " gate or not",
            directory / ROLLOUT,
            error.strerror,
        )


def first_bundle(directory: Path, gated: bool) -> Path:
    """Return the bundle to start with: behind a gate, or beside a trial, the one that served last.

    An operator's choice goes before. Without either it is the newest whose trial did not end badly.

    Raises:
        BundleError: there is none.
    """
    found = find_bundles(directory).bundles
    if is_bundle(directory) or _is_chosen(directory):
        return found[0]
    rollout = read_rollout(directory)
    if gated or rollout.candidate is not None:
        for path in found:
            if path.name == rollout.serving:
                return path
    candidate = rollout.candidate.version if rollout.candidate else None
    for path in found:
        if path.name not in rollout.stopped and path.name != candidate:
            return path
    return found[0]


def _is_chosen(directory: Path) -> bool:
    """True if an operator has chosen a bundle.

    Raises:
        BundleError: that cannot be known.
    """
    try:
        return read_current(directory) is not None
    except OSError as error:
        raise BundleError(f"{directory}: {error.strerror}") from error
