"""Text files, plain or gzipped, opened as lines."""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from model.data.file_kinds import is_gzip

FIRST_BYTES = 2**16
"""Bytes from a file's beginning that tell how its lines end."""


@contextmanager
def open_text(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file; yield it as it is on disk, whose position tells progress, and as lines."""
    with path.open("rb") as on_disk:
        file = cast(IO[bytes], on_disk)
        if is_gzip(path):
            file = cast(IO[bytes], gzip.GzipFile(fileobj=on_disk))
        begin = file.read(FIRST_BYTES)
        file.seek(len(codecs.BOM_UTF8) if begin.startswith(codecs.BOM_UTF8) else 0)
        yield on_disk, io.BufferedReader(_CarriageReturns(file)) if ends_in_cr(begin) else file


def ends_in_cr(begin: bytes) -> bool:
    """Tell whether lines end in a carriage return alone, by a text's first ``FIRST_BYTES``."""
    return b"\r" in begin[: FIRST_BYTES - 1] and b"\n" not in begin


class _CarriageReturns(io.RawIOBase):
    """A file whose lines end in a carriage return alone; it reads as if they ended in LF."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(content)] = content
        return len(content)
