"""Bundles in object stores: a directory of them there is read and written as one on this machine.

A store has no names that move, so the manifest is a bundle's name: it is written last, and what
lacks it is no bundle for any reader.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.bundle.directory import CURRENT, newest
from app.bundle.manifest import MANIFEST
from app.errors import BundleError, CtrError
from app.files import PARTIAL
from model.remote.file_systems import Entry, download, listing, remove, upload
from model.remote.files import COPIES, RemoteFile

STAGING = "bundles"
"""Directory, below that of encoded data, of bundles on their way to a store."""


@dataclass(frozen=True, slots=True)
class BundlePlace:
    """A directory of bundles: the one on this machine that a run writes to, and the store's."""

    directory: Path
    url: str | None = None

    def publish(self, bundle: Path) -> str:
        """Take a bundle, and the report beside it, to the store; return where the bundle is.

        Raises:
            RemoteError: the store does not take it; no reader sees a part of it.
        """
        if self.url is None:
            return str(bundle)
        target = f"{self.url}/{bundle.name}"
        files = sorted(path for path in bundle.rglob("*") if path.is_file())
        # The manifest, without which there is no bundle, comes when all else is there.
        files.sort(key=lambda path: path == bundle / MANIFEST)
        written: list[str] = []
        try:
            for path in files:
                written.append(f"{target}/{path.relative_to(bundle).as_posix()}")
                with path.open("rb") as content:
                    upload(content, written[-1])
        except CtrError:
            _forget(reversed(written))
            raise
        report = bundle.with_name(f"{bundle.name}.report")
        for path in sorted(path for path in report.rglob("*") if path.is_file()):
            with path.open("rb") as content:
                upload(content, f"{target}.report/{path.relative_to(report).as_posix()}")
        for directory in (bundle, report):
            shutil.rmtree(directory, ignore_errors=True)
        return target


@contextmanager
def bundle_place(out: Path, cache: Path | None) -> Iterator[BundlePlace]:
    """Yield where a run writes its bundle.

    For a store that is below ``cache``, where checkpoints outlive the run, or a temporary
    directory.
    """
    if not isinstance(out, RemoteFile):
        yield BundlePlace(out)
        return
    url = str(out)
    if cache is not None:
        yield BundlePlace(cache / STAGING / hashlib.sha256(url.encode()).hexdigest()[:16], url)
        return
    with tempfile.TemporaryDirectory(prefix="ctr-") as directory:
        yield BundlePlace(Path(directory), url)


def require_store(out: RemoteFile) -> None:
    """Check that files can be written below an address, before the work.

    Raises:
        RemoteError: they cannot.
    """
    probe = f"{out}/{PARTIAL}{secrets.token_hex(8)}"
    upload(io.BytesIO(b"\n"), probe)
    remove([probe])


def local_bundle(path: Path) -> Path:
    """Return where a bundle, or a directory of them, is on this machine.

    Of those in a store it is a copy of the one to serve, which is there as long as this process.

    Raises:
        RemoteError: the store does not give it.
        BundleError: there is none.
    """
    if not isinstance(path, RemoteFile):
        return path
    url = str(path)
    entries = {entry.url.removeprefix(f"{url}/"): entry for entry in listing(url)}
    directory = COPIES.new_directory()
    # First what tells which one is meant: the rules are those of a directory here.
    deciding = [
        name
        for name in entries
        if name in (CURRENT, MANIFEST) or (name.endswith(f"/{MANIFEST}") and name.count("/") == 1)
    ]
    for name in deciding:
        _copy(entries[name], directory / name)
    try:
        found = newest(directory)
    except BundleError as error:
        raise BundleError(str(error).replace(str(directory), url)) from error
    start = "" if found == directory.resolve() else f"{found.name}/"
    for name, entry in entries.items():
        if name.startswith(start) and name not in deciding:
            _copy(entry, directory / name)
    return found


def _copy(entry: Entry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        download(entry, file)


def _forget(urls: Iterator[str]) -> None:
    """Remove what an upload has left, if the store lets it: nobody reads it."""
    for url in urls:
        try:
            remove([url])
        except CtrError:
            return
