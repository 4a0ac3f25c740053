"""A picture of latency over time."""

from __future__ import annotations

from io import BytesIO
from itertools import accumulate
from typing import Any

LINES = {"max": "tab:gray", "p99": "tab:blue", "p50": "tab:cyan"}
BARS = {"right": "tab:green", "refused": "tab:orange", "failed": "tab:red"}
MARKS = {"refused": "v", "failed": "X"}
MOST_DOTS = 120


def draw(found: dict[str, Any]) -> bytes:
    """Draw p50, p99 and maximum by second over what became of the requests; returns a PNG."""
    # Here, because a run without a picture needs no matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_second = {int(second): each for second, each in found["by_second"].items()}
    seconds = list(range(max(by_second, default=0) + 1))
    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    latency, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for part, color in LINES.items():
        values = [
            by_second.get(second, {}).get("latency_ms", {}).get(part, float("nan"))
            for second in seconds
        ]
        marker = "." if len(seconds) <= MOST_DOTS else ""
        latency.plot(seconds, values, marker=marker, color=color, label=part)
    stacks = [[by_second.get(second, {}).get(part, 0) for part in BARS] for second in seconds]
    bottoms = [[0, *accumulate(stack)] for stack in stacks]
    for number, (part, color) in enumerate(BARS.items()):
        values = [stack[number] for stack in stacks]
        bottom = [below[number] for below in bottoms]
        counts.bar(seconds, values, bottom=bottom, color=color, label=part)
        marked = [second for second, value in zip(seconds, values, strict=True) if value]
        if part in MARKS and marked:
            latency.plot(
                marked, [0.03] * len(marked), MARKS[part], color=color, label=part,
                transform=latency.get_xaxis_transform(),
            )  # fmt: skip
    latency.set_yscale("log")
    latency.set_ylabel("latency from the intended send, ms")
    latency.grid(True, which="both", alpha=0.3)
    latency.legend(loc="upper right", ncols=len(LINES) + len(MARKS))
    latency.set_title(_title(found), fontsize=10)
    counts.set_ylabel("requests due")
    counts.set_xlabel("second in which they were due")
    counts.margins(y=0.5)
    counts.legend(loc="upper right", ncols=len(BARS))
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _title(found: dict[str, Any]) -> str:
    setup = found["setup"]
    lines = [f"{setup['url']}: {setup['load']}"]
    for verdict in found["objectives"]:
        met = "met" if verdict["met"] else "not met"
        lines.append(f"{verdict['objective']}: {met}, {verdict['measured']}")
    if found["distorted"]:
        lines.append("distorted by the generator's own limits")
    return "\n".join(lines)
