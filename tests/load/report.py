"""A run's figures, as a JSON document and as text."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from tests.load.histogram import Histogram
from tests.load.objective import Verdict
from tests.load.record import OWN_FAULTS, RIGHT, UNANSWERED, Record, Stats

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def figures(
    setup: dict[str, Any], record: Record, verdicts: Sequence[Verdict], distorted: Sequence[str]
) -> dict[str, Any]:
    """Return everything that a run found, in JSON's types; durations are milliseconds."""
    own, total = record.own, record.total
    return {
        "setup": setup,
        "generator": {
            "python": platform.python_version(),
            "httpx": httpx.__version__,
            "cpus": os.cpu_count(),
        },
        "seconds": round(record.window, 3),
        "interrupted": record.interrupted,
        "cut_off": record.cut_off,
        "rate": {
            "scheduled": _rate(own.scheduled, record),
            "sent": _rate(own.sent, record),
            "answered": _rate(total.arrived, record),
        },
        "total": _stats(total),
        "kinds": {kind: _stats(stats) for kind, stats in sorted(record.kinds.items())},
        "answers": _among(total, lambda name: name not in {*UNANSWERED, *OWN_FAULTS}),
        "unanswered": _among(total, lambda name: name in UNANSWERED),
        "client_side": {name: total.outcomes[name] for name in OWN_FAULTS},
        "samples": record.samples,
        "reached": {
            "in_flight": own.most_in_flight,
            "connections": own.most_connections,
            "connections_opened": own.connections_opened,
            "waiting_for_a_connection": own.most_waiting,
        },
        "own": {
            "send_delay_ms": _durations(own.send_delay),
            "loop_lag_ms": _durations(own.loop_lag),
            "connection_wait_ms": _durations(own.connection_wait),
            "connect_ms": _durations(own.connect),
            "cpu_cores": [round(share, 3) for share in own.cpu],
        },
        "objectives": [_verdict(verdict) for verdict in verdicts],
        "distorted": list(distorted),
        "by_second": {
            str(second): {
                "latency_ms": _durations(stats.latency),
                "right": stats.outcomes[RIGHT],
                "refused": stats.refused.count,
                "failed": stats.failed - stats.refused.count,
            }
            for second, stats in sorted(record.seconds.items())
        },
    }


def text(found: dict[str, Any]) -> str:
    """Render what :func:`figures` returned for a terminal."""
    setup, reached, own, rate = (found[name] for name in ("setup", "reached", "own", "rate"))
    lines = [
        f"{setup['url']}, version {setup['version']}: {setup['load']}, {found['seconds']:g} s "
        f"after {setup['warmup_s']:g} s of warm-up; {setup['values']}",
        "",
        _row("right answers, ms", ["p50", "p90", "p99", "p99.9", "max", "count"]),
        _line("from the intended send", found["total"]["latency_ms"]),
        _line("from the actual send", found["total"]["service_ms"]),
    ]
    if len(found["kinds"]) > 1:
        lines += [_line(f"  {kind}", stats["latency_ms"]) for kind, stats in found["kinds"].items()]
    if found["total"]["refused_ms"]["count"]:
        lines.append(_line("refused (429)", found["total"]["refused_ms"]))
    lines += [
        "",
        f"rate          {rate['scheduled']:,.1f}/s due, {rate['sent']:,.1f}/s sent, "
        f"{rate['answered']:,.1f}/s answered right",
        f"answers       {_listed(found['answers'])}",
        f"unanswered    {_listed(found['unanswered'])}",
        f"client side   {_listed(found['client_side'])}",
        f"reached       {reached['in_flight']:,} requests in flight, "
        f"{reached['connections']:,} connections in use "
        f"({reached['connections_opened']:,} opened), "
        f"{reached['waiting_for_a_connection']:,} waiting for one",
        f"own p99, ms   {_delays(own)}; CPU {max(own['cpu_cores'], default=0):.0%} of a core",
    ]
    lines += [f"sample        {name}: {message}" for name, message in found["samples"].items()]
    if found["interrupted"]:
        lines.append(f"interrupted   {found['cut_off']:,} requests on their way were not counted")
    for verdict in found["objectives"]:
        lines.append(
            f"objective     {verdict['objective']}: {'met' if verdict['met'] else 'NOT MET'}, "
            f"{verdict['measured']}"
        )
    lines += [f"DISTORTED     {reason}" for reason in found["distorted"]]
    return "\n".join(lines) + "\n"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:24}" + "".join(f"{cell:>10}" for cell in cells)


def _line(name: str, durations: dict[str, Any]) -> str:
    if not durations["count"]:
        return _row(name, ["–"] * 5 + ["0"])
    shown = [f"{durations[part]:,.2f}" for part in ("p50", "p90", "p99", "p99.9", "max")]
    return _row(name, [*shown, f"{durations['count']:,}"])


def _delays(own: dict[str, Any]) -> str:
    parts = {"send_delay_ms": "before sending", "loop_lag_ms": "event loop",
             "connection_wait_ms": "for a connection", "connect_ms": "connecting"}  # fmt: skip
    return ", ".join(f"{name} {own[part].get('p99', 0):.2f}" for part, name in parts.items())


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{name} × {count:,}" for name, count in counts.items() if count]
    return ", ".join(shown) or "none"


def _stats(stats: Stats) -> dict[str, Any]:
    return {
        "requests": stats.count,
        "right": stats.outcomes[RIGHT],
        "refused": stats.refused.count,
        "failed": stats.failed - stats.refused.count,
        "outcomes": dict(sorted(stats.outcomes.items())),
        "latency_ms": _durations(stats.latency),
        "service_ms": _durations(stats.service),
        "refused_ms": _durations(stats.refused),
    }


def _durations(histogram: Histogram) -> dict[str, Any]:
    if not histogram.count:
        return {"count": 0}
    return {
        "count": histogram.count,
        "mean": round(histogram.mean / 1000, 3),
        **{f"p{each:g}": histogram.percentile(each) / 1000 for each in PERCENTILES},
        "max": histogram.largest / 1000,
    }


def _among(stats: Stats, wanted: Callable[[str], bool]) -> dict[str, int]:
    return {name: count for name, count in sorted(stats.outcomes.items()) if wanted(name)}


def _rate(count: int, record: Record) -> float:
    return round(count / record.window, 2) if record.window else 0.0


def _verdict(verdict: Verdict) -> dict[str, Any]:
    objective, measured = verdict.objective, verdict.measured
    if measured is None:
        shown = "nothing to measure"
    elif objective.metric == "rate":
        shown = f"{measured:,.1f}/s"
    elif objective.percentile is None and objective.metric != "mean":
        shown = f"{measured:.3g} %"
    elif math.isinf(measured):
        shown = "too few requests were answered right"
    else:
        shown = f"{measured / 1000:,.2f} ms"
    return {"objective": objective.text, "met": verdict.met, "measured": shown}
