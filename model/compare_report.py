"""A comparison as a table for programs, one for people, and a page with plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure

from app.features.spec import DataPart
from app.files import write_file
from model.compare import Comparison, Record, Row
from model.quality.figures import Counts, few_clicks

SUMMARY, TABLE, PAGE = "summary.csv", "summary.md", "report.html"
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


COLOURS = 10
"""Colours of the plots' lines; further networks have them again in another line style."""
STYLES = ("-", "--", "-.")


class Column(NamedTuple):
    """A column of the tables for people; ``shown`` gives its text for the rows of a network."""

    title: str
    shown: Callable[[Sequence[Row]], str]


COLUMNS = (
    Column("AUC", lambda rows: spread([row.auc for row in rows], ".4f")),
    Column(
        "95 % interval",
        lambda rows: interval([row.auc_lower for row in rows], [row.auc_upper for row in rows]),
    ),
    Column("log loss", lambda rows: spread([row.log_loss for row in rows], ".4f")),
    Column(
        "95 % interval",
        lambda rows: interval(
            [row.log_loss_lower for row in rows], [row.log_loss_upper for row in rows]
        ),
    ),
    Column(
        "predicted / observed", lambda rows: spread([row.calibration_ratio for row in rows], ".3f")
    ),
    Column("parameters", lambda rows: average([row.parameters for row in rows], ",.0f")),
    Column("training, s", lambda rows: spread([row.train_seconds for row in rows], ",.1f")),
    Column(
        "training, rows/s", lambda rows: spread([row.train_rows_per_second for row in rows], ",.0f")
    ),
    Column("bundle, MB", lambda rows: average([row.bundle_bytes / 1e6 for row in rows], ",.2f")),
    Column("score 1, µs", lambda rows: spread([row.score_1_us for row in rows], ",.0f")),
    Column("score 1,000, µs", lambda rows: spread([row.score_1000_us for row in rows], ",.0f")),
)
NOTE = (
    "Means over the seeds ± the sample's standard deviation, on the test part. The intervals hold"
    " the figures of unlimited rows of the same kind, with 95 % confidence; all networks score the"
    " same rows, so their differences are known better than that. An FNN's training time is without"
    " that of the FM that it starts from. Scoring is a run of the exported graph on one CPU thread:"
    " one context with one candidate, or with a thousand."
)


def write_summary(out: Path, comparison: Comparison) -> Path:
    """Write a line for each member, as CSV with the names of ``Row``; return the file."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row.__struct_fields__)
    for record in comparison.records:
        values = (getattr(record.row, name) for name in Row.__struct_fields__)
        writer.writerow("" if value is None else _plain(value) for value in values)
    write_file(out / SUMMARY, file.getvalue().encode())
    return out / SUMMARY


def _plain(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def write_pages(
    out: Path, title: str, counts: Mapping[DataPart, Counts], comparison: Comparison
) -> Path:
    """Write the Markdown table and the page; ``counts`` are each part's. Return the page."""
    text = markdown(title, counts, comparison)
    write_file(out / TABLE, text.encode())
    write_file(out / PAGE, page(title, counts, comparison).encode())
    return out / PAGE


def by_network(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Sort members' records under their networks, in the order in which these first come."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.row.network, []).append(record)
    return found


def average(values: Sequence[float | None], form: str) -> str:
    """Return the mean; a dash where a value is undefined."""
    known = [value for value in values if value is not None]
    return format(fmean(known), form) if known and len(known) == len(values) else "–"


def spread(values: Sequence[float | None], form: str) -> str:
    """Return mean ± sample standard deviation; a dash where a value is undefined."""
    known = [value for value in values if value is not None]
    shown = average(values, form)
    if len(known) < len(values) or len(known) < 2:
        return shown
    return f"{shown} ± {format(stdev(known), form)}"


def interval(lower: Sequence[float | None], upper: Sequence[float | None]) -> str:
    """Return the mean bounds of intervals; a dash where one is undefined."""
    low, high = average(lower, ".4f"), average(upper, ".4f")
    return "–" if "–" in (low, high) else f"{low} to {high}"


def table(comparison: Comparison) -> list[list[str]]:
    """Return header and body: a line for each network with the means over its seeds."""
    lines = [["network", "seeds", *(column.title for column in COLUMNS)]]
    for name, records in by_network(comparison.records).items():
        rows = [record.row for record in records]
        lines.append([name, str(len(rows)), *(column.shown(rows) for column in COLUMNS)])
    return lines


def settings_table(comparison: Comparison) -> list[list[str]]:
    """Return header and body: the settings in which networks differ, a column for each."""
    configs = {name: found[0].config for name, found in by_network(comparison.records).items()}
    if not configs:
        return []
    keys = [key for key in next(iter(configs.values())) if key not in ("network", "seed")]
    lines = [["setting", *configs]]
    for key in keys:
        values = [str(config.get(key)) for config in configs.values()]
        if len(set(values)) > 1:
            lines.append([key, *values])
    return lines if len(lines) > 1 else []


def about(counts: Mapping[DataPart, Counts]) -> str:
    """Say how many rows and clicks each part has, and which has too few."""
    told = ", ".join(
        f"{rows:,} rows ({clicks:,} clicks) to {part}" for part, (rows, clicks) in counts.items()
    )
    few = few_clicks(counts.items())
    return f"{told}. Warning: {few}" if few else told


def markdown(title: str, counts: Mapping[DataPart, Counts], comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    parts = [f"# {title}", about(counts) + ".", _markdown_table(table(comparison)), NOTE]
    if settings := settings_table(comparison):
        parts += ["Settings that differ:", _markdown_table(settings)]
    if comparison.failures:
        failed = "\n".join(f"- {member}: {why}" for member, why in comparison.failures)
        parts += ["Failed:", failed]
    return "\n\n".join(parts) + "\n"


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def page(title: str, counts: Mapping[DataPart, Counts], comparison: Comparison) -> str:
    """Return the comparison as one HTML file that needs no other."""
    plots = [auc_plot, auc_by_time_plot, reliability_plot] if comparison.records else []
    return TEMPLATES.get_template("comparison.html").render(
        title=title,
        about=about(counts),
        figures=table(comparison),
        note=NOTE,
        failures=comparison.failures,
        plots=[svg(plot(comparison)) for plot in plots],
        settings=settings_table(comparison),
    )


def auc_plot(comparison: Comparison) -> Figure:
    """Draw every member's AUC and each network's mean with its spread."""
    found = by_network(comparison.records)
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(found)), layout="constrained")
    axes = figure.subplots()
    for height, records in enumerate(found.values()):
        values = [record.row.auc for record in records if record.row.auc is not None]
        axes.plot(values, [height] * len(values), "o", color="C0", alpha=0.35, markersize=4)
        if values:
            error = stdev(values) if len(values) > 1 else 0.0
            axes.errorbar(fmean(values), height, xerr=error, fmt="D", color="C1", capsize=4)
    axes.set(yticks=range(len(found)), yticklabels=[*found], xlabel="AUC, test part")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return figure


def auc_by_time_plot(comparison: Comparison) -> Figure:
    """Draw each network's mean AUC over the time that a thousand candidates take."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, records in by_network(comparison.records).items():
        values = [record.row.auc for record in records if record.row.auc is not None]
        if values:
            place = (fmean(record.row.score_1000_us for record in records), fmean(values))
            axes.plot(*place, "o", color="C0")
            axes.annotate(name, place, textcoords="offset points", xytext=(6, 4))
    axes.set(xscale="log", xlabel="µs for 1,000 candidates, one thread", ylabel="AUC, test part")
    axes.grid(alpha=0.3)
    return figure


def reliability_plot(comparison: Comparison) -> Figure:
    """Draw the observed click rate over the mean score, each network with its first seed."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    top = 1e-6
    for number, (name, records) in enumerate(by_network(comparison.records).items()):
        first = records[0]
        colour, style = f"C{number % COLOURS}", STYLES[number // COLOURS % len(STYLES)]
        axes.plot(
            first.predicted,
            first.observed,
            style,
            color=colour,
            marker=".",
            linewidth=1,
            label=name,
        )
        top = max(top, *first.predicted, *first.observed)
    axes.plot([0, top], [0, top], color="grey", linestyle=":", label="calibrated")
    axes.set(xlabel="predicted", ylabel="observed click rate")
    axes.legend(loc="upper left")
    return figure


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element; the same figure gives the same text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
