"""Ranking quality on MovieLens-100k: DeepFM beside a one-hot logistic regression.

Both learn from the same training rows, choose on the same validation rows and are measured
on the same test rows by the same code, once with the rows split at random and once along time.
With ``--histories`` instead: what histories of users add (see ``histories.py``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import polars as pl

from app.features.spec import FeatureSpec
from model.data.input_files import InputFiles
from model.data.split import PARTS
from model.fetch import fetch
from model.quality.figures import Quality, evaluate_scores
from tests.support.frames import part_of

Split = Literal["random", "time"]
SPLITS: tuple[Split, ...] = ("random", "time")

ROOT = Path(__file__).resolve().parents[3]
SPEC = ROOT / "model" / "specs" / "movielens-100k.toml"
SINGLE = ("user_id", "age", "gender", "occupation", "zip", "item_id", "year")
SEED = 1  # of the random split, and of the network's training
INVERSE_REGULARISATION = (0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of one split, as raw columns."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Baseline:
    """A logistic regression's figures on the test part, and the C that validation chose."""

    metrics: Quality
    inverse_regularisation: float


def read_parts(data: Path, mode: Split) -> Parts:
    """Return the rows that ``python -m model train --split MODE`` learns from and is tested on."""
    spec = FeatureSpec.load(SPEC)
    inputs = InputFiles([data], mode=mode, seed=SEED)
    return Parts(*(part_of(spec, inputs, part) for part in PARTS))


def one_hot(rows: pl.DataFrame) -> list[list[str]]:
    """Return each row's features as words: one a field, one a genre, and the hour and weekday."""
    moment = pl.from_epoch(pl.col("time").cast(pl.Int64))
    words = [pl.format(name + "={}", pl.col(name).cast(pl.String).fill_null("")) for name in SINGLE]
    words += [
        pl.format("hour={}", moment.dt.hour()),
        pl.format("weekday={}", moment.dt.weekday()),
    ]
    genres = pl.col("genres").fill_null("").str.split("|")
    return rows.select(pl.concat_list(*words, genres)).to_series().to_list()


def logistic_regression(parts: Parts) -> Baseline:
    """Fit one on the training part for each strength of regularisation; measure the best.

    The best has the highest AUC on the validation part, which is what stops the network too.
    """
    # Tests of all else here need not wait for it.
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    columns = CountVectorizer(analyzer=list, binary=True)
    train = columns.fit_transform(one_hot(parts.train))
    validation = columns.transform(one_hot(parts.validation))
    candidates = []
    for strength in INVERSE_REGULARISATION:
        model = LogisticRegression(C=strength, max_iter=1_000).fit(train, labels(parts.train))
        metrics = evaluate_scores(labels(parts.validation), model.decision_function(validation))
        candidates.append((metrics.auc or 0.0, strength, model))
    _, strength, model = max(candidates, key=lambda candidate: candidate[0])
    test = columns.transform(one_hot(parts.test))
    return Baseline(evaluate_scores(labels(parts.test), model.decision_function(test)), strength)


def labels(rows: pl.DataFrame) -> Any:
    """Return the clicks of the rows, uint8 in {0, 1}."""
    return rows["click"].cast(pl.UInt8).to_numpy()


def deepfm(data: Path, mode: Split, out: Path) -> Mapping[str, Any]:
    """Train a bundle with the shipped settings, and return its figures on the test part."""
    bundle = command("train", SPEC, data, "--split", mode, "--seed", SEED, "--out", out)
    figures = out / f"{mode}.json"
    command("evaluate", bundle.splitlines()[-1], data, "--part", "test", "--json", figures)
    result: dict[str, Any] = json.loads(figures.read_text())
    return result


def command(*arguments: object) -> str:
    """Run ``python -m model ...``, its progress on our stderr, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "model", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"`python -m model {arguments[0]}` failed; its messages are above")
    return done.stdout.strip()


def measure(data: Path, mode: Split, out: Path) -> dict[str, Any]:
    """Measure both on one split, and refuse to compare them on different rows."""
    network = deepfm(data, mode, out)
    baseline = logistic_regression(read_parts(data, mode))
    rows = {
        name: (network[name], getattr(baseline.metrics, name)) for name in ("rows", "positives")
    }
    if any(ours != theirs for ours, theirs in rows.values()):
        raise SystemExit(f"the test parts differ (network, logistic regression): {rows}")
    return {
        "split": mode,
        "deepfm": dict(network),
        "logistic_regression": baseline.metrics.to_dict() | {"C": baseline.inverse_regularisation},
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the figures as a Markdown table; the difference is DeepFM's minus the other's."""
    lines = [
        "| split | test rows | figure | logistic regression | DeepFM | difference |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for result in results:
        for figure, name in (("auc", "AUC"), ("log_loss", "log loss")):
            baseline = result["logistic_regression"][figure]
            network = result["deepfm"][figure]
            lines.append(
                f"| {result['split']} | {result['deepfm']['rows']:,} | {name} "
                f"| {baseline:.4f} | {network:.4f} | {network - baseline:+.4f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="scripts/bench-quality", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where data sets are kept")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument(
        "--histories", type=Path, metavar="OUT",
        help="compare DeepFM without and with histories and DIN; results are kept in OUT",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=5, help="seeds of --histories")
    arguments = parser.parse_args()
    if arguments.histories:
        # Imported here: it imports this module.
        from tests.bench.quality import histories

        folder = fetch("movielens-100k", arguments.data.resolve(), histories.PLACES)
        path = folder / f"histories-{histories.PLACES}.csv"
        histories.main(path, arguments.seeds, arguments.histories.resolve())
        return
    data = fetch("movielens-100k", arguments.data.resolve()) / "ratings.csv"
    with TemporaryDirectory(prefix="bench-quality-") as out:
        results = [measure(data, mode, Path(out)) for mode in SPLITS]
    print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
