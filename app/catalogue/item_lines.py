"""Items and profiles as JSON lines, checked by the spec of a bundle before they are stored."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from app.catalogue.kinds import ITEMS, Kind
from app.errors import ValueProblem
from app.features.encoder import Encoder, SideEncoder
from app.store.store import MOST_ID_BYTES, MOST_VALUE_BYTES, Item, Values

_BOM = b"\xef\xbb\xbf"
_FIRST_BYTES = 65_536
_FIRST_LINES = 20


class _Line(msgspec.Struct):
    id: int | str
    features: dict[str, Any]


_line_decoder = msgspec.json.Decoder(_Line)
_encode = msgspec.json.Encoder().encode
_object_decoder = msgspec.json.Decoder(dict[str, Any])


class BadLine(NamedTuple):
    """A line that is no entry, or whose values break a rule of the spec."""

    number: int
    field: str
    """Empty where the line as a whole is wrong."""
    problem: str

    def __str__(self) -> str:
        return f"{f'field {self.field!r}: ' if self.field else ''}{self.problem}"


def read_lines(
    lines: Iterable[bytes], encoder: Encoder, kind: Kind = ITEMS, id_field: str | None = None
) -> Iterator[Item | BadLine]:
    r"""Yield the entry of each line that is not empty, or the first problem of it.

    A line is ``{"id": 7, "features": {…}}``; with ``id_field`` it is the values themselves, one of
    which is the id. It ends in ``\n`` or ``\r\n``. A profile need not have the fields that its side
    requires: a request may have them.
    """
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if not text.strip():
            continue
        try:
            yield _entry(number, text, encoder, kind, id_field)
        except msgspec.MsgspecError as error:
            ends = "; a line ends in \\n or \\r\\n" if b"\r" in text.strip() else ""
            yield BadLine(number, "", f"{error}{ends}")
        except (UnicodeDecodeError, RecursionError):
            yield BadLine(number, "", "not UTF-8, or nested too deeply")


def _entry(
    number: int, text: bytes, encoder: Encoder, kind: Kind, id_field: str | None
) -> Item | BadLine:
    if id_field is None:
        line = _line_decoder.decode(text)
        identity, values = line.id, line.features
    else:
        values = _object_decoder.decode(text)
        identity = values.get(id_field)  # type: ignore[assignment]
        if type(identity) not in (int, str):
            return BadLine(number, id_field, f"expected the {kind.name}'s id, an integer or text")
    if (wrong := _out_of_bounds(identity, values, text)) is not None:
        return BadLine(number, "", wrong)
    own, other = encoder.candidate, encoder.context
    if kind.side == "context":
        own, other = other, own
    if misplaced := values.keys() & other.fields:
        return BadLine(number, min(misplaced), f"this is a {_other(kind)} field")
    if (found := _problem(own, own.stored(values), kind)) is not None:
        name, problem = found
        place = "" if problem.position is None else f"[{problem.position}]"
        return BadLine(number, f"{name}{place}", problem.problem)
    return Item(identity, values)


def _out_of_bounds(identity: int | str, values: Values, text: bytes) -> str | None:
    """Return the bound that an entry breaks."""
    if not 0 < len(str(identity).encode()) <= MOST_ID_BYTES:
        return f"expected an id of 1 to {MOST_ID_BYTES} bytes"
    # Few lines are that long; the spaces of one do not count.
    if len(text) > MOST_VALUE_BYTES and len(_encode(values)) > MOST_VALUE_BYTES:
        return f"the values are over {MOST_VALUE_BYTES} bytes of JSON"
    return None


def _other(kind: Kind) -> str:
    return "context" if kind.side == "candidate" else "candidate"


def _problem(
    side: SideEncoder, values: Mapping[str, Any], kind: Kind
) -> tuple[str, ValueProblem] | None:
    """Return the first field whose value breaks a rule, with the problem."""
    if kind is ITEMS:
        try:
            side.row(values)
        except ValueProblem:
            return next(iter(side.problems(values)))
        return None
    return next((each for each in side.problems(values) if each[0] in values), None)


def open_lines(path: Path) -> BinaryIO:
    """Open a file of lines, compressed by gzip if its name ends in ``.gz``.

    Raises:
        OSError: it cannot be opened.
    """
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def may_be_lines(path: Path) -> bool:
    """Tell whether a file may be JSON lines: one of its first lines begins as JSON does.

    A file without lines may be, too.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read.
    """
    with open_lines(path) as opened:
        lines = opened.read(_FIRST_BYTES).removeprefix(_BOM).splitlines()
    first = [text for line in lines if (text := line.strip())][:_FIRST_LINES]
    return not first or any(text.startswith((b"{", b"[")) for text in first)
