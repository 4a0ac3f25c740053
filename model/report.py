"""A training run on a page: settings, figures, learning curve and reliability diagram."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.features.spec import DataPart
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.quality.figures import Quality, few_clicks, reliability
from model.training.fit import FitResult


def write_report(
    directory: Path,
    title: str,
    config: TrainConfig,
    result: FitResult,
    metrics: Mapping[DataPart, Quality],
    data: Dataset,
    logit: NDArray[np.floating[Any]],
    remark: str = "",
    data_warnings: Sequence[str] = (),
) -> Path:
    """Write ``report.md``, its two PNGs and their numbers, ``figures.json``, into ``directory``;
    return the Markdown's path.

    ``metrics`` holds each part's figures by the part's name; ``data`` and its ``logit`` [R]
    are the rows of the reliability diagram; ``remark`` is a sentence to be added;
    ``data_warnings`` are those of reading the files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Figures made without pyplot need no display and are never left open. Their margins are given:
    # finding those that just suffice takes as long as drawing.
    learning_curve(result).savefig(directory / "learning-curve.png")
    reliability_diagram(data, logit).savefig(directory / "reliability.png")
    figures = {
        "history": [each.to_dict() for each in result.history],
        "best": result.best.to_dict(),
        "reliability": reliability(
            data.label, logit, kept=data.kept, row_weight=data.weight
        ).to_dict(),
    }
    (directory / "figures.json").write_bytes(msgspec.json.encode(figures))
    path = directory / "report.md"
    page = markdown(title, config, result, metrics, remark, data_warnings)
    path.write_text(page, encoding="utf-8")
    return path


def markdown(
    title: str,
    config: TrainConfig,
    result: FitResult,
    metrics: Mapping[DataPart, Quality],
    remark: str = "",
    data_warnings: Sequence[str] = (),
) -> str:
    """Return the page's text."""
    header = (
        "| part | rows | clicks | AUC | 95 % interval | log loss | 95 % interval | calibration"
        " | calibration error |"
    )
    rows = "\n".join(
        f"| {part} | {m.rows:,} | {m.positives:,}"
        f" | {figure(m.auc)} | {interval(m.auc_lower, m.auc_upper)}"
        f" | {figure(m.log_loss)} | {interval(m.log_loss_lower, m.log_loss_upper)}"
        f" | {figure(m.calibration)} | {figure(m.calibration_error)} |"
        for part, m in metrics.items()
    )
    few = few_clicks((part, each.counts) for part, each in metrics.items())
    settings = "\n".join(f"| `{key}` | {value} |" for key, value in config.to_dict().items())
    ending = "stopped early" if result.stopped_early else "ran to its end"
    page = """\
        # {title}

        {header}
        |---|---|---|---|---|---|---|---|---|
        {rows}

        {few_clicks}Calibration is predicted clicks over observed clicks. Training {ending} after
        {seconds:.1f} s ({rate:,.0f} rows/s); the weights are those of step {step:,}
        (epoch {epoch:.2f}). {remark}

        ![Log loss and AUC by epoch](learning-curve.png)

        ![Observed click rate by predicted score](reliability.png)

        | setting | value |
        |---|---|
        {settings}
        {warnings}"""
    return textwrap.dedent(page).format(
        title=title,
        header=header,
        rows=rows,
        few_clicks=f"**Warning:** {few}.\n\n" if few else "",
        ending=ending,
        seconds=result.seconds,
        rate=result.rows_per_second,
        step=result.best.step,
        epoch=result.best.epoch,
        settings=settings,
        remark=remark,
        warnings=_warnings(data_warnings),
    )


def _warnings(found: Sequence[str]) -> str:
    """Return the section with the warnings of reading the files, which may have several lines."""
    if not found:
        return ""
    return "\n## Warnings of the data\n\n" + "".join(f"```text\n{each}\n```\n\n" for each in found)


def interval(lower: float | None, upper: float | None) -> str:
    """Return two bounds for the page, a dash where they are undefined."""
    return "–" if lower is None else f"{figure(lower)} to {figure(upper)}"


def figure(value: float | None) -> str:
    """Return a number for the page, a dash where it is undefined."""
    return "–" if value is None else f"{value:.4f}"


def learning_curve(result: FitResult) -> Figure:
    """Draw log loss and validation AUC over the epochs, the chosen weights marked."""
    epoch = [evaluation.epoch for evaluation in result.history]
    drawing = Figure(figsize=(9, 3.5))
    loss_axes, auc_axes = drawing.subplots(1, 2)
    drawing.subplots_adjust(left=0.11, right=0.975, bottom=0.15, top=0.95, wspace=0.32)
    loss_axes.plot(
        epoch,
        [np.nan if e.train_loss is None else e.train_loss for e in result.history],
        label="training",
    )
    loss_axes.plot(epoch, [e.log_loss for e in result.history], label="validation")
    loss_axes.set(xlabel="epoch", ylabel="log loss")
    auc_axes.plot(epoch, [np.nan if e.auc is None else e.auc for e in result.history])
    auc_axes.set(xlabel="epoch", ylabel="validation AUC")
    for axes in (loss_axes, auc_axes):
        axes.axvline(result.best.epoch, color="grey", linestyle=":", label="chosen")
    loss_axes.legend(loc="upper right")
    return drawing


def reliability_diagram(data: Dataset, logit: NDArray[np.floating[Any]]) -> Figure:
    """Draw the observed click rate over the mean score of bins of equal count."""
    bins = reliability(data.label, logit, kept=data.kept, row_weight=data.weight)
    top = 1.05 * max(bins.predicted.max(), bins.observed.max(), 1e-6)
    drawing = Figure(figsize=(4.5, 4))
    axes = drawing.subplots()
    drawing.subplots_adjust(left=0.22, right=0.92, bottom=0.13, top=0.95)
    axes.plot([0, top], [0, top], color="grey", linestyle=":", label="calibrated")
    axes.plot(bins.predicted, bins.observed, marker="o", label="this network")
    axes.set(xlabel="predicted", ylabel="observed click rate", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left")
    return drawing
