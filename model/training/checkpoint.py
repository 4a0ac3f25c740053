"""Checkpoints: the state of a run on disk, from which a later process can resume."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import CtrError
from app.files import remove_abandoned
from model.array_files import Arrays, DamagedError, read_arrays, write_arrays
from model.progress import warn
from model.sharding.shard import Shard

KEPT = 2
"""Checkpoints that are kept: if the newest is damaged, the one before is used."""


ROWS = (
    "network.table",
    "network.learned",
    "best.table",
    "best.learned",
    "table.mean",
    "table.square",
)
"""Arrays with a row for each row of the table, of which a process of a sharded one has its own."""


class CheckpointError(CtrError):
    """A checkpoint that cannot be written; the message names it and the reason."""


class TrainingState(NamedTuple):
    """All that a run needs to continue after ``step``: plain values and arrays."""

    step: int
    values: dict[str, Any]
    arrays: Arrays


@dataclass(slots=True)
class Checkpoints:
    """Writes a run's state below ``directory`` every so many seconds or steps; 0 is never.

    With ``resume`` the run continues from the newest whole checkpoint; without, those of an
    earlier run are removed.
    """

    directory: Path
    seconds: float = 600.0
    steps: int = 0
    resume: bool = False
    shard: Shard | None = None
    """This process' part of a sharded table. A checkpoint has all of it, so that any number of
    processes can resume it."""
    state: TrainingState | None = None
    """The state to resume from, after :meth:`begin`."""
    _written: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Find the state to resume from, if any; a damaged one is skipped with a warning."""
        if not self.resume:
            self.clear()
            return
        remove_abandoned(self.directory)
        for path in self._newest_first():
            try:
                values, arrays = read_arrays(path, mapped=self.shard is not None)
            except DamagedError as error:
                warn(f"a damaged checkpoint is skipped: {error}")
                continue
            self.state = TrainingState(_step(path), values, self._own(arrays))
            return

    def _own(self, arrays: Arrays) -> Arrays:
        """Return this process' part of what a checkpoint holds."""
        if self.shard is None:
            return arrays
        taken = self.shard.taken
        return {
            name: np.array(array[taken] if name in ROWS else array)
            for name, array in arrays.items()
        }

    def due(self, step: int) -> bool:
        """Return whether the state after ``step`` is to be written."""
        by_step = self.steps > 0 and step % self.steps == 0
        return by_step or 0 < self.seconds <= time.monotonic() - self._written

    def write(self, step: int, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Write a state, and then remove all but the last ones.

        The processes of a sharded table call this together; the first one writes what the others
        send, piece by piece.

        Raises:
            CheckpointError: it cannot be written; the ones before it stay.
        """
        if self.shard is not None and self.shard.group.rank:
            for _ in self._pieces(arrays):
                pass
            return
        place = self.directory / f"step-{step}"
        try:
            with write_arrays(place) as checkpoint:
                checkpoint.description = values
                for name, array in arrays.items():
                    if self.shard is None or name not in ROWS:
                        checkpoint.save(name, array)
                for name, piece in self._pieces(arrays):
                    checkpoint.append(name, piece)
            for path in self._newest_first()[KEPT:]:
                shutil.rmtree(path)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {place} cannot be written: {error.strerror or error}; make room and"
                " run the same command with --resume, or train without checkpoints"
                " (--checkpoint-seconds 0)"
            ) from error
        self._written = time.monotonic()

    def _pieces(self, arrays: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the rows of a sharded table in the first process, and send them in the others."""
        if self.shard is not None:
            for name in (name for name in ROWS if name in arrays):
                for piece in self.shard.to_first(arrays[name]):
                    yield name, piece

    def clear(self) -> None:
        """Remove every checkpoint, half-written ones too."""
        shutil.rmtree(self.directory, ignore_errors=True)
        # Fails where other runs have checkpoints beside it.
        with suppress(OSError):
            self.directory.parent.rmdir()

    def _newest_first(self) -> list[Path]:
        found = self.directory.glob("step-*") if self.directory.is_dir() else []
        return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
