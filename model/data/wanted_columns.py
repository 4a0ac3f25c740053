"""The columns that are read of a file, and the check that it has them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from app.features.nearest import suggestion
from model.data.errors import AbsentColumns, DataError
from model.data.file_blocks import WHOLE, FilePart

LINE, FILE = "\0line", "\0file"
"""Columns of a frame beside those of the spec, whose names have no NUL."""
KEPT = "\0kept "
"""Before the name of a column that is in a frame as the file has it."""
_SHOWN_NAMES = 200
"""Characters of the columns' names in a message."""
_OTHER_DELIMITERS = (",", ";", "\t", "|")
"""Delimiters that a file may have where the spec says another."""


class LogFile(NamedTuple):
    """A file, and its name in messages and results."""

    path: Path
    name: str


class Wanted(NamedTuple):
    """The columns that are read."""

    names: Sequence[str]
    keep: Sequence[str]
    optional: Collection[str]
    key: str | None = None
    part: FilePart = WHOLE

    def of(self, file: LogFile, present: Sequence[str]) -> list[str]:
        """Return those of a file with these columns, but for kept ones.

        Raises:
            DataError: it lacks one.
        """
        wanted = [n for n in self.names if n in present or n not in self.optional]
        _require_columns(file, wanted, present)
        _require_columns(file, self.keep, present, "--keep: ")
        return wanted


def _require_columns(
    file: LogFile, wanted: Sequence[str], present: Sequence[str], option: str = ""
) -> None:
    for name in wanted:
        if name not in present:
            if mark := _meant_delimiter(wanted, present):
                raise AbsentColumns(
                    f"{option}{file.name}: column {name!r} is absent, as names are separated by"
                    f" {mark!r} there: delimiter = {json.dumps(mark)} in the feature spec reads it"
                )
            names = ", ".join(map(repr, present))
            shown = names if len(names) <= _SHOWN_NAMES else f"{names[:_SHOWN_NAMES]}…"
            # A column that is wanted itself was not meant by another name.
            near = suggestion(name, [each for each in present if each not in wanted])
            raise AbsentColumns(
                f"{option}{file.name}: column {name!r} is absent; the columns are {shown}{near}",
                [each for each in wanted if each not in present],
                bool(near),
            )
        if present.count(name) > 1:
            raise DataError(f"{option}{file.name}: column {name!r} is there more than once")


def _meant_delimiter(wanted: Sequence[str], present: Sequence[str]) -> str:
    """Return what separates the wanted names within a header that was read as one; else empty."""
    if len(present) != 1:
        return ""
    parted = {mark: present[0].split(mark) for mark in _OTHER_DELIMITERS}
    return next((mark for mark, names in parted.items() if {*wanted} <= {*names}), "")
