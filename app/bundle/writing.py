"""Writes a bundle, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
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


def write_bundle(
    directory: Path,
    fill: Callable[[Path], None],
    describe: Callable[[], dict[str, Any]],
) -> Path:
    """Write a bundle below ``directory`` and return its path.

    ``fill`` writes every file but the manifest into the directory that it is given; ``describe``
    then returns the manifest's fields that are not derived from the files. If either raises, or
    the process is interrupted, nothing is left that looks like a bundle.

    Raises:
        BundleError: the directory cannot be written to, or is full.
    """
    try:
        with partial_directory(directory) as partial:
            fill(partial)
            manifest = _manifest(partial, describe())
            content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
            (partial / MANIFEST).write_bytes(content + b"\n")
            # A service of another user reads it.
            partial.chmod(0o755)
            target = directory / manifest.version
            # A directory of that name has the same content, written within the same second.
            if not target.is_dir():
                put_in_place(partial, target)
            return target
    except OSError as error:
        raise BundleError(
            f"no bundle could be written to {directory}: {error.strerror or error}"
        ) from error


def _manifest(directory: Path, described: dict[str, Any]) -> Manifest:
    """Return the manifest of the files in a directory, created now."""
    files = {name: FileRecord.of(path) for name, path in described_files(directory)}
    return Manifest(
        format_version=FORMAT_VERSION,
        id=bundle_id(files),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        vocabulary_hash=vocabulary_hash(files),
        files=files,
        **described,
    )
