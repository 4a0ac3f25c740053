"""The manifest names the bundle and the format, and is refused where it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import bundle_id, described_files, read_manifest
from app.errors import BundleError
from tests.support.bundles import manifest, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle."""
    return write(tmp_path / "bundles")


def test_name_is_time_and_id(path: Path) -> None:
    """The directory is named by the UTC time of its creation and the start of its id."""
    found = manifest(path)
    stamp, start = path.name.split("-")
    assert start == found.id[:12]
    assert stamp == found.created[:19].replace("-", "").replace(":", "") + "Z"
    assert "manifest.json" not in found.files
    assert found.id == bundle_id(found.files)


def test_same_content_has_the_same_id(tmp_path: Path) -> None:
    """The id depends on the files alone; time and description are not part of it."""
    one, two = manifest(write(tmp_path / "one")), manifest(write(tmp_path / "two"))
    other = manifest(write(tmp_path / "three", "abc"))
    assert one.id == two.id
    assert one.created < two.created
    assert one.vocabulary_hash == two.vocabulary_hash
    assert other.id != one.id
    assert other.vocabulary_hash != one.vocabulary_hash


@pytest.mark.parametrize("version", [0, 3, 99, "1", None, [1]])
def test_other_format_is_named(path: Path, version: Any) -> None:
    """A format that this service cannot read is refused by its version, whatever else is there."""
    (path / "manifest.json").write_bytes(msgspec.json.encode({"format_version": version}))
    with pytest.raises(BundleError, match=r"format version .* cannot be read, only 1, 2"):
        Bundle.open(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 1}', b"\xff"])
def test_damaged_manifest_is_refused(path: Path, content: bytes) -> None:
    """A manifest that is no manifest is a BundleError that names it."""
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        Bundle.open(path)


def test_the_manifest_lists_every_other_file(path: Path) -> None:
    """Names are paths below the bundle, with slashes, and the manifest is not among them."""
    described = dict(described_files(path))
    assert described.keys() == read_manifest(path).files.keys()
    assert {"features.toml", "score.onnx", "vocabulary/layout.json"} <= described.keys()
    assert "manifest.json" not in described
