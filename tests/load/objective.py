"""Bounds that a run must reach, as text: ``p99<=20ms``, ``errors<=0.1%``, ``rate>=290/s``.

A percentile is over all requests: one without a right answer counts as never answered. In front
of a dot may stand what it is taken over instead: ``answered`` (right answers only), ``refused``
(429 only), ``service`` (right answers, from the actual instead of the intended send), or a part
of the mix, as in ``rank:1000.p99<=80ms``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from tests.load.errors import UsageError
from tests.load.record import Record, Stats

_FORM = re.compile(
    r"\s*(?:(?P<scope>[a-z]+(?::\d+)?)\.)?(?P<metric>p\d{1,2}(?:\.\d+)?|[a-z]+)"
    r"\s*(?P<comparison><=|>=|≤|≥)\s*(?P<bound>\d+(?:\.\d+)?)\s*(?P<unit>[a-z%/]+)\s*"
)
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_SHARES = ("errors", "refused")
_SCOPES = ("answered", "refused", "service")


@dataclass(frozen=True, slots=True)
class Objective:
    """One bound. ``bound`` is in microseconds, percent or requests per second."""

    text: str
    scope: str | None
    metric: str
    bound: float

    @classmethod
    def parse(cls, text: str, kinds: Collection[str]) -> Objective:
        """Read an objective; ``kinds`` are the parts of the mix.

        Raises:
            UsageError: it is not one.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{text!r}: expected something like p99<=20ms, errors<=0.1% or rate>=290/s"
            )
        scope, metric, unit = found["scope"], found["metric"], found["unit"]
        if metric == "rate":
            units, wanted = {"/s": 1.0}, ">="
        elif metric in _SHARES:
            units, wanted = {"%": 1.0}, "<="
        elif metric in ("max", "mean") or re.fullmatch(r"p[\d.]+", metric):
            units, wanted = _MICROSECONDS, "<="
        else:
            raise UsageError(
                f"{text!r}: {metric!r} is none of p50 … p99.99, max, mean, errors, refused, rate"
            )
        if metric.startswith("p") and not float(metric[1:]):
            raise UsageError(f"{text!r}: a percentile lies above 0 and below 100")
        if unit not in units:
            raise UsageError(f"{text!r}: the unit of {metric} is {' or '.join(units)}")
        if found["comparison"].translate({0x2264: "<=", 0x2265: ">="}) != wanted:
            raise UsageError(f"{text!r}: {metric} takes {wanted}")
        if scope in _SCOPES and units is not _MICROSECONDS:
            raise UsageError(f"{text!r}: {metric} cannot be taken over {scope!r} alone")
        if scope is not None and scope not in {*_SCOPES, *kinds}:
            raise UsageError(
                f"{text!r}: {scope!r} is none of {', '.join([*_SCOPES, *sorted(kinds)])}"
            )
        return cls(text.strip(), scope, metric, float(found["bound"]) * units[unit])

    @property
    def percentile(self) -> float | None:
        """The percentile that it bounds, 100 for the maximum; None where it bounds no tail."""
        if self.metric == "max":
            return 100.0
        return float(self.metric[1:]) if self.metric.startswith("p") else None

    def judge(self, record: Record) -> Verdict:
        """Compare with what was measured."""
        if self.scope is None or self.scope in _SCOPES:
            stats = record.total
        else:
            stats = record.kinds.get(self.scope, Stats())
        if self.metric == "rate":
            measured = stats.arrived / record.window if record.window else 0.0
            return Verdict(self, measured, measured >= self.bound)
        if self.metric in _SHARES:
            wrong = stats.failed if self.metric == "errors" else stats.refused.count
            measured = 100.0 * wrong / stats.count if stats.count else 100.0
            return Verdict(self, measured, measured <= self.bound)
        if self.scope == "refused" and not stats.refused.count:
            return Verdict(self, None, True)
        measured = self._duration(stats)
        return Verdict(self, measured, measured <= self.bound)

    def _duration(self, stats: Stats) -> float:
        histograms = {"refused": stats.refused, "service": stats.service}
        histogram = histograms.get(self.scope or "", stats.latency)
        lost = 0 if self.scope in _SCOPES else stats.failed
        if self.metric == "mean":
            return histogram.mean if histogram.count and not lost else float("inf")
        return histogram.percentile(self.percentile or 0.0, lost)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an objective; ``measured`` is None where it had nothing to measure."""

    objective: Objective
    measured: float | None
    met: bool
