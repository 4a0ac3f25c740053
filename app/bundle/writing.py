"""Writes a bundle, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from app.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    FileRecord,
    Manifest,
    bundle_id,
    described_files,
    vocabulary_hash,
)
from app.errors import BundleError
from app.files import partial_directory, put_in_place


class NewBundle:
    """A bundle that is being written: its files go into ``directory``, then it is finished."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def finish(self, description: Mapping[str, Any]) -> Path:
        """Write the manifest, give the bundle its name and return its path.

        ``description`` holds the manifest's fields that are not derived from the files.
        """
        files = {name: FileRecord.of(path) for name, path in described_files(self.directory)}
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            id=bundle_id(files),
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            vocabulary_hash=vocabulary_hash(files),
            files=files,
            **description,
        )
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (self.directory / MANIFEST).write_bytes(content + b"\n")
        # A service of another user reads it.
        self.directory.chmod(0o755)
        target = self.directory.parent / manifest.version
        # A directory of that name has the same content, written within the same second.
        if not target.is_dir():
            put_in_place(self.directory, target)
        return target


@contextmanager
def new_bundle(directory: Path) -> Iterator[NewBundle]:
    """Yield a bundle to be written below ``directory``.

    Unless it is finished, or where the process is interrupted, nothing is left that looks like a
    bundle.

    Raises:
        BundleError: the directory cannot be written to, or is full.
    """
    try:
        with partial_directory(directory) as partial:
            yield NewBundle(partial)
    except OSError as error:
        raise BundleError(
            f"no bundle could be written to {directory}: {error.strerror or error}"
        ) from error
