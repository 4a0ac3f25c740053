"""Errors of data; a message names the file, and the line and column where it can."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import CtrError
from model.data.bad_lines import BadLines


class DataError(CtrError):
    """Data that cannot be trained on; the message names file, line and column."""


class AbsentColumns(DataError):
    """A file lacks columns; the message names the first."""

    # Defaults let it be pickled: a process may raise it in another's place.
    def __init__(self, message: str, names: Sequence[str] = (), near: bool = False) -> None:
        super().__init__(message)
        self.names = names
        self.near = near
        """True if a column that is there was probably meant."""


def no_usable_line(name: str, bad: BadLines) -> DataError:
    """Return the error of a file that has lines, all of them bad."""
    return DataError(f"{name} has no usable line\n{bad.report()}")
