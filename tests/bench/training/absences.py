"""Values that training never names, by what stands for them: log loss and AUC on the test part.

Both data sets have every field in every row. In the test part each row loses one field, drawn at
random: the field is absent, or (where training hides no values) has a value never seen. The same
network scores the rows with the untrained rows of its table as they started, as zero, and as the
mean. Another DeepFM has been trained on rows a twentieth of whose values were absent. Trainings are
short: what is compared is what one network says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.features.layout import PADDING, Layout, Slot
from model.config import SettingsFile, TrainConfig
from model.data.dataset import Dataset
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.fetch import fetch
from model.networks.network import Network
from model.quality.figures import evaluate_scores
from model.training.evaluation import predict
from model.training.fit import fit, reproducible
from model.training.trainer import Trainer
from tests.bench.training import frappe
from tests.bench.training.negatives import spread
from tests.support.environments import ROOT
from tests.support.realdata import SPECS

NETWORKS = ("lr", "fm", "ipnn", "wide_deep", "deepfm")
RANDOM, ZERO, MEAN, TRAINED = "random start", "zero", "mean row", "trained absence"
WAYS = (RANDOM, ZERO, MEAN, TRAINED)
EPOCHS = 3
TRAINED_SHARE = 0.05
"""Share of the values that the last way's training rows lack."""
Figures = Mapping[str, float]


def measure(seeds: int, threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train every network with every seed on both data sets; return all runs' figures."""
    found: dict[str, Any] = {}
    for name, data in data_sets(tell):
        for network in NETWORKS:
            settings = SettingsFile.read(SPECS / f"{name}.train.toml")
            base = settings.config(network, data.train_rows)
            base = replace(base, threads=threads, epochs=min(base.epochs, EPOCHS))
            for seed in range(1, seeds + 1):
                for case, ways in run(data, replace(base, seed=seed)).items():
                    found.setdefault(f"{name}, {case}", {}).setdefault(network, []).append(ways)
                tell(f"absences, {name}, {network}, seed {seed}")
    return found


def data_sets(tell: Callable[[str], None]) -> Iterator[tuple[str, Prepared]]:
    """Yield MovieLens-100k, and Frappe if it is there."""
    files = InputFiles([fetch("movielens-100k", ROOT / "data") / "ratings.csv"], mode="random")
    yield "movielens-100k", prepare(SPECS / "movielens-100k.toml", files, progress=False)
    if frappe.present():
        yield "frappe", frappe.prepared()
    else:
        tell(f"absences: no Frappe data at {frappe.HOME}")


def run(data: Prepared, config: TrainConfig) -> dict[str, dict[str, Figures]]:
    """Return the figures of each way, for absent values and, if training hides none, unseen."""
    layout, train = data.vocabulary.layout, data.data["train"]
    result = fit(layout, train, data.data["validation"], config, progress=False)
    with reproducible(config.seed, config.thread_count()):
        start = Trainer(layout, train, config).network.table.detach()
    cases = {"absent": [slot.missing for slot in layout.slots]}
    if not config.oov_rate:
        cases["unseen"] = [slot.oov for slot in layout.slots]
    found: dict[str, dict[str, Figures]] = {}
    for case, stand_ins in cases.items():
        rows = with_one_replaced(layout, data.data["test"], stand_ins, config.seed)
        logits = by_way(result.network, start, rows)
        if case == "absent" and config.network == "deepfm":
            lossy = without_some(layout, train, TRAINED_SHARE, config.seed)
            taught = fit(layout, lossy, data.data["validation"], config, progress=False)
            logits[TRAINED] = predict(taught.network, rows)
        found[case] = {way: figures(rows, logit) for way, logit in logits.items()}
        whole = figures(data.data["test"], predict(result.network, data.data["test"]))
        found[case]["nothing replaced"] = whole
    return found


def figures(rows: Dataset, logit: NDArray[np.float32]) -> Figures:
    """Return AUC and log loss of logits [R]."""
    quality = evaluate_scores(rows.label, logit)
    assert quality.auc is not None
    return {"auc": quality.auc, "log_loss": quality.log_loss}


@torch.no_grad()
def by_way(network: Network, start: torch.Tensor, rows: Dataset) -> dict[str, NDArray[np.float32]]:
    """Return the logits [R] of rows with the untrained rows of the table as each way has them."""
    logits = {MEAN: predict(network, rows)}
    table, untrained = network.table.detach().clone(), ~network.learned
    for way, content in ((RANDOM, start), (ZERO, torch.zeros_like(start))):
        network.table[untrained] = content[untrained]
        logits[way] = predict(network, rows)
        network.table.copy_(table)
    return logits


def with_one_replaced(
    layout: Layout, data: Dataset, stand_ins: Sequence[int], seed: int
) -> Dataset:
    """Replace one field of each row, drawn at random, by its slots' stand-ins."""
    fields = list(dict.fromkeys(slot.field for slot in layout.slots))
    drawn = np.random.default_rng(seed).integers(0, len(fields), len(data))
    replaced = {field: drawn == number for number, field in enumerate(fields)}
    return _replaced(layout, data, replaced, stand_ins)


def without_some(layout: Layout, data: Dataset, share: float, seed: int) -> Dataset:
    """Make a share of all values absent."""
    random = np.random.default_rng(seed)
    fields = dict.fromkeys(slot.field for slot in layout.slots)
    replaced = {field: random.random(len(data)) < share for field in fields}
    return _replaced(layout, data, replaced, [slot.missing for slot in layout.slots])


def _replaced(
    layout: Layout,
    data: Dataset,
    replaced: Mapping[str, NDArray[np.bool_]],
    stand_ins: Sequence[int],
) -> Dataset:
    row_of = dict(zip((slot.name for slot in layout.slots), stand_ins, strict=True))

    def single(slots: Sequence[Slot], index: NDArray[np.int32]) -> NDArray[np.int32]:
        columns = np.array(index)
        for place, slot in enumerate(slots):
            columns[replaced[slot.field], place] = row_of[slot.name]
        return columns

    def listed(slot: Slot, index: NDArray[np.int32]) -> NDArray[np.int32]:
        columns = np.array(index)
        columns[replaced[slot.field]] = PADDING
        columns[replaced[slot.field], 0] = row_of[slot.name]
        return columns

    return replace(
        data,
        context=single(layout.context, data.context),
        candidate=single(layout.candidate, data.candidate),
        context_lists=tuple(map(listed, layout.context_lists, data.context_lists)),
        candidate_lists=tuple(map(listed, layout.candidate_lists, data.candidate_lists)),
    )


def table(found: Mapping[str, Any]) -> str:
    """Lay out mean log loss and AUC over the seeds, the ways as differences from the start."""
    lines = [
        "| test rows | network | figure | " + " | ".join(WAYS) + " |",
        "|---|---|---|" + "---:|" * len(WAYS),
    ]
    for case, networks in found.items():
        for network, runs in networks.items():
            for figure, name in (("log_loss", "log loss"), ("auc", "AUC")):
                cells = [f"{spread([run[RANDOM][figure] for run in runs])['mean']:.4f}"]
                for way in WAYS[1:]:
                    if way not in runs[0]:
                        cells.append("")
                        continue
                    change = spread([run[way][figure] - run[RANDOM][figure] for run in runs])
                    cells.append(f"{change['mean']:+.4f} ± {change['deviation']:.4f}")
                lines.append(f"| {case} | {network} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
