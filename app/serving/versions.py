"""The choice of the bundle that should be served instead of the one in use."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from app.bundle.bundle import Bundle
from app.bundle.contract import differences
from app.bundle.directory import current_written, find_bundles
from app.bundle.manifest import SPEC
from app.errors import BundleError, SpecError
from app.features.spec import FeatureSpec
from app.rollout.state_file import Rollout, look_at_rollout
from app.workers.descriptors import out_of_descriptors

Fingerprint = tuple[tuple[str, int, int, int], ...]
log = logging.getLogger(__name__)


class Attempt(NamedTuple):
    """A bundle as it is when it is wanted, and when it was chosen (0: nobody chose it).

    A bundle is chosen by ``CURRENT``, or by a link that leads to it.
    """

    path: Path
    files: Fingerprint
    chosen: int

    @property
    def number(self) -> int:
        """A number that workers can share: the same attempt has the same one in each."""
        return int.from_bytes(hashlib.sha256(repr(self[1:]).encode()).digest()[:6])


class Refusal(NamedTuple):
    """An attempt that failed, and why."""

    attempt: Attempt
    reason: str


class Hold(NamedTuple):
    """An attempt that did not pass the gate beside the version in use then, and why."""

    attempt: Attempt
    used: str
    reason: str


class Versions:
    """The bundles that ``CTR_BUNDLE`` leads to, of which some are refused, held, or wait.

    A refused bundle is left alone until its files or their permissions change, as it may still be
    on its way, or until it is chosen again. A bundle with another request contract waits until it
    is chosen. One that did not pass the gate is held until its files change, another bundle is in
    use, or it is chosen. So is one whose trial ended badly; and while a bundle is on trial no other
    takes the place of the one in use, unless it is chosen.

    :meth:`wanted` reads the disk and runs in a thread of its own. What the properties show is
    replaced as a whole, so the event loop may read them at any time.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.refusals: dict[Path, Refusal] = {}
        self._holds: dict[Path, Hold] = {}
        self.problem: str | None = None
        """The reason for which no bundle was found at the last look: the next start would fail."""
        self.unreadable: Mapping[str, str] = {}
        """Bundles that cannot be read, by name, and why."""
        self.waiting: Mapping[str, str] = {}
        """Bundles that wait to be chosen, by name, and how their requests differ."""
        self.held: Mapping[str, str] = {}
        """Bundles that did not pass the gate, by name, and why."""
        self.rollout = Rollout()
        """The file ``ROLLOUT`` at the last look at which it could be read."""
        self._specs: dict[Path, tuple[Fingerprint, FeatureSpec]] = {}

    def wanted(self, current: Bundle) -> Attempt | None:
        """Return the bundle that should take the place of ``current``, if any should."""
        try:
            found = find_bundles(self.directory)
        except (BundleError, OSError) as error:
            if out_of_descriptors(error):
                return None  # Not a fault of the directory; the server tells it.
            if str(error) != self.problem:
                log.error("still serving %s: %s", current.path.name, error)
            self.problem = str(error)
            return None
        self.problem = None
        self._show_unreadable(found.unreadable)
        chosen = current_written(self.directory)
        self.rollout = look_at_rollout(self.directory) or self.rollout
        waiting: dict[str, str] = {}
        held: dict[str, str] = {}
        attempt = None
        for path in found.bundles:
            if path == current.path or path.name == current.path.name == current.version:
                break
            attempt = Attempt(path, _fingerprint(path), chosen)
            refusal = self.refusals.get(path)
            if refusal is None or _differs(attempt, refusal.attempt):
                difference = None if chosen else self._difference(attempt, current)
                if difference is not None:
                    waiting[path.name] = difference
                elif not chosen and self.rollout.candidate is not None:
                    pass  # What it is measured by stays until the trial ends.
                elif chosen or (reason := self._held(attempt, current.version)) is None:
                    break
                else:
                    held[path.name] = reason
            attempt = None
        self._show_waiting(waiting, current)
        self.held = held
        return attempt

    def refuse(self, attempt: Attempt, reason: str) -> None:
        """Remember that a bundle as it is cannot be served."""
        self.refusals[attempt.path] = Refusal(attempt, reason)

    def hold(self, attempt: Attempt, used: str, reason: str) -> None:
        """Remember that a bundle as it is did not pass the gate beside the version in use."""
        self._holds[attempt.path] = Hold(attempt, used, reason)
        self.held = {**self.held, attempt.path.name: reason}

    def _held(self, attempt: Attempt, used: str) -> str | None:
        """Return why an attempt is held beside a version, if it is."""
        ended = self.rollout.stopped.get(attempt.path.name)
        if ended is not None:
            return f"its trial ended: {ended.reason}"
        hold = self._holds.get(attempt.path)
        if hold is None or hold.attempt.files != attempt.files or hold.used != used:
            return None
        return hold.reason

    def notes(self, version: str) -> bool:
        """True if ``ROLLOUT`` has to be told that a version serves now."""
        rollout = self.rollout
        return rollout.candidate is not None or version in rollout.stopped

    def _difference(self, attempt: Attempt, current: Bundle) -> str | None:
        """Return how requests for a bundle differ from those for ``current``, if they do.

        A spec that cannot be read makes no difference: loading the bundle says what is wrong.
        """
        files, spec = self._specs.get(attempt.path, ((), None))
        if spec is None or files != attempt.files:
            try:
                spec = FeatureSpec.load(attempt.path / SPEC)
            except SpecError:
                return None
            self._specs[attempt.path] = attempt.files, spec
        return "; ".join(differences(current.spec, spec)) or None

    def _show_unreadable(self, unreadable: Mapping[str, str]) -> None:
        for name, reason in unreadable.items():
            if self.unreadable.get(name) != reason:
                log.error("bundle %s is skipped: %s", name, reason)
        self.unreadable = unreadable

    def _show_waiting(self, waiting: Mapping[str, str], current: Bundle) -> None:
        for name, difference in waiting.items():
            if self.waiting.get(name) != difference:
                log.warning(
                    "bundle %s waits to be activated: its requests differ from those of %s: %s",
                    name,
                    current.version,
                    difference,
                )
        self.waiting = waiting


def _differs(attempt: Attempt, refused: Attempt) -> bool:
    """Return whether there is a reason to try again."""
    return attempt.files != refused.files or attempt.chosen not in (0, refused.chosen)


def _fingerprint(path: Path) -> Fingerprint:
    """Return names, sizes and times of a bundle's files, and of its directories.

    The time of change is that of permissions too, which a modification does not touch.
    """
    found = []
    for file in [path, *sorted(path.rglob("*"))]:
        try:
            status = file.stat()
        except OSError:
            found.append((str(file.relative_to(path)), -1, -1, -1))
            continue
        size = 0 if file.is_dir() else status.st_size
        times = status.st_mtime_ns, status.st_ctime_ns
        found.append((str(file.relative_to(path)), size, *times))
    return tuple(found)
