"""The bundles of the directory beside each other: their figures, and the trainer's reports."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from app.bundle.manifest import INT8_GRAPH, read_manifest
from app.errors import BundleError, NotFound
from app.files import read_regular
from app.serving.activation import Activation

REPORT, FIGURES = "report.md", "figures.json"
"""Files of the directory ``NAME.report`` beside a bundle, which the trainer writes."""
REPORT_BYTES = 2**20
SHOWN_TRAINING = (
    "best",
    "seconds",
    "rows_per_second",
    "stopped_early",
    "parameters",
    "calibration",
)
"""Keys of a manifest's training that are shown."""


def described_bundles(activation: Activation) -> dict[str, Any]:
    """Return the listing of the bundles, each with its figures; it reads the disk.

    Raises:
        ActivationRefused: the directory cannot be read.
    """
    listing = activation.list()
    found = listing.model_dump()
    for each in found["bundles"]:
        each.update(_figures(activation.path_of(each["version"])))
    return found


def _figures(bundle: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(bundle)
    except BundleError:
        return {}  # The listing says why it is unreadable.
    training = {key: manifest.training.get(key) for key in SHOWN_TRAINING}
    if training["calibration"]:
        training["calibration"] = training["calibration"].get("method", "yes")
    return {
        "metrics": manifest.metrics,
        "training": training,
        "config": manifest.training.get("config", {}),
        "rows": sum(int(each.get("rows", 0)) for each in manifest.data),
        "int8": INT8_GRAPH in manifest.files,
        "bytes": sum(each.size for each in manifest.files.values()),
        "report": (_report_of(bundle) / REPORT).is_file(),
    }


def _report_of(bundle: Path) -> Path:
    return bundle.with_name(f"{bundle.name}.report")


def trainers_report(activation: Activation, version: str) -> dict[str, Any]:
    """Return the report beside a bundle: its text, and the figures of its diagrams.

    ``figures`` is None for reports that have none.

    Raises:
        NotFound: there is no such bundle, or no report beside it.
    """
    if version not in {each.version for each in activation.list().bundles}:
        raise NotFound("there is no such bundle")
    report = _report_of(activation.path_of(version))
    try:
        text = read_regular(report / REPORT, REPORT_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise NotFound(f"there is no report beside the bundle: {error.strerror}") from error
    figures = None
    # An older trainer wrote no figures.
    with suppress(OSError, msgspec.MsgspecError):
        figures = msgspec.json.decode(read_regular(report / FIGURES, REPORT_BYTES))
    return {"version": version, "text": text, "figures": figures}
