"""The exported directory: written whole or not at all, and opened only if nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from app.bundle.bundle import (
    Bundle,
    Example,
    Manifest,
    SlotStatistics,
    bundle_id,
    newest,
    write_bundle,
)
from app.errors import BundleError
from app.features.spec import FeatureSpec
from tests.support.frames import learned

SPEC = """\
label = "click"

[[fields]]
name = "user"
kind = "categorical"
side = "context"
min_count = 1

[[fields]]
name = "price"
kind = "numeric"
side = "candidate"
buckets = 2
"""
EXAMPLE = Example({"user": "a"}, [{"price": 1.0}], [3], [[6]], [0.5])


def fill(directory: Path, users: str = "ab") -> None:
    """Write what a trainer writes; the graph may be any bytes."""
    spec = FeatureSpec.parse(SPEC)
    (directory / "features.toml").write_text(SPEC)
    (directory / "vocabulary").mkdir()
    frame = pl.DataFrame({"user": list(users), "price": range(len(users))})
    learned(spec, frame).save(directory / "vocabulary")
    (directory / "score.onnx").write_bytes(b"graph")
    (directory / "examples.jsonl").write_bytes(msgspec.json.Encoder().encode_lines([EXAMPLE]))


def describe(_: Path) -> dict[str, Any]:
    return {
        "network": "deepfm",
        "metrics": {"auc": 0.75},
        "training": {"seed": 1},
        "data": [],
        "statistics": {"user": SlotStatistics(0.0, 0.0, 4)},
    }


def write(directory: Path, users: str = "ab") -> Path:
    return write_bundle(directory, lambda path: fill(path, users), describe)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bundle."""
    return write(tmp_path / "bundles")


def manifest(path: Path) -> Manifest:
    return msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)


def rewrite(path: Path, **changes: Any) -> None:
    """Change fields of a bundle's manifest."""
    changed = msgspec.structs.replace(manifest(path), **changes)
    (path / "manifest.json").write_bytes(msgspec.json.encode(changed))


def test_bundle_comes_back(path: Path) -> None:
    """Opening gives the spec, the vocabulary, the examples and the description."""
    bundle = Bundle.open(path)
    assert bundle.spec == FeatureSpec.parse(SPEC)
    assert [slot.name for slot in bundle.vocabulary.layout.slots] == ["user", "price"]
    assert bundle.examples == (EXAMPLE,)
    assert bundle.manifest.metrics == {"auc": 0.75}
    assert bundle.graph.read_bytes() == b"graph"
    assert bundle.version == path.name


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


@pytest.mark.parametrize("name", ["score.onnx.data", "vocabulary/009-x.rows.npy"])
def test_extra_file_is_named(path: Path, name: str) -> None:
    """A file that the manifest does not know is an error with its name."""
    (path / name).write_bytes(b"")
    with pytest.raises(BundleError, match=f"{name} is not in the manifest"):
        Bundle.open(path)


@pytest.mark.parametrize("version", [0, 2, 99, "1", None, [1]])
def test_other_format_is_named(path: Path, version: Any) -> None:
    """A format that this service cannot read is refused by its version, whatever else is there."""
    (path / "manifest.json").write_bytes(msgspec.json.encode({"format_version": version}))
    with pytest.raises(BundleError, match=r"format version .* cannot be read, only 1"):
        Bundle.open(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 1}', b"\xff"])
def test_damaged_manifest_is_refused(path: Path, content: bytes) -> None:
    """A manifest that is no manifest is a BundleError that names it."""
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
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
    ("spoil", "message"), [(spoil_spec, "feature spec"), (spoil_examples, r"examples\.jsonl")]
)
def test_content_is_checked_beyond_hashes(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """A file that was wrong from the start is a BundleError that names it."""
    path = write_bundle(tmp_path, spoil, describe)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, OSError])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the filling or the description, no directory stays."""

    def interrupted(directory: Path) -> Any:
        (directory / "half").write_bytes(b"x")
        raise error

    seen = BundleError if error is OSError else error
    for steps in ((interrupted, describe), (fill, interrupted)):
        with pytest.raises(seen):
            write_bundle(tmp_path, *steps)
        assert list(tmp_path.iterdir()) == []


def test_unfinished_bundle_is_hidden(tmp_path: Path) -> None:
    """While a bundle is being written, the directory has none."""
    seen: list[str] = []

    def watch(directory: Path) -> None:
        fill(directory)
        with pytest.raises(BundleError, match="no bundle"):
            newest(tmp_path)
        seen.extend(child.name for child in tmp_path.iterdir())

    path = write_bundle(tmp_path, watch, describe)
    assert [name[0] for name in seen] == ["."]
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_newest_goes_by_creation(tmp_path: Path) -> None:
    """The latest ``created`` wins, whatever the directories' own times say."""
    paths = [write(tmp_path, users) for users in ("a", "b", "c")]
    for path, created in zip(paths, ("2024-01-02", "2024-01-03", "2024-01-01"), strict=True):
        rewrite(path, created=created)
    assert newest(tmp_path) == paths[1]


def test_newest_passes_over_what_is_no_bundle(tmp_path: Path) -> None:
    """Temporary, incomplete and foreign directories do not count."""
    path = write(tmp_path)
    shutil.copytree(path, tmp_path / ".bundle-x")
    shutil.copytree(path, tmp_path / "copy")
    incomplete = tmp_path / "99991231T235959Z-0123456789ab"
    incomplete.mkdir()
    (incomplete / "score.onnx").write_bytes(b"")
    (tmp_path / "99991231T235959Z-0123456789ac").write_bytes(b"a file")
    assert newest(tmp_path) == path
    assert newest(path) == path


def test_no_bundle_is_an_error(tmp_path: Path) -> None:
    """An empty or absent directory is an error that names it."""
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=place.name):
            newest(place)
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(tmp_path)
