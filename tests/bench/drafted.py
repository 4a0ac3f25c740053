"""Drafted feature specs beside the shipped ones: the AUC of the same trainings.

Both are trained with the data set's shipped settings, from the same seeds, on the same parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from app.features.spec import FeatureSpec
from model.fetch import fetch
from tests.bench.quality.__main__ import command
from tests.support.realdata import DATA, SPECS, files
from tests.support.serving import ROOT

SEEDS = 3


class Drafted(NamedTuple):
    """A data set: what a user tells ``spec`` about it, and the words that name its parts.

    ``settings`` are those of both trainings.
    """

    look_at: Sequence[Path]
    told: Sequence[str]
    parts: Sequence[object]
    shipped: Path
    settings: Path


def data_sets(scratch: Path) -> Mapping[str, Drafted]:
    """Return the data sets that are there: MovieLens-100k, and those that lie beside us.

    What has to be joined is written to ``scratch``.
    """
    ratings = fetch("movielens-100k", ROOT / "data") / "ratings.csv"
    told = ("--label", "click", "--context", "user_id")
    found = {"movielens-100k": _drafted("movielens-100k", told, [ratings], [ratings])}
    if (DATA / "frappe_x1").is_dir():
        train, validation, test = files("frappe", scratch)
        words = ("--train", train, "--validation", validation, "--test", test)
        told = ("--label", "label", "--candidate", "item")
        found["frappe"] = _drafted("frappe", told, [train], words)
    if (DATA / "criteo_kaggle_10k").is_dir():
        columns = ",".join(FeatureSpec.load(SPECS / "criteo.toml").columns or ())
        log = files("criteo", scratch)
        told = ("--label", "label", "--columns", columns)
        found["criteo"] = _drafted("criteo", told, log, (*log, "--split", "random"))
    if (DATA / "avazu_15k").is_dir():
        log = files("avazu", scratch)
        told = ("--label", "click", "--candidate", "C14")
        found["avazu"] = _drafted("avazu", told, log, (*log, "--split", "random"))
    return found


def _drafted(
    name: str, told: Sequence[str], look_at: Sequence[Path], parts: Sequence[object]
) -> Drafted:
    """Return a data set whose shipped spec and settings have its name."""
    return Drafted(look_at, told, parts, SPECS / f"{name}.toml", SPECS / f"{name}.train.toml")


def compare(data: Drafted, scratch: Path, seeds: int = SEEDS) -> dict[str, Any]:
    """Return the AUC on the test part by spec and seed, and the drafted one's mean distance."""
    spec = scratch / "drafted.toml"
    command("spec", *data.look_at, *data.told, "--out", spec)
    found: dict[str, Any] = {}
    for name, each in {"shipped": data.shipped, "drafted": spec}.items():
        found[name] = [
            _auc("train", each, *data.parts, "--config", data.settings, "--seed", seed,
                 "--out", scratch / name)
            for seed in range(1, seeds + 1)
        ]  # fmt: skip
    distances = [ours - theirs for ours, theirs in zip(*reversed(found.values()), strict=True)]
    found["drafted - shipped"] = mean(distances)
    found["deviation"] = stdev(distances) if seeds > 1 else None
    return found


def _auc(*words: object) -> float:
    """Train a bundle; return its AUC on the test part."""
    bundle = Path(command(*words).splitlines()[-1])
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return float(manifest["metrics"]["test"]["auc"])
