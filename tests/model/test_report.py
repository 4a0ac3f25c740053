"""The report shows what a run gave, on a machine without a display."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.features.layout import Layout, Slot
from app.features.spec import DataPart
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.networks import build
from model.quality.figures import Quality, evaluate_scores
from model.report import learning_curve, reliability_diagram, write_report
from model.training.evaluation import Evaluation
from model.training.fit import FitResult

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n"
CONFIG = TrainConfig(hidden=(2,), embedding_size=2)


def result(auc: float | None) -> FitResult:
    """Return a run of two evaluations."""
    layout = Layout((Slot("user", "user", 1, 4),), (Slot("item", "item", 5, 4),), (), ())
    torch.manual_seed(0)
    history = tuple(
        Evaluation(
            step=step,
            epoch=step / 10,
            train_loss=0.5 / step,
            log_loss=0.6 / step,
            auc=auc,
            learning_rate=0.001,
            rows_per_second=1e5,
        )
        for step in (5, 10)
    )
    return FitResult(
        network=build(layout, CONFIG),
        bias_added=0.0,
        history=history,
        best=history[0],
        stopped_early=True,
        seconds=1.25,
        rows_per_second=1e5,
    )


def rows_of(label: NDArray[np.uint8]) -> Dataset:
    """Rows of which only the labels matter."""
    index = np.zeros((len(label), 1), np.int32)
    return Dataset(index, index, (), (), label)


def test_a_report_is_a_page_and_its_pictures(tmp_path: Path) -> None:
    """The page holds the figures and settings, and every picture that it shows exists."""
    label = np.array([0, 1, 0, 1], np.uint8)
    logit = np.array([-1.0, 1.0, 0.5, 2.0], np.float32)
    metrics = {"validation": evaluate_scores(label, logit), "test": evaluate_scores(label, logit)}
    path = write_report(
        tmp_path / "report", "Frappe, DeepFM", CONFIG, result(0.75), metrics,
        rows_of(label), logit,
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    assert page.startswith("# Frappe, DeepFM\n")
    assert "| test | 4 | 2 | 1.0000 | 0." in page
    assert "**Warning:** with fewer than 100 clicks, or 100 other rows" in page
    assert "validation (2 clicks in 4 rows), test (2 clicks in 4 rows)" in page
    assert "stopped early" in page
    assert "| `hidden` | [2] |" in page
    for name in ("learning-curve.png", "reliability.png"):
        assert f"]({name})" in page
        assert (path.parent / name).read_bytes().startswith(PNG)
    figures = json.loads((path.parent / "figures.json").read_text())
    assert [each["log_loss"] for each in figures["history"]] == [
        each.log_loss for each in result(0.75).history
    ]
    assert len(figures["reliability"]["predicted"]) == len(label)


def test_a_report_without_an_auc(tmp_path: Path) -> None:
    """Labels of one class leave a dash for the AUC and an empty curve, not an error."""
    label, logit = np.zeros(3, np.uint8), np.zeros(3, np.float32)
    metrics = {"test": evaluate_scores(label, logit)}
    path = write_report(tmp_path, "One class", CONFIG, result(None), metrics, rows_of(label), logit)
    page = path.read_text(encoding="utf-8")
    assert re.search(
        r"\| test \| 3 \| 0 \| – \| – \| 0\.6931 \| 0\.\d{4} to \d\.\d{4} \| – \|", page
    )


def test_many_clicks_are_no_warning(tmp_path: Path) -> None:
    """With 100 rows of each class the page has the intervals and no warning."""
    label = (np.arange(400) < 100).astype(np.uint8)
    logit = np.random.default_rng(1).normal(label - 1.5, 1).astype(np.float32)
    metrics = {"test": evaluate_scores(label, logit)}
    path = write_report(tmp_path, "Enough", CONFIG, result(0.7), metrics, rows_of(label), logit)
    page = path.read_text(encoding="utf-8")
    assert "Warning" not in page
    assert re.search(
        r"\| test \| 400 \| 100 \| 0\.\d{4} \| 0\.\d{4} to 0\.\d{4} \| 0\.\d{4} \| 0", page
    )


def test_warnings_of_the_data_are_on_the_page(tmp_path: Path) -> None:
    """Rows that were left out, and their click rate, can be read up after the run."""
    label = np.array([0, 1], np.uint8)
    logit = np.array([-1.0, 1.0])
    metrics: dict[DataPart, Quality] = {"test": evaluate_scores(label, logit)}
    warnings = ["left out: 1 of 9 lines are bad:\n  log.csv:3: not UTF-8", "column 'x': 2 are NaN"]
    path = write_report(
        tmp_path, "Title", CONFIG, result(0.7), metrics, rows_of(label), logit, "", warnings
    )
    page = path.read_text(encoding="utf-8")
    for warning in warnings:
        assert f"```text\n{warning}\n```\n" in page


LOSSES = [(0.69315, 0.69314), (0.5, 0.5), (1e-4, 2e-4), (1e-6, 3e-6), (123.0, 0.1)]


@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("areas", [(0.5, 0.7), (0.99991, 0.99992), (None, None)])
def test_the_margins_have_room(
    losses: tuple[float, float], areas: tuple[float | None, float | None]
) -> None:
    """Whatever the numbers at the axes, they are all there, and cover nothing."""
    first, second = (
        replace(each, log_loss=loss, auc=area, epoch=epoch)
        for each, loss, area, epoch in zip(
            result(None).history, losses, areas, (0.1, 100.0), strict=True
        )
    )
    drawing = learning_curve(replace(result(None), history=(first, second), best=first))
    left, right = (axes.get_tightbbox() for axes in within(drawing))
    assert left.x1 < right.x0


@pytest.mark.parametrize("largest", [1e-5, 1e-4, 0.01, 0.5, 1.0])
def test_the_margins_have_room_for_scores(largest: float) -> None:
    """Large ones and small ones."""
    score = np.linspace(largest / 100, largest, 2_000) * (1 - 1e-6)
    clicked = (np.random.default_rng(0).random(2_000) < score).astype(np.uint8)
    within(reliability_diagram(rows_of(clicked), np.log(score / (1 - score))))


def within(drawing: Figure) -> list[Axes]:
    """Return the axes of a figure of which nothing is cut off."""
    box, (width, height) = drawing.get_tightbbox(), drawing.get_size_inches()
    assert min(box.x0, box.y0) >= 0.02
    assert box.x1 <= width - 0.02
    assert box.y1 <= height - 0.02
    return drawing.axes
