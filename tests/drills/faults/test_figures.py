"""Figures are judged and shown; a scenario that was too slow gets a second chance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import cast

import pytest

from tests.drills.faults import playing
from tests.drills.faults.figures import Figure, Skipped, as_json, failures, p99, percentile, table
from tests.drills.faults.stage import Stage
from tests.drills.soak import growth, quarters

NO_STAGE = cast(Stage, None)


@pytest.mark.parametrize(
    ("value", "exact", "verdict"),
    [
        (10, False, "ok"),
        (10.1, False, "over"),
        (30, False, "over"),
        (30.1, False, "FAILED"),
        (math.nan, False, "FAILED"),
        (10, True, "ok"),
        (10.1, True, "FAILED"),
        (math.nan, True, "FAILED"),
    ],
)
def test_a_timed_figure_has_slack_and_an_outcome_has_none(
    value: float, exact: bool, verdict: str
) -> None:
    """Up to its bound a figure is ok; a timed one may be three times over."""
    figure = Figure("name", value, 10, exact=exact)
    assert (figure.verdict, figure.failed) == (verdict, verdict == "FAILED")


def test_without_a_bound_a_figure_is_only_shown() -> None:
    """It never fails, unless there is nothing to show."""
    assert (Figure("name", 1e9).verdict, Figure("name", 1e9).failed) == ("", False)
    assert Figure("name", math.nan).failed


def test_percentiles_are_values_that_were_seen() -> None:
    """The smallest value with enough others at or below it."""
    values = [float(value) for value in range(200, 0, -1)]
    assert (p99(values), percentile(values, 0.5), percentile(values, 1)) == (198, 100, 200)
    assert percentile([7.0], 0.01) == 7
    assert math.isnan(p99([]))


def test_the_table_shows_everything() -> None:
    """One line each: value with unit, bound and verdict, or why it was skipped."""
    lines = table(
        [("a", Figure("x", 1234.0, 2000, "ms")), ("a", Figure("y", 0.12345)), ("b", Skipped("z"))]
    ).splitlines()[2:]
    assert lines == [
        "| a | x | 1,234 ms | 2,000 ms | ok |",
        "| a | y | 0.123 |  |  |",
        "| b | z |  |  | SKIPPED |",
    ]
    found = json.loads(as_json([("a", Figure("x", 3, 1)), ("b", Skipped("z"))]))
    assert [entry.get("verdict", entry.get("skipped")) for entry in found] == ["over", "z"]


def test_what_failed_is_named() -> None:
    """With its scenario; what was skipped, or is over its bound within the slack, has not."""
    found = [("a", Figure("x", 3, 2, exact=True)), ("a", Figure("y", 3, 2)), ("b", Skipped("z"))]
    assert failures(found) == ["a: x"]


def test_growth_and_quarters_of_a_soak() -> None:
    """Growth is per cent of the first; every sample is in one quarter."""
    assert growth(200, 210) == pytest.approx(5)
    assert growth(200, 150) == pytest.approx(-25)
    assert quarters(range(10)) == [range(2), range(2, 5), range(5, 7), range(7, 10)]
    assert quarters([1, 2, 3, 4]) == [[1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("first", "second", "failed"),
    [
        (Figure("x", 99, 10), Figure("x", 9, 10), False),
        (Figure("x", 99, 10), Figure("x", 98, 10), True),
        (Figure("x", 1, 0, exact=True), Figure("x", 0, 0, exact=True), True),
    ],
)
def test_only_slowness_gets_a_second_chance(
    monkeypatch: pytest.MonkeyPatch, first: Figure, second: Figure, failed: bool
) -> None:
    """A timed failure is measured again; a wrong outcome stays wrong, whatever else happens."""
    runs = iter([first, second])

    def scenario(stage: Stage) -> Iterator[Figure]:
        yield next(runs)
        yield Figure("fine", 0, 1)

    monkeypatch.setitem(playing.SCENARIOS, "made-up", scenario)
    found, broken = playing.play_all(["made-up"], NO_STAGE)
    assert broken == []
    assert bool(failures(found)) is failed


def test_second_chances_come_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing else runs; a scenario that breaks off then is told of, with no figure left."""
    order: list[str] = []

    def scenario(name: str, seconds: Iterator[float]) -> playing.Scenario:
        def played(_: Stage) -> Iterator[Figure]:
            order.append(name)
            yield Figure("seconds", next(seconds), 10)

        return played

    made_up = {"slow": iter([99.0, 1.0]), "well": iter([1.0]), "broken": iter([99.0])}
    for name, seconds in made_up.items():
        monkeypatch.setitem(playing.SCENARIOS, name, scenario(name, seconds))
    found, broken = playing.play_all([*made_up], NO_STAGE)
    assert order == ["slow", "well", "broken", "slow", "broken"]
    assert broken == ["broken"]
    assert found == [("slow", Figure("seconds", 1, 10)), ("well", Figure("seconds", 1, 10))]


def test_every_scenario_has_one_place() -> None:
    """Those that are played beside others are known, and each is named once."""
    beside_others = [*playing.BESIDE, *playing.TOGETHER]
    assert len({*beside_others}) == len(beside_others)
    assert {*beside_others} < {*playing.SCENARIOS}
