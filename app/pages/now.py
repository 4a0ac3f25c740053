"""The state of a running service for the page that shows it: counters, gauges, drift.

A page asks once a second, and says what it has: only what has changed since is sent. Counters are
sums over all workers and since their start; the page subtracts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from app.bundle.bundle import Bundle
from app.features.layout import Slot
from app.features.vocabulary import Edges
from app.metrics.registry import Metrics
from app.pages.form import may_show, slot_names

SHOWN = (
    "ctr_requests",
    "ctr_request_seconds",
    "ctr_refused_requests",
    "ctr_encode_seconds",
    "ctr_queue_seconds",
    "ctr_engine_seconds",
    "ctr_response_seconds",
    "ctr_batch_rows",
    "ctr_batches",
    "ctr_queued_rows",
    "ctr_abandoned_requests",
    "ctr_rows",
    "ctr_missing_values",
    "ctr_oov_values",
    "ctr_training_missing_share",
    "ctr_training_oov_share",
    "ctr_score",
    "ctr_bundle_info",
    "ctr_catalogue_items",
    "ctr_catalogue_behind_seconds",
    "ctr_unknown_fields",
    "ctr_engine_failures",
    "ctr_worker_restarts",
    "process_resident_memory_bytes",
    "process_cpu_seconds",
)
"""Metrics that the page shows."""
SHOWN_PREFIXES = ("ctr_feedback_", "ctr_trial")
DRIFT = "drift"
_encode = msgspec.json.encode


def now(
    metrics: Metrics, bundle: Bundle, seconds: float, have: Collection[str], slot: str, public: bool
) -> dict[str, Any]:
    """Return what has changed, by name, and the hash of everything there is.

    Args:
        seconds: the time, since 1970.
        have: hashes of what the page has.
        slot: the slot whose histograms are wanted; empty for none.
        public: leave out the known values of context fields.
    """
    metrics.poll()
    found: dict[str, Any] = {
        family.name: samples
        for family in metrics.registry.collect()
        if family.name in SHOWN or family.name.startswith(SHOWN_PREFIXES)
        if (samples := _samples(family))
    }
    drift = metrics.drift()
    if drift is not None:
        found[DRIFT] = _drift(drift, bundle, slot, public)
    hashes = {name: f"{crc32(_encode([name, value])):08x}" for name, value in found.items()}
    return {
        "version": bundle.version,
        "network": bundle.manifest.network,
        "seconds": seconds,
        "hashes": hashes,
        "changed": {name: value for name, value in found.items() if hashes[name] not in have},
    }


def _samples(family: Metric) -> list[dict[str, Any]]:
    """The samples of a metric that are not 0; a histogram's by its labels.

    Each is ``{"labels": …, "value": …}``, or with ``le`` (null for no bound), ``counts`` up to it
    and ``sum``.
    """
    if family.type != "histogram":
        return [
            {"labels": sample.labels, "value": sample.value}
            for sample in family.samples
            if (sample.value or family.type == "gauge") and math.isfinite(sample.value)
        ]
    grouped: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in family.samples:
        key = tuple((k, v) for k, v in sample.labels.items() if k != "le")
        grouped.setdefault(key, []).append(sample)
    return [found for key, group in grouped.items() if (found := _histogram(dict(key), group))]


def _histogram(labels: dict[str, str], samples: Iterable[Sample]) -> dict[str, Any] | None:
    bounds: list[float | None] = []
    counts, total = [], 0.0
    for sample in samples:
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            bounds.append(bound if math.isfinite(bound) else None)
            counts.append(sample.value)
        elif sample.name.endswith("_sum"):
            total = sample.value
    if not counts or not counts[-1]:
        return None
    return {"labels": labels, "le": bounds, "counts": counts, "sum": total}


def _drift(report: dict[str, Any], bundle: Bundle, wanted: str, public: bool) -> dict[str, Any]:
    """Every slot's index, and the histograms of one."""
    slots = {
        name: {key: each[key] for key in ("psi", "threshold", "drifted", "count")}
        for name, each in report["slots"].items()
    }
    score = report["score"]
    shown: dict[str, Any] = {"slots": slots, "score": score, "detail": None}
    if wanted in report["slots"]:
        found = report["slots"][wanted]
        slot = next(each for each in bundle.vocabulary.layout.slots if each.name == wanted)
        shown["detail"] = {
            "slot": wanted,
            "bins": _bin_names(bundle, slot, found["bins"], public),
            "window": found["window"],
            "trained": found["trained"],
        }
    return shown


def _bin_names(bundle: Bundle, slot: Slot, bins: list[str], public: bool) -> list[str]:
    """Name bins by the values that they hold: a value, or the start of a bucket."""
    vocabulary = bundle.vocabulary.slots[slot.name]
    histogram = bundle.manifest.statistics[slot.name].histogram
    names: list[str] = []
    if isinstance(vocabulary, Edges):
        edges = vocabulary.edges.tolist()
        names = [f"< {edges[0]:.4g}", *(f"≥ {edge:.4g}" for edge in edges)] if edges else []
    elif histogram is not None and histogram.frequent is not None:
        side = next(field.side for field in bundle.spec.fields if field.name == slot.field)
        if may_show(side, public) or slot.name != slot.field:
            names = slot_names(bundle, slot, np.array(histogram.frequent, np.int64))
        else:
            names = [f"no. {place}" for place in range(1, len(histogram.frequent) + 1)]
    known = [each for each in bins if each.isdigit()]
    if len(names) != len(known):
        return bins
    shown = iter(names)
    return [next(shown) if each.isdigit() else each for each in bins]
