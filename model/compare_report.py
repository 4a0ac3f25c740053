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

SUMMARY, TABLE, PAGE = "summary.csv", "summary.md", "report.html"
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Column(NamedTuple):
    """A column of the tables for people."""

    title: str
    value: Callable[[Row], float | None]
    form: str


COLUMNS = (
    Column("AUC", lambda row: row.auc, ".4f"),
    Column("log loss", lambda row: row.log_loss, ".4f"),
    Column("predicted / observed", lambda row: row.calibration_ratio, ".3f"),
    Column("parameters", lambda row: row.parameters, ",.0f"),
    Column("training, s", lambda row: row.train_seconds, ",.1f"),
    Column("training, rows/s", lambda row: row.train_rows_per_second, ",.0f"),
    Column("bundle, MB", lambda row: row.bundle_bytes / 1e6, ",.2f"),
    Column("score 1, µs", lambda row: row.score_1_us, ",.0f"),
    Column("score 1,000, µs", lambda row: row.score_1000_us, ",.0f"),
)
NOTE = (
    "Means over the seeds ± the sample's standard deviation, on the test part. All networks saw"
    " the same rows, epochs and batches. An FNN's training time is without that of the FM that it"
    " starts from. Scoring is a run of the exported graph on one CPU thread: one context with one"
    " candidate, or with a thousand."
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
    out: Path, title: str, rows: Mapping[DataPart, int], comparison: Comparison
) -> Path:
    """Write the Markdown table and the page; ``rows`` are each part's. Return the page."""
    text = markdown(title, rows, comparison)
    write_file(out / TABLE, text.encode())
    write_file(out / PAGE, page(title, rows, comparison).encode())
    return out / PAGE


def by_network(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Sort members' records under their networks, in the order in which these first come."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.row.network, []).append(record)
    return found


def spread(values: Sequence[float | None], form: str) -> str:
    """Return mean ± sample standard deviation; a dash where a value is undefined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    mean = format(fmean(known), form)
    return f"{mean} ± {format(stdev(known), form)}" if len(known) > 1 else mean


def table(comparison: Comparison) -> list[list[str]]:
    """Return header and body: a line for each network with the means over its seeds."""
    lines = [["network", "seeds", *(column.title for column in COLUMNS)]]
    for name, records in by_network(comparison.records).items():
        cells = [
            # Only of quality and time is the spread of interest; the rest hardly has any.
            spread([column.value(record.row) for record in records], column.form)
            if column.title not in ("parameters", "bundle, MB")
            else format(fmean(column.value(record.row) or 0 for record in records), column.form)
            for column in COLUMNS
        ]
        lines.append([name, str(len(records)), *cells])
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


def about(rows: Mapping[DataPart, int]) -> str:
    """Say how many rows each part has."""
    return ", ".join(f"{count:,} rows to {part}" for part, count in rows.items())


def markdown(title: str, rows: Mapping[DataPart, int], comparison: Comparison) -> str:
    """Return the comparison as Markdown."""
    parts = [f"# {title}", about(rows) + ".", _markdown_table(table(comparison)), NOTE]
    if settings := settings_table(comparison):
        parts += ["Settings that differ:", _markdown_table(settings)]
    if comparison.failures:
        failed = "\n".join(f"- {member}: {why}" for member, why in comparison.failures)
        parts += ["Failed:", failed]
    return "\n\n".join(parts) + "\n"


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def page(title: str, rows: Mapping[DataPart, int], comparison: Comparison) -> str:
    """Return the comparison as one HTML file that needs no other."""
    plots = [auc_plot, auc_by_time_plot, reliability_plot] if comparison.records else []
    return TEMPLATES.get_template("comparison.html").render(
        title=title,
        about=about(rows),
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
    for name, records in by_network(comparison.records).items():
        first = records[0]
        axes.plot(first.predicted, first.observed, marker=".", linewidth=1, label=name)
        top = max(top, *first.predicted, *first.observed)
    axes.plot([0, top], [0, top], color="grey", linestyle=":", label="calibrated")
    axes.set(xlabel="predicted", ylabel="observed click rate")
    axes.legend()
    return figure


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element; the same figure gives the same text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
