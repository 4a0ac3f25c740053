"""Items as JSON lines, checked by the spec of a bundle before they are stored."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from app.errors import ValueProblem
from app.features.encoder import Encoder
from app.store.store import Item

_BOM = b"\xef\xbb\xbf"


class _Line(msgspec.Struct):
    id: int | str
    features: dict[str, Any]


_line_decoder = msgspec.json.Decoder(_Line)
_object_decoder = msgspec.json.Decoder(dict[str, Any])


class BadLine(NamedTuple):
    """A line that is no item, or whose values break a rule of the spec."""

    number: int
    field: str
    """Empty where the line as a whole is wrong."""
    problem: str

    def __str__(self) -> str:
        return f"{f'field {self.field!r}: ' if self.field else ''}{self.problem}"


def read_items(
    lines: Iterable[bytes], encoder: Encoder, id_field: str | None = None
) -> Iterator[Item | BadLine]:
    """Yield the item of each line that is not empty, or the first problem of it.

    A line is ``{"id": 7, "features": {…}}``; with ``id_field`` it is the values themselves, one of
    which is the id.
    """
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if not text.strip():
            continue
        try:
            yield _item(number, text, encoder, id_field)
        except msgspec.MsgspecError as error:
            yield BadLine(number, "", str(error))
        except (UnicodeDecodeError, RecursionError):
            yield BadLine(number, "", "not UTF-8, or nested too deeply")


def _item(number: int, text: bytes, encoder: Encoder, id_field: str | None) -> Item | BadLine:
    if id_field is None:
        line = _line_decoder.decode(text)
        identity, values = line.id, line.features
    else:
        values = _object_decoder.decode(text)
        identity = values.get(id_field)  # type: ignore[assignment]
        if type(identity) not in (int, str):
            return BadLine(number, id_field, "expected the item's id, an integer or text")
    side = encoder.candidate
    if misplaced := values.keys() & encoder.context.fields:
        return BadLine(number, min(misplaced), "this is a context field")
    try:
        side.row(values)
    except ValueProblem:
        name, problem = next(iter(side.problems(values)))
        place = "" if problem.position is None else f"[{problem.position}]"
        return BadLine(number, f"{name}{place}", problem.problem)
    return Item(identity, values)


def open_lines(path: Path) -> BinaryIO:
    """Open a file of lines, compressed by gzip if its name ends in ``.gz``.

    Raises:
        OSError: it cannot be opened.
    """
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")
