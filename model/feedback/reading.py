"""Files of the request log and of events, line after line: the service may be writing them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import TypeVar

import msgspec

from app.errors import CtrError
from app.feedback.event_format import EVENTS, LoggedEvent, decode_event
from app.feedback.log_format import CLOSED, OPEN, PREFIX, LoggedBundle, LoggedRequest, decode_line

T = TypeVar("T")


class FeedbackDataError(CtrError):
    """A directory that holds no log, or a log that cannot be read."""


class Logs:
    """The files of some directories.

    A line that is cut short, as by a process that was killed while it wrote, ends its file; so
    does a file that is deleted meanwhile.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        """Find the files.

        Raises:
            FeedbackDataError: a directory is absent, or there are no requests in any.
        """
        for directory in directories:
            if not directory.is_dir():
                raise FeedbackDataError(f"{directory}: there is no such directory")
        files = sorted(
            (path for directory in directories for path in directory.iterdir()),
            key=lambda path: path.name,
        )
        self.request_files = [
            path
            for path in files
            if path.name.startswith(PREFIX) and path.name.endswith((CLOSED, CLOSED + OPEN))
        ]
        self.event_files = [path for path in files if EVENTS.fullmatch(path.name)]
        if not self.request_files:
            named = ", ".join(map(str, directories))
            raise FeedbackDataError(f"no requests are logged in {named}: see CTR_REQUEST_LOG")
        self.cut_short = 0
        """Files that end in the middle of a line, or are damaged from there on."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        found = 0
        for path in (*self.request_files, *self.event_files):
            try:
                found += path.stat().st_size
            except FileNotFoundError:
                continue
        return found

    def requests(self) -> Iterator[LoggedBundle | LoggedRequest]:
        """Yield the lines of all request files, file after file."""
        for path in self.request_files:
            yield from self._lines(path, decode_line)

    def events(self) -> Iterator[LoggedEvent]:
        """Yield all events, file after file."""
        for path in self.event_files:
            yield from self._lines(path, decode_event)

    def _lines(self, path: Path, decode: Callable[[bytes], T]) -> Iterator[T]:
        try:
            with _opened(path) as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        raise EOFError
                    yield decode(line)
        except FileNotFoundError:
            # It has been deleted to keep within the budget.
            return
        except (EOFError, gzip.BadGzipFile, zlib.error, msgspec.MsgspecError):
            self.cut_short += 1


def _opened(path: Path) -> BufferedIOBase:
    if not path.name.startswith(PREFIX):
        return path.open("rb")
    try:
        return gzip.open(path)
    except FileNotFoundError:
        # A file in use has another name once it is closed.
        return gzip.open(path.with_name(path.name.removesuffix(OPEN)))
