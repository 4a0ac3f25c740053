"""A directory of bundles: which of them to serve, by the file ``CURRENT`` or by age.

No other module reads or writes ``CURRENT``, whose only line is the name of a bundle.
"""

from __future__ import annotations

import re
from pathlib import Path

from app.bundle.manifest import MANIFEST, read_manifest
from app.errors import BundleError
from app.files import sync, write_file

CURRENT = "CURRENT"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")


def newest(path: Path) -> Path:
    """Return the bundle at ``path``, or the one to serve of that directory.

    Raises:
        BundleError: there is none.
    """
    return preferred_bundles(path)[0]


def preferred_bundles(path: Path) -> list[Path]:
    """Return the bundle at ``path``, or those of that directory that may be served, best first.

    That is the bundle that ``CURRENT`` names, where the directory has this file; otherwise the
    newest comes first.

    Raises:
        BundleError: there is none.
    """
    if _has_manifest(path):
        return [path]
    if not path.is_dir():
        raise BundleError(f"no bundle at {path}: there is no such directory")
    name = _current_name(path)
    if name is not None:
        if not _NAME.fullmatch(name) or not _has_manifest(path / name):
            raise BundleError(f"{path / CURRENT} names {name[:80]!r}, and there is no such bundle")
        return [path / name]
    complete = complete_bundles(path)
    if not complete:
        raise BundleError(f"no bundle at {path}: no {MANIFEST}, and no bundle directory inside")
    readable: list[tuple[str, str, Path]] = []
    problems = []
    for bundle in complete:
        try:
            readable.append((read_manifest(bundle).created, bundle.name, bundle))
        except BundleError as error:
            problems.append(str(error))
    if not readable:
        raise BundleError(f"no bundle at {path} can be read: {problems[0]}")
    return [bundle for _, _, bundle in sorted(readable, reverse=True)]


def complete_bundles(directory: Path) -> list[Path]:
    """Return the directories that have a bundle's name and a manifest, in no order.

    Raises:
        BundleError: the directory cannot be read.
    """
    try:
        return [
            child
            for child in directory.iterdir()
            if _NAME.fullmatch(child.name) and _has_manifest(child)
        ]
    except OSError as error:
        raise BundleError(f"{directory} cannot be read: {error.strerror}") from error


def _has_manifest(path: Path) -> bool:
    """Return whether a directory looks like a bundle.

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
        return file.read_text(errors="replace").strip()
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
        return (directory / CURRENT).read_bytes()
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
    """Return when ``CURRENT`` was written, in nanoseconds since 1970; 0 if it is not there."""
    try:
        return (directory / CURRENT).stat().st_mtime_ns
    except OSError:
        return 0
