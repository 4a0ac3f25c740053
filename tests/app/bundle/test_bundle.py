"""A bundle is opened only if nothing in it has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import bundle_id
from app.errors import BundleError
from app.features.spec import FeatureSpec
from tests.support.bundles import (
    EXAMPLE,
    SPEC,
    describe,
    fill,
    manifest,
    rewrite,
    write,
    write_bundle,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle."""
    return write(tmp_path / "bundles")


def test_bundle_comes_back(path: Path) -> None:
    """Opening gives the spec, the vocabulary, the examples and the description."""
    bundle = Bundle.open(path)
    assert bundle.spec == FeatureSpec.parse(SPEC)
    assert [slot.name for slot in bundle.vocabulary.layout.slots] == ["user", "price"]
    assert bundle.examples == (EXAMPLE,)
    assert bundle.manifest.metrics == {"auc": 0.75}
    assert bundle.graph.read_bytes() == b"graph"
    assert bundle.version == path.name


FILES = ["features.toml", "score.onnx", "examples.jsonl", "vocabulary/layout.json",
         "vocabulary/000-user.rows.npy"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_altered_file_is_named(path: Path, name: str) -> None:
    """One changed byte anywhere is an error with the file's name."""
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        Bundle.open(path)


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(path: Path, name: str) -> None:
    """A file that was copied in part is an error with its name and both sizes."""
    (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"{name} has \d+ bytes, the manifest says \d+"):
        Bundle.open(path)


@pytest.mark.parametrize("name", FILES)
def test_absent_file_is_named(path: Path, name: str) -> None:
    """A file that is not there is an error with its name."""
    (path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is absent"):
        Bundle.open(path)


@pytest.mark.parametrize("name", ["weights.bin", "vocabulary/009-x.rows.npy"])
def test_extra_file_is_named(path: Path, name: str) -> None:
    """A file that the manifest does not know is an error with its name."""
    (path / name).write_bytes(b"")
    with pytest.raises(BundleError, match=f"{name} is not in the manifest"):
        Bundle.open(path)


def test_wrong_id_is_refused(path: Path) -> None:
    """The id must be that of the files."""
    rewrite(path, id="0" * 64)
    with pytest.raises(BundleError, match="id is not that of its files"):
        Bundle.open(path)


def test_vocabulary_of_another_bundle_is_refused(path: Path, tmp_path: Path) -> None:
    """Another export's vocabulary is refused even where each file's hash was brought along."""
    other = write(tmp_path / "other", "xyz")
    shutil.rmtree(path / "vocabulary")
    shutil.copytree(other / "vocabulary", path / "vocabulary")
    theirs = {k: v for k, v in manifest(other).files.items() if k.startswith("vocabulary/")}
    own = {k: v for k, v in manifest(path).files.items() if not k.startswith("vocabulary/")}
    rewrite(path, files=own | theirs, id=bundle_id(own | theirs))
    with pytest.raises(BundleError, match="the vocabulary is not the one of the manifest"):
        Bundle.open(path)


def spoil_spec(directory: Path) -> None:
    fill(directory)
    (directory / "features.toml").write_text('label = "click"\nfields = []\n')


def spoil_examples(directory: Path) -> None:
    fill(directory)
    (directory / "examples.jsonl").write_bytes(b'{"context": 3}\n')


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("attends = true\n", "unknown key 'attends'"),
        ('dtype = "uuid"\n', "`dtype` must be one of 'boolean', 'integer', 'string', got \"uuid\""),
    ],
)
def test_a_key_of_a_later_version_is_refused_by_name(
    tmp_path: Path, key: str, message: str
) -> None:
    """A spec that says more than this version understands is not served as if it did not."""

    def later(directory: Path) -> None:
        fill(directory)
        path = directory / "features.toml"
        path.write_text(path.read_text().replace("[[fields]]\n", f"[[fields]]\n{key}", 1))

    path = write_bundle(tmp_path, later, describe)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("spoil", "message"), [(spoil_spec, "features.toml"), (spoil_examples, r"examples\.jsonl")]
)
def test_content_is_checked_beyond_hashes(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """A file that was wrong from the start is a BundleError that names it."""
    path = write_bundle(tmp_path, spoil, describe)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)
