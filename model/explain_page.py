"""Explanations as text and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from app.explain.explanation import Explanation
from app.files import write_file
from model.compare_report import TEMPLATES, svg
from model.explain_files import FieldShare

WIDTH = 40
"""Characters of the longest bar."""
MOST_PAIRS = 10
"""Pairs of an explanation that are printed."""


def told(found: Explanation) -> str:
    """Return an explanation as lines for people: the waterfall of the fields, then the terms."""
    shares = sorted(found.shapley.items(), key=lambda each: -abs(each[1]))
    lines = [
        f"score {found.score:.6f}, logit {found.logit:+.4f} before calibration ({found.method})",
        f"the baseline's logit is {found.baseline_logit:+.4f}; the fields add to it:",
        *_bars(shares, found.standard_error if found.method == "sampled" else {}),
    ]
    if found.bias is None or found.first_order is None:
        return "\n".join(lines)
    terms = [("bias", found.bias), ("deep part", found.deep or 0.0)]
    first = sorted(found.first_order.items(), key=lambda each: -abs(each[1]))
    pairs = [(" × ".join(each.fields), each.value) for each in (found.pairs or ())[:MOST_PAIRS]]
    lines += ["terms of the network, which add up to the logit:", *_bars(terms)]
    lines += ["of each field:", *_bars(first)]
    if pairs:
        lines += [f"of pairs of fields ({len(pairs)} of {len(found.pairs or ())}):", *_bars(pairs)]
    return "\n".join(lines)


def table(shares: Sequence[FieldShare]) -> str:
    """Return the part of each field as lines for people."""
    return "\n".join(_bars([(each.field, each.share) for each in shares]))


def _bars(values: Iterable[tuple[str, float]], errors: dict[str, float] | None = None) -> list[str]:
    """Return a line with a bar for each value."""
    found = list(values)
    longest = max((abs(value) for _, value in found), default=0.0) or 1.0
    name = max((len(each) for each, _ in found), default=0)
    lines = []
    for each, value in found:
        error = f" ± {errors[each]:.4f}" if errors else ""
        bar = ("#" if value >= 0 else "-") * round(WIDTH * abs(value) / longest)
        lines.append(f"  {each:<{name}}  {value:+.4f}{error}  {bar}".rstrip())
    return lines


def write_page(out: Path, title: str, about: str, shares: Sequence[FieldShare]) -> None:
    """Write the part of each field as one HTML file that needs no other."""
    page = TEMPLATES.get_template("explained.html").render(
        title=title, about=about, chart=svg(chart(shares)), shares=shares
    )
    write_file(out, page.encode())


def chart(shares: Sequence[FieldShare]) -> Figure:
    """Draw the mean absolute part of each field."""
    figure = Figure(figsize=(8, 0.9 + 0.3 * len(shares)), layout="constrained")
    axes = figure.subplots()
    axes.barh([each.field for each in shares], [each.share for each in shares], color="C0")
    axes.set(xlabel="mean absolute part of the logit")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return figure
