"""TOML files that people write: read and parsed, with errors that name file, line and cause."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.errors import CtrError

MOST_BYTES = 16 * 2**20
"""Size from which a file is no longer read: it is data, given in the wrong place."""
_SHOWN = 60
"""Characters of a line that a message shows."""
_DATA_ENDINGS = {".csv", ".tsv", ".parquet", ".pq", ".gz", ".gzip", ".jsonl", ".xlsx"}
_MAGIC = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip archive or an Excel file",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class TomlError(CtrError):
    """A file that is not readable TOML; the message names the file, the line and the cause."""


def read_toml_text(path: Path, what: str) -> str:
    """Return a file's text with LF line ends and without a byte order mark.

    ``what`` says in errors what the file should be.

    Raises:
        TomlError: it cannot be read, is too large, or is not UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except IsADirectoryError as error:
        raise TomlError(f"cannot read {what} {path}: it is a directory; name a file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TomlError(f"cannot read {what} {path}: {reason}") from error
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            raise TomlError(not_toml(path, kind, what))
    if content.startswith(_UTF16):
        raise TomlError(f"{path} is UTF-16; save the {what} as UTF-8")
    if len(content) > MOST_BYTES:
        size = f"larger than {MOST_BYTES // 2**20} MiB"
        raise TomlError(not_toml(path, f"a data file ({size})", what))
    if b"\0" in content:
        raise TomlError(not_toml(path, "a binary file", what))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if path.suffix.lower() in _DATA_ENDINGS:
            raise TomlError(not_toml(path, "a data file", what)) from error
        line = content.count(b"\n", 0, error.start) + 1
        raise TomlError(f"{path}:{line}: not UTF-8; save the {what} as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_toml(text: str, name: str, what: str) -> dict[str, Any]:
    """Parse a text; ``name`` is the file's, and ``what`` says what it should be.

    Raises:
        TomlError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if Path(name).suffix.lower() in _DATA_ENDINGS or _looks_delimited(text):
            raise TomlError(not_toml(Path(name), "a data file", what)) from error
        raise TomlError(_at_line(text, name, str(error))) from error


def not_toml(path: Path, kind: str, what: str) -> str:
    """Return the message for a file of another kind."""
    return f"{path} is {kind}; the {what} must be a TOML file"


def listed(errors: Sequence[str], name: str) -> str:
    """Return the errors of a file as one message: a line, or their number and a line for each."""
    start = f"{name}: " if name else ""
    if len(errors) == 1:
        return f"{start}{errors[0]}"
    return "\n  ".join([f"{start}{len(errors)} errors", *errors])


def _looks_delimited(text: str) -> bool:
    """Tell whether a text begins with delimited cells, which no TOML file does."""
    lines = (line.strip() for line in text.splitlines())
    first = next(filter(None, lines), "")
    return not re.search(r"[=\[#{:]", first) and bool(re.search(r"[,;\t|]", first))


def _at_line(text: str, name: str, message: str) -> str:
    lines = text.rstrip().splitlines() or [""]
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    reason = message[: found.start()] if found else message
    number = int(found[1]) if found and found[1] else len(lines)
    column = f", column {found[2]}" if found and found[2] else ""
    line = lines[min(number, len(lines)) - 1].strip()
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
    return f"{name}:{number}{column}: not TOML: {reason[:1].lower()}{reason[1:]}: {shown}"
