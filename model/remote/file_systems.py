"""Object stores: ``s3://``, ``gs://`` and ``hdfs://`` through the file systems of pyarrow.

This is the only module that talks to one. pyarrow is an extra (``stores``), which is imported when
the first address of a store is used.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import IO, Any, Self, TypeVar
from urllib.parse import urlsplit

from app.backoff import Backoff
from app.errors import CtrError

SCHEMES = ("s3", "gs", "hdfs")
TRIES = 6
"""Failures in a row after which a store is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds between two tries."""
CONNECT_SECONDS, REQUEST_SECONDS = 10.0, 60.0
CHUNK = 8 * 2**20
"""Bytes of one request of a download."""
_LASTING = {
    "ACCESS_DENIED": "access is denied",
    "INVALID_ACCESS_KEY_ID": "access is denied: the access key is not known",
    "INVALID_CLIENT_TOKEN_ID": "access is denied: the access key is not known",
    "SIGNATURE_DOES_NOT_MATCH": "access is denied: the secret key is not that of the access key",
    "UNRECOGNIZED_CLIENT": "access is denied: the access key is not known",
    "EXPIRED_TOKEN": "access is denied: the credentials have expired",
    "NO_SUCH_BUCKET": "there is no such bucket",
    "NO_SUCH_KEY": "there is no such file",
    "RESOURCE_NOT_FOUND": "there is no such file",
}
"""Errors of S3 that another try does not mend, and what they are called here."""
_PASSING = {
    "SLOW_DOWN": "the store asks for fewer requests",
    "THROTTLING": "the store asks for fewer requests",
    "REQUEST_LIMIT_EXCEEDED": "the store asks for fewer requests",
    "NETWORK_CONNECTION": "the connection failed",
    "REQUEST_TIMEOUT": "the store did not answer in time",
    "SERVICE_UNAVAILABLE": "the store is not available",
    "INTERNAL_FAILURE": "the store failed",
}
Result = TypeVar("Result")


class RemoteError(CtrError):
    """A file of an object store that cannot be read or written; the message names it."""


class _Lasting(Exception):
    """A failure that another try does not mend; its text is the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store: its address, and its size in bytes."""

    url: str
    size: int
    modified: int
    """The moment of its writing, in nanoseconds since 1970; 0 where the store does not say."""


def is_url(text: str) -> bool:
    """Tell whether a text is the address of an object store."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def checked_url(text: str) -> str:
    """Return an address in its usual form.

    Raises:
        RemoteError: it names no bucket, or a path that no file can have here.
    """
    scheme, _, rest = text.partition("://")
    if scheme == "hdfs" and rest.startswith("/"):
        # As pyarrow writes the file system that Hadoop's own settings name.
        rest = f"default{rest}"
    place, _, path = rest.partition("/")
    if not place:
        raise RemoteError(f"{text}: the bucket is missing: {scheme}://bucket/path")
    if "?" in place or "#" in place or "@" in place:
        raise RemoteError(
            f"{text}: an address is {scheme}://bucket/path; logins and options come from the"
            " environment"
        )
    segments = path.rstrip("/").split("/") if path.rstrip("/") else []
    if any(segment in ("", ".", "..") for segment in segments):
        raise RemoteError(f"{text}: empty parts of a path, '.' and '..' are not read")
    return "/".join([f"{scheme}://{place}", *segments])


def find(url: str) -> Entry:
    """Return a file of a store.

    Raises:
        RemoteError: it is not there, is a directory, or the store does not say.
    """
    return _tried("read", url, lambda: _entry(url))


def listing(url: str) -> list[Entry]:
    """Return all files below a directory of a store, by their addresses; none if it is absent.

    Raises:
        RemoteError: the store does not say.
    """
    from pyarrow import fs

    def ask() -> list[Entry]:
        system, path = _opened(url)
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        start = url.partition("://")[0] + "://"
        inside = [each for each in found if each.type == fs.FileType.File]
        return [_described(f"{start}{_named(url, each.path)}", each) for each in inside]

    return sorted(_tried("read", url, ask), key=lambda each: each.url)


def download(entry: Entry, file: IO[bytes]) -> None:
    """Write the content of a file of a store; after a cut connection it continues where it was.

    Raises:
        RemoteError: it cannot be read to its end, or changes meanwhile.
        OSError: ``file`` cannot be written.
    """
    done = 0
    with _Source(entry) as source:
        # Failures in a row are counted from one piece to the next.
        while done < entry.size:
            piece = _tried("read", entry.url, partial(source.piece, done))
            file.write(piece)
            done += len(piece)
    if _tried("read", entry.url, lambda: _entry(entry.url)) != entry:
        raise RemoteError(f"cannot read {entry.url}: it changed while it was read")


class _Source:
    """A file of a store, opened at the first piece and again after a failure."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._opened: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()

    def piece(self, start: int) -> bytes:
        """Return the next bytes from ``start`` on."""
        opened, self._opened = self._opened, None
        if opened is None:
            system, path = _opened(self._entry.url)
            opened = system.open_input_file(path)
        piece: bytes = opened.read_at(min(CHUNK, self._entry.size - start), start)
        if not piece:
            raise OSError(f"it ends after {start} of {self._entry.size} bytes")
        self._opened = opened
        return piece


def upload(content: IO[bytes], url: str) -> None:
    """Write a file to a store, whole or not at all; one of that name is replaced.

    Raises:
        RemoteError: it cannot be written.
    """

    def put() -> None:
        system, path = _opened(url)
        content.seek(0)
        if url.startswith("hdfs://"):
            system.create_dir(path.rpartition("/")[0], recursive=True)
        size = 0
        with system.open_output_stream(path) as stream:
            while piece := content.read(CHUNK):
                stream.write(piece)
                size += len(piece)
        if (found := _entry(url)).size != size:
            raise OSError(f"{found.size} of {size} bytes were kept")

    _tried("write", url, put)


def remove(urls: Sequence[str]) -> None:
    """Remove files of a store; absent ones are none.

    Raises:
        RemoteError: one cannot be removed.
    """
    from pyarrow import fs

    for url in urls:

        def drop(url: str = url) -> None:
            system, path = _opened(url)
            if system.get_file_info(path).type == fs.FileType.File:
                system.delete_file(path)

        _tried("remove", url, drop)


def _entry(url: str) -> Entry:
    from pyarrow import fs

    system, path = _opened(url)
    found = system.get_file_info(path)
    if found.type == fs.FileType.Directory:
        raise _Lasting(f"it is a directory: name the files in it, such as {url}/*")
    if found.type != fs.FileType.File:
        bucket = path.partition("/")[0]
        if not url.startswith("hdfs://") and system.get_file_info(bucket).type == (
            fs.FileType.NotFound
        ):
            raise _Lasting(f"there is no bucket {bucket!r}")
        raise _Lasting("there is no such file")
    return _described(url, found)


def _described(url: str, found: Any) -> Entry:
    return Entry(url, found.size, found.mtime_ns or 0)


def _named(url: str, path: str) -> str:
    """Return what stands in an address after the scheme, of a path of its store."""
    if not url.startswith("hdfs://"):
        return path
    return urlsplit(url).netloc + "/" + urlsplit(path).path.lstrip("/")


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    system = _system(scheme, place)
    return system, f"/{path}" if scheme == "hdfs" else f"{place}/{path}".rstrip("/")


@cache
def _system(scheme: str, place: str) -> Any:
    """Return the file system of a bucket, or of a name node."""
    from pyarrow import fs

    # Tries are counted here, alike for all stores: none is left to the libraries.
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region is None and endpoint is None:
            region = fs.resolve_s3_region(place)
        return fs.S3FileSystem(
            region=region,
            endpoint_override=endpoint,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        )
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=CONNECT_SECONDS))
    parts = urlsplit(f"hdfs://{place}")
    return fs.HadoopFileSystem(parts.hostname or "default", parts.port or 0)


def _tried(what: str, url: str, work: Callable[[], Result]) -> Result:
    """Do something with a store, again after a pause where that may help.

    Raises:
        RemoteError: it failed for good, or too often in a row.
    """
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    while True:
        try:
            return work()
        except ModuleNotFoundError as error:
            raise RemoteError(
                f"cannot {what} {url}: the package {error.name!r} is not there; the extra"
                " [stores] has it (pip install pyarrow)"
            ) from error
        except _Lasting as lasting:
            raise RemoteError(f"cannot {what} {url}: {lasting}") from None
        except Exception as error:
            if not isinstance(error, OSError | ValueError) and not _of_arrow(error):
                raise
            reason, lasts = _reason(error)
            if lasts:
                raise RemoteError(f"cannot {what} {url}: {reason}") from error
            pause = backoff.fail()
            if backoff.failures == TRIES:
                raise RemoteError(
                    f"cannot {what} {url}: {reason} ({TRIES} tries failed)"
                ) from error
            time.sleep(pause)


def _of_arrow(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "pyarrow"


def _reason(error: Exception) -> tuple[str, bool]:
    """Return what went wrong in a line, and whether another try is in vain."""
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        return "there is no such file or bucket", True
    if isinstance(error, PermissionError):
        return f"access is denied: {_shortened(text)}", True
    named = re.search(r"AWS Error ([A-Z_]+)", text)
    code = named[1] if named else ""
    status = re.search(r"HTTP status (\d{3})|\(HTTP status code: (\d{3})\)", text)
    number = int(next(filter(None, status.groups()))) if status else 0
    if code in _LASTING or number in (401, 403):
        hint = "; credentials come from the environment or ~/.aws" if "ACCESS" in code else ""
        return f"{_LASTING.get(code, 'access is denied')}{hint}", True
    if code in _PASSING or number in (429, 503):
        return _PASSING.get(code, "the store asks for fewer requests"), False
    # What cannot be loaded or parsed stays so: Hadoop's library, an address.
    lasting = isinstance(error, ValueError | NotImplementedError) or "libhdfs" in text
    return _shortened(text), lasting


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"
