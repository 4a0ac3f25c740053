"""Signs that the generator's own limits, instead of the service, decided the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.load.objective import Objective
from tests.load.record import OWN_FAULTS, Record

LEAST_DELAY_MS = 2.0
LATENCY_SHARE = 0.1
BOUND_SHARE = 0.25
MOST_CPU = 0.9
LEAST_SENT = 0.99


def tail(objectives: Sequence[Objective]) -> float:
    """The highest percentile that an objective bounds, at least 99: delays are judged there."""
    bounded = [each.percentile for each in objectives if each.percentile is not None]
    return max([99.0, *bounded])


def allowed_delay(record: Record, objectives: Sequence[Objective]) -> float:
    """Return the largest own delay that is allowed, in ms, at :func:`tail`.

    A tenth of the latency there, or a quarter of the shortest duration that an objective
    bounds: own delays only add to latencies, so that they may miss an objective but never
    meet one. At least :data:`LEAST_DELAY_MS`, which no busy machine keeps below.
    """
    allowed = [LEAST_DELAY_MS]
    latency = record.total.latency.percentile(tail(objectives))
    if math.isfinite(latency):
        allowed.append(LATENCY_SHARE * latency / 1000)
    if bounds := [each.bound for each in objectives if each.percentile is not None]:
        allowed.append(BOUND_SHARE * min(bounds) / 1000)
    return max(allowed)


def distortions(
    record: Record, objectives: Sequence[Objective], allowed_ms: float | None
) -> list[str]:
    """Say what the generator could not do as it should have; empty where the figures count.

    ``allowed_ms`` is :func:`allowed_delay` unless given.
    """
    own, percent = record.own, tail(objectives)
    if allowed_ms is None:
        allowed_ms = allowed_delay(record, objectives)
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
