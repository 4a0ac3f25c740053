"""A directory of bundles: which of them to serve, by the file ``CURRENT`` or by age.

No other module reads or writes ``CURRENT``, whose only line is the name of a bundle.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from app.bundle.manifest import MANIFEST, read_manifest
from app.errors import BundleError
from app.files import read_regular, sync, write_file

CURRENT = "CURRENT"
CURRENT_BYTES = 4096
"""Bytes of the file that are read; a name has 29."""
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")


class Found(NamedTuple):
    """Bundles that may be served, best first, and those that cannot be read, with the reason."""

    bundles: list[Path]
    unreadable: Mapping[str, str]


def newest(path: Path) -> Path:
    """Return the bundle at ``path``, or the one to serve of that directory.

    Raises:
        BundleError: there is none.
    """
    return find_bundles(path).bundles[0]


def find_bundles(path: Path) -> Found:
    """Return the bundle at ``path``, or those of that directory that may be served.

    A bundle that ``path`` leads to through links is returned as the directory that it is, so that
    a link that is turned leads to another one. Of a directory it is the bundle that ``CURRENT``
    names, where the directory has this file; otherwise the newest comes first.

    Raises:
        BundleError: there is none.
    """
    try:
        if is_bundle(path):
            return Found([path.resolve()], {})
        directory, present = path.is_dir(), path.exists()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if not directory:
        state = "it is a file, not a directory" if present else "there is no such directory"
        raise BundleError(f"no bundle at {path}: {state}")
    name = _current_name(path)
    readable, unreadable = _readable(path)
    if name is not None:
        if not _NAME.fullmatch(name) or not is_bundle(path / name):
            raise BundleError(f"{path / CURRENT} names {name[:80]!r}, and there is no such bundle")
        return Found([path / name], unreadable)
    if not readable and not unreadable:
        raise BundleError(f"no bundle at {path}: no {MANIFEST}, and no bundle directory inside")
    if not readable:
        raise BundleError(f"no bundle at {path} can be read: {next(iter(unreadable.values()))}")
    return Found(readable, unreadable)


def _readable(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the bundles of a directory, the newest first, and those whose manifest is not read."""
    readable: list[tuple[str, str, Path]] = []
    unreadable = {}
    for bundle in complete_bundles(directory):
        try:
            readable.append((read_manifest(bundle).created, bundle.name, bundle))
        except BundleError as error:
            unreadable[bundle.name] = str(error)
    return [bundle for _, _, bundle in sorted(readable, reverse=True)], unreadable


def complete_bundles(directory: Path) -> list[Path]:
    """Return the directories that have a bundle's name and a manifest, in no order.

    Raises:
        BundleError: the directory cannot be read.
    """
    try:
        return [
            child
            for child in directory.iterdir()
            if _NAME.fullmatch(child.name) and is_bundle(child)
        ]
    except OSError as error:
        raise BundleError(f"{directory} cannot be read: {error.strerror}") from error


def is_bundle(path: Path) -> bool:
    """Return whether a directory, or a link to one, looks like a bundle.

    One without permission to look inside does if it has the name: reading it tells why.
    """
    try:
        return (path / MANIFEST).is_file()
    except PermissionError:
        return _NAME.fullmatch(path.name) is not None


def _current_name(directory: Path) -> str | None:
    """Return the name in ``CURRENT``; None if the directory has no such file.

    Raises:
        BundleError: ``CURRENT`` is there and cannot be read as a file.
    """
    file = directory / CURRENT
    try:
        return read_regular(file, CURRENT_BYTES).decode(errors="replace").strip()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not file.is_symlink():
            return None
        raise BundleError(
            f"{file} cannot be read, and should be a file with a bundle's name: {error.strerror}"
        ) from error


def read_current(directory: Path) -> bytes | None:
    """Return the content of ``CURRENT``; None if it is not there.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        return read_regular(directory / CURRENT, CURRENT_BYTES)
    except FileNotFoundError:
        return None


def write_current(directory: Path, content: bytes | None) -> int:
    """Write ``CURRENT``, whole or not at all, or remove it; return :func:`current_written`.

    Raises:
        OSError: the directory cannot be written to.
    """
    if content is None:
        (directory / CURRENT).unlink(missing_ok=True)
        sync(directory)
    else:
        # Readable by a service of another user, whatever the umask.
        write_file(directory / CURRENT, content, mode=0o644)
    return current_written(directory)


def current_written(directory: Path) -> int:
    """Return when a bundle was last chosen, in nanoseconds since 1970; 0 if none is.

    That is when ``CURRENT`` was written, or when the link was made that leads to a bundle.
    """
    try:
        if is_bundle(directory):
            return _youngest_link(directory)
        return (directory / CURRENT).stat().st_mtime_ns
    except OSError:
        return 0


def _youngest_link(path: Path) -> int:
    """Return when the youngest link on the way to ``path`` was made; 0 if there is none."""
    times = [0]
    for part in (path, *path.absolute().parents):
        status = part.lstat()
        if stat.S_ISLNK(status.st_mode):
            times.append(status.st_mtime_ns)
    return max(times)
