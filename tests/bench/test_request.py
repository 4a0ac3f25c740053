"""The benchmark of a request's CPU time beside another checkout's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from tests.bench.request import CANDIDATES, Load, Pair, golden_bodies, line
from tests.support.programs import program
from tests.support.serving import ROOT
from tests.support.starting import run

pytestmark = pytest.mark.slow


def test_a_line_has_medians_and_the_spread_of_the_ratio() -> None:
    """The ratio is the median over pairs, not the ratio of medians."""
    load = Load("/predict", Path("bodies"), 32)
    pairs = [Pair(10.0, 5.0), Pair(20.0, 12.0), Pair(40.0, 40.0)]
    assert line(load, pairs, compared=True) == (
        "| `/predict`, 32 connections | 20.0 | 12.0 | 0.600 | 0.500 to 1.000 |"
    )
    assert line(load, pairs, compared=False) == (
        "| `/predict`, 32 connections | 12.0 | 5.0 to 40.0 |"
    )


def test_golden_requests_are_bodies_of_both_endpoints(tiny_bundle: Path) -> None:
    """A row for each candidate, and lists of one length."""
    examples = Bundle.open(tiny_bundle).examples
    rows, lists = golden_bodies(examples)
    assert len(rows) == sum(len(each.candidates) for each in examples)
    assert {len(body["candidates"]) for body in lists} == {CANDIDATES}


@pytest.mark.e2e
@pytest.mark.long
def test_a_checkout_is_measured_beside_itself(tiny_bundle: Path) -> None:
    """A line for each load, with CPU time on both sides."""
    program("wrk")
    words = [".", "--bundle", str(tiny_bundle), "--repeat", "1", "--seconds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.request", *words, "--connections", "2"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *_, predict, rank = done.stdout.splitlines()
    assert predict.startswith("| `/predict`, 2 connections | ")
    assert rank.startswith("| `/rank`, 1 connection | ")
    before, now = predict.split(" | ")[1:3]
    assert 0 < float(before) < float(rank.split(" | ")[1])
    assert float(now) > 0


def test_stages_add_up(tiny_bundle: Path) -> None:
    """A line for each stage, and their sum."""
    done = run("tests.bench.request_stages", tiny_bundle, "--rounds", 20)
    assert done.returncode == 0, done.stderr
    _, _, *lines, total = done.stdout.splitlines()
    figures = [float(line.rpartition("| ")[2].strip(" |")) for line in lines]
    assert len(figures) == 10
    assert figures[0] > 0
    assert float(total.split("|")[2]) == pytest.approx(sum(figures), abs=0.5)
