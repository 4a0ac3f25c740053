"""Whether the generator's own limits, instead of the service, decided what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tests.load.objective import Objective
from tests.load.record import OWN_FAULTS, Record

LEAST_DELAY_MS = 2.0
DELAY_SHARE = 0.1
MOST_CPU = 0.9
LEAST_SENT = 0.99


def tail(objectives: Iterable[Objective]) -> float:
    """The highest percentile that an objective bounds, at least 99: delays are judged there."""
    bounded = [each.percentile for each in objectives if each.percentile is not None]
    return max([99.0, *bounded])


def distortions(record: Record, percent: float, allowed_ms: float | None) -> list[str]:
    """Say what the generator could not do as it should have; empty where the figures count.

    Its own delays are compared at ``percent`` with ``allowed_ms``; by default with a tenth of
    the service's latency there, but at least :data:`LEAST_DELAY_MS`.
    """
    own = record.own
    if allowed_ms is None:
        latency_ms = record.total.latency.percentile(percent) / 1000
        allowed_ms = max(
            LEAST_DELAY_MS, DELAY_SHARE * latency_ms if math.isfinite(latency_ms) else 0.0
        )
    found = []
    delays = {
        "the generator sent late": own.send_delay,
        "the generator's event loop lagged": own.loop_lag,
        f"requests waited for one of {own.most_connections:,} connections (--max-connections)":
            own.connection_wait,
    }  # fmt: skip
    for what, histogram in delays.items():
        delay_ms = histogram.percentile(percent) / 1000 if histogram.count else 0.0
        if delay_ms > allowed_ms:
            found.append(f"{what}: p{percent:g} {delay_ms:.1f} ms, {allowed_ms:.1f} ms allowed")
    for outcome in OWN_FAULTS:
        if count := record.total.outcomes[outcome]:
            found.append(f"{outcome}: {count:,} requests never reached the service")
    if own.sent < own.scheduled * LEAST_SENT - 1:
        found.append(
            f"{own.scheduled / record.window:,.1f} requests/s were due, "
            f"{own.sent / record.window:,.1f}/s were sent in time"
        )
    if (cpu := max(own.cpu, default=0.0)) > MOST_CPU:
        found.append(f"a process of the generator used {cpu:.0%} of a core (--processes)")
    return found
