"""The check that a bundle's files are those that its manifest describes."""

from __future__ import annotations

from pathlib import Path

from app.bundle.manifest import Manifest, bundle_id, described_files
from app.bundle.verified_files import VerifiedFiles
from app.errors import BundleError


def verify_files(bundle: Path, manifest: Manifest, verified: VerifiedFiles) -> None:
    """Raise ``BundleError`` unless the files are exactly those that the manifest lists.

    Large files that are ``verified`` already, and unchanged since, are not read again.
    """
    present = dict(described_files(bundle))
    for name in sorted(manifest.files.keys() - present.keys()):
        raise BundleError(f"{bundle.name}: {name} is absent")
    for name in sorted(present.keys() - manifest.files.keys()):
        raise BundleError(f"{bundle.name}: {name} is not in the manifest")
    for name, record in sorted(manifest.files.items()):
        size = present[name].stat().st_size
        if size != record.size:
            raise BundleError(
                f"{bundle.name}: {name} has {size} bytes, the manifest says {record.size}"
            )
        if verified.sha256(present[name]) != record.sha256:
            raise BundleError(f"{bundle.name}: {name} was altered: its sha256 does not agree")
    if bundle_id(manifest.files) != manifest.id:
        raise BundleError(f"{bundle.name}: the manifest's id is not that of its files")
    verified.save()
