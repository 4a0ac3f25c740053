"""``check`` says what training would find, and trains nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.check import check, measured_cost, require_few_bad_lines, values
from model.config import TrainConfig
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare

pytestmark = pytest.mark.slow
SPEC = """
label = "click"
timestamp = "time"
[[fields]]
name = "user"
kind = "categorical"
side = "context"
[[fields]]
name = "price"
kind = "numeric"
side = "candidate"
[[fields]]
name = "tags"
kind = "multi_categorical"
side = "candidate"
min_count = 1
"""
CONFIG = TrainConfig(embedding_size=4, hidden=(8,), batch_size=128, epochs=3, threads=1)


def prepared(directory: Path, drift: bool, rows: int = 4_000, bad: int = 0) -> Prepared:
    """Rows along time; with drift the last fifth has other users and higher prices."""
    random = np.random.default_rng(5)
    lines = ["click,time,user,price,tags"]
    for row in range(rows):
        late = drift and row >= 0.8 * rows
        user = random.integers(0, 20) + 100 * late
        price = random.normal() + 3 * late
        tag = "abc"[random.integers(0, 3)]
        shown = "x" if row < bad else f"{price:.3f}"
        lines.append(f"{row % 4 == 0:d},{1_600_000_000 + row},u{user},{shown},{tag}|z")
    (directory / "log.csv").write_text("\n".join(lines))
    (directory / "spec.toml").write_text(SPEC)
    inputs = InputFiles([directory / "log.csv"], max_bad_lines=1.0)
    return prepare(directory / "spec.toml", inputs, progress=False)


def test_what_training_would_find(tmp_path: Path) -> None:
    """Parts with their clicks, each slot's values, rate, memory and disk."""
    text = "\n".join(check(prepared(tmp_path, drift=False), CONFIG))
    assert re.search(r"^train +3,200 +800 +25.00%$", text, re.M)
    assert re.search(r"^test +400 +100 +25.00%$", text, re.M)
    assert re.search(r"^user +20 +0.0% +0.0% ", text, re.M)
    assert re.search(r"^training: at most .* for 3 epochs of 3,200 rows with deepfm", text, re.M)
    assert "\nmemory: " in text
    assert "\ndisk: " in text
    assert "drift:" not in text


def test_parts_that_differ_are_named(tmp_path: Path) -> None:
    """New users and higher prices are drift; tags as before are not."""
    lines = list(values(prepared(tmp_path, drift=True)))
    assert [line.split()[0] for line in lines[1:-1] if line.endswith("  drift")] == [
        "user", "price",
    ]  # fmt: skip
    assert lines[-1].startswith("drift: user, price differ")
    [user] = [line for line in lines if line.startswith("user ")]
    assert user.split()[3] == "100.0%"


def test_steps_leave_no_trace_and_one_is_enough(tmp_path: Path) -> None:
    """A training of a single step is measured too."""
    found = measured_cost(prepared(tmp_path, drift=False), replace(CONFIG, epochs=1))
    assert found.rows == 3_200
    assert found.rows_per_second > 0
    one = replace(CONFIG, epochs=1, batch_size=3_200)
    assert measured_cost(prepared(tmp_path, drift=False), one).rows_per_second > 0


def test_bad_lines_are_told_and_would_stop_training(tmp_path: Path) -> None:
    """They are left out here, however many there are."""
    found = prepared(tmp_path, drift=False, bad=3)
    assert any("left out: 3 of 4000 lines are bad" in warning for warning in found.warnings)
    with pytest.raises(DataError, match="training would stop at the lines that were left out"):
        require_few_bad_lines(found.warnings, 0.0)
    require_few_bad_lines(found.warnings, 0.01)
    require_few_bad_lines((), 0.0)
