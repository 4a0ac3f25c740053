"""The command that explains: ``explain``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from app.files import write_file
from model.options import BadLines, BundleToOpen, each_file
from model.progress import say
from model.remote.files import file_path
from model.result_places import require_file
from model.threads import limit_torch


class BaselineName(StrEnum):
    """The stand-in for absent fields."""

    mean = "mean"
    missing = "missing"


class PrecisionName(StrEnum):
    """A graph of a bundle."""

    float32 = "float32"
    int8 = "int8"


def explain(
    bundle: BundleToOpen,
    row: Annotated[
        str | None, typer.Option(help="A row to explain: a JSON object, as /predict takes it.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            parser=file_path,
            callback=each_file,
            help="Files whose rows show how much each field decides; may be repeated.",
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of the files that are explained, drawn at random.")
    ] = 1_000,
    baseline: Annotated[
        BaselineName,
        typer.Option(help="What an absent field counts as: its average, or a missing value."),
    ] = BaselineName.mean,
    precision: Annotated[
        PrecisionName, typer.Option(help="The graph to explain.")
    ] = PrecisionName.float32,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write for --data: a table and a bar chart."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the numbers to, as JSON.")
    ] = None,
    max_bad_lines: BadLines = 0.0,
) -> None:
    """Explain the score of a row, or how much each field decides over files.

    Give --row or --data. Numbers are in logits, before calibration.
    """
    from app.bundle.bundle import Bundle
    from app.bundle.directory import newest
    from model.data.reader import Reader
    from model.explain_files import OfflineExplainer
    from model.explain_page import table, told, write_page

    if (row is None) == (not data):
        raise typer.BadParameter("give either --row or --data")
    if out is not None and row is not None:
        raise typer.BadParameter("a page is written for --data only", param_hint="--out")
    limit_torch()
    opened = Bundle.open(newest(bundle))
    for place in (out, json_file):
        if place is not None:
            require_file(place, data or [], opened.path)
    explainer = OfflineExplainer.of(opened, precision.value)
    numbers: Any
    if row is not None:
        found = explainer.row(_row(row), baseline.value)
        print(told(found))
        numbers = {"version": opened.version, **found.shown()}
    else:
        frames = Reader(opened.spec, data or [], max_bad_lines, label=False).frames()
        shares, count = explainer.fields(frames, rows, baseline.value)
        print(table(shares))
        say(f"{count:,} rows explained")
        numbers = {"version": opened.version, "rows": count, "fields": shares}
        if out is not None:
            about = (
                f"Mean absolute part of each field in the logit of {count:,} rows, beside the"
                f" baseline in which every field is {_ABSENT[baseline]}: bundle {opened.version},"
                f" {opened.manifest.network}, {precision.value}."
            )
            write_page(out, "What decides the score", about, shares)
    if json_file is not None:
        write_file(json_file, msgspec.json.format(msgspec.json.encode(numbers)) + b"\n")


_ABSENT = {BaselineName.mean: "its average", BaselineName.missing: "missing"}


def _row(text: str) -> dict[str, Any]:
    """Decode the row of the command line."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise typer.BadParameter(f"expected a JSON object: {error}", param_hint="--row") from None
