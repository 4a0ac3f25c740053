"""The figures of the scenarios, their judgement and their table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

SLACK = 3.0
"""A timed figure fails beyond this many times its bound: the machine may be slow and shared."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value, and the most that it may be.

    ``exact`` figures are outcomes: they fail as soon as they are over the bound. Without a bound
    a figure is only shown.
    """

    name: str
    value: float
    bound: float = math.inf
    unit: str = ""
    exact: bool = False

    @property
    def failed(self) -> bool:
        """True if the value is too far over its bound, or no number."""
        return not self.value <= (self.bound if self.exact else SLACK * self.bound)

    @property
    def verdict(self) -> str:
        """``ok``, ``over`` the bound but within the slack, ``FAILED``, or nothing."""
        if self.failed:
            return "FAILED"
        if math.isinf(self.bound):
            return ""
        return "ok" if self.value <= self.bound else "over"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A measurement that this machine does not allow, and the reason."""

    reason: str


Found = list[tuple[str, Figure | Skipped]]
"""The figures of scenarios, each with the scenario's name."""


def failures(found: Found) -> list[str]:
    """The figures that failed, named."""
    return [f"{s}: {each.name}" for s, each in found if isinstance(each, Figure) and each.failed]


def as_json(found: Found) -> str:
    """The figures for a file: name, value, bound (absent where there is none) and verdict."""
    entries: list[dict[str, object]] = []
    for scenario, each in found:
        if isinstance(each, Skipped):
            entries.append({"scenario": scenario, "skipped": each.reason})
            continue
        named = {"scenario": scenario, "figure": each.name, "value": each.value, "unit": each.unit}
        bounded = not math.isinf(each.bound)
        judged = {"bound": each.bound, "verdict": each.verdict} if bounded else {}
        entries.append(named | judged)
    return json.dumps(entries, indent=1) + "\n"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is no less than ``share`` of all; NaN where there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return percentile(values, 0.99)


def table(found: Sequence[tuple[str, Figure | Skipped]]) -> str:
    """Scenarios' figures as a Markdown table."""
    lines = ["| scenario | figure | value | at most | |", "|---|---|---:|---:|---|"]
    for scenario, each in found:
        if isinstance(each, Skipped):
            cells = [each.reason, "", "", "SKIPPED"]
        else:
            bound = "" if math.isinf(each.bound) else f"{_number(each.bound)} {each.unit}"
            cells = [each.name, f"{_number(each.value)} {each.unit}", bound, each.verdict]
        lines.append(f"| {scenario} | {' | '.join(cell.strip() for cell in cells)} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Whole numbers in full, others to three digits."""
    whole = not math.isfinite(value) or value == round(value) or value >= 100
    return f"{value:,.0f}" if whole else f"{value:.3g}"
