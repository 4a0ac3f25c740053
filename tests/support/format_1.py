"""Bundles as format 1 had them: tables without mean rows, manifests without histograms."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import onnx
import onnx.numpy_helper

from app.bundle.bundle import Bundle
from app.bundle.manifest import FileRecord, Manifest, bundle_id, described_files, vocabulary_hash


def as_format_1(bundle: Path, directory: Path) -> Path:
    """Write a bundle's copy of format 1 below ``directory``, and return its path.

    It scores as the bundle does: no value is encoded to a mean. Weights of pairs are not changed.
    """
    partial = directory / "partial"
    shutil.copytree(bundle, partial)
    rows = Bundle.open(bundle).vocabulary.layout.encoded_rows
    layout = partial / "vocabulary" / "layout.json"
    records = msgspec.json.decode(layout.read_bytes())
    layout.write_bytes(
        msgspec.json.encode([{k: v for k, v in r.items() if k != "mean"} for r in records])
    )
    for graph in partial.glob("*.onnx"):
        _without_means(graph, rows)
    manifest = msgspec.json.decode((partial / "manifest.json").read_bytes())
    files = {name: FileRecord.of(path) for name, path in described_files(partial)}
    for slot in manifest["statistics"].values():
        del slot["histogram"]
    del manifest["scores"]
    manifest |= {
        "format_version": 1,
        "files": files,
        "id": bundle_id(files),
        "vocabulary_hash": vocabulary_hash(files),
    }
    content = msgspec.json.encode(manifest)
    (partial / "manifest.json").write_bytes(content)
    return partial.rename(directory / msgspec.json.decode(content, type=Manifest).version)


def _without_means(graph: Path, rows: int) -> None:
    model = onnx.load(graph)
    (table,) = (each for each in model.graph.initializer if each.name == "network.table")
    kept = onnx.numpy_helper.to_array(table)[:rows]
    table.CopyFrom(onnx.numpy_helper.from_array(kept, table.name))
    onnx.save(model, graph)
