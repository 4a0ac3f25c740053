"""Places for results, checked before the work: an hour of training must not end at a closed door.

The checks create a temporary name and remove it, so they notice what permissions do not tell: a
file system that is read-only, or full of files.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.bundle.directory import is_bundle
from app.errors import CtrError
from app.files import PARTIAL
from model.remote.bundles import require_store
from model.remote.files import RemoteFile, is_address


class ResultError(CtrError):
    """Results that cannot be written; the message names the place and the reason."""


def require_directory(directory: Path) -> None:
    """Check that files can be written into a directory, which may be absent yet.

    Raises:
        ResultError: they cannot.
    """
    _require_here(directory)
    created: list[Path] = []
    try:
        for each in reversed([directory, *directory.parents]):
            if not each.exists():
                each.mkdir()
                created.append(each)
        _try_to_write(directory)
    except OSError as error:
        raise _refused(directory, error) from error
    finally:
        for each in reversed(created):
            with suppress(OSError):
                each.rmdir()


def require_bundle_directory(directory: Path) -> None:
    """Check that bundles can be written into a directory, which may be absent yet.

    It may be one of an object store.

    Raises:
        ResultError: they cannot, or it is a bundle itself.
        RemoteError: the store does not take them.
    """
    if isinstance(directory, RemoteFile):
        require_store(directory)
        return
    require_directory(directory)
    if is_bundle(directory):
        raise ResultError(f"{directory} is a bundle; name the directory that holds bundles")


def require_file(
    path: Path, inputs: Sequence[Path] = (), bundle: Path | None = None, parents: bool = False
) -> None:
    """Check that a file can be written, or replaced, without harm to what the command reads.

    With ``parents`` its directory may be absent yet.

    Raises:
        ResultError: it cannot, is one of the ``inputs`` under this or another name, or lies in
            the ``bundle``.
    """
    _require_here(path)
    try:
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and stat.S_ISDIR(mode):
            raise ResultError(f"{path} cannot be written: it is a directory")
        if mode is not None and not stat.S_ISREG(mode):
            raise ResultError(f"{path} cannot be written: it is not an ordinary file")
        if parents and not path.parent.exists():
            require_directory(path.parent)
            return
        if not path.parent.is_dir():
            raise ResultError(f"{path} cannot be written: there is no directory {path.parent}")
        for given in inputs:
            # A file of a store is none of this machine's; asking for it would copy it.
            if isinstance(given, RemoteFile):
                continue
            if mode is not None and given.exists() and path.samefile(given):
                named = "an input" if path == given else f"the input {given} by another name"
                raise ResultError(f"{path} is {named}, and must stay; name another file")
        if bundle is not None and path.parent.resolve().is_relative_to(bundle.resolve()):
            raise ResultError(f"{path} lies in the bundle {bundle.name}, which must not change")
        _try_to_write(path.parent)
    except OSError as error:
        raise _refused(path, error) from error


def _require_here(path: Path) -> None:
    """Refuse an address of a store, which as a path would be a directory here."""
    if is_address(path):
        raise ResultError(
            f"{RemoteFile(path)} cannot be written: of all results only the bundles of train can be"
            " in an object store"
        )


def _try_to_write(directory: Path) -> None:
    with tempfile.NamedTemporaryFile(prefix=PARTIAL, dir=directory):
        pass


def _refused(path: Path, error: OSError) -> ResultError:
    # Of a temporary file the name says nothing to the reader.
    place = error.filename
    shown = f"{place}: " if place and PARTIAL not in str(place) and Path(place) != path else ""
    return ResultError(f"{path} cannot be written: {shown}{error.strerror or error}")


def reason_of(error: OSError) -> str:
    """Return an error of the system in a line: the file, where known, and the reason."""
    reason = error.strerror or str(error)
    return f"{os.fspath(error.filename)}: {reason}" if error.filename else reason
