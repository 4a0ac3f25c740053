"""A tiny bundle that no trainer has made: two fields, and a graph of any bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from app.bundle.bundle import Example
from app.bundle.manifest import Manifest, SlotStatistics
from app.bundle.writing import new_bundle
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


def describe() -> dict[str, Any]:
    """Return the manifest's fields that do not follow from the files."""
    return {
        "network": "deepfm",
        "metrics": {"auc": 0.75},
        "training": {"seed": 1},
        "data": [],
        "statistics": {"user": SlotStatistics(0.0, 0.0, 4)},
    }


def write_bundle(
    directory: Path, fill: Callable[[Path], None], describe: Callable[[], dict[str, Any]]
) -> Path:
    """Write a bundle below a directory and return its path."""
    with new_bundle(directory) as bundle:
        fill(bundle.directory)
        return bundle.finish(describe())


def write(directory: Path, users: str = "ab") -> Path:
    """Write a bundle of a few users."""
    return write_bundle(directory, lambda path: fill(path, users), describe)


def manifest(path: Path) -> Manifest:
    """Return a bundle's manifest, unchecked."""
    return msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)


def rewrite(path: Path, **changes: Any) -> None:
    """Change fields of a bundle's manifest."""
    changed = msgspec.structs.replace(manifest(path), **changes)
    (path / "manifest.json").write_bytes(msgspec.json.encode(changed))
