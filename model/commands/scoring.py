"""The commands over a bundle and files: ``evaluate``, ``predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.files import write_file
from model.options import (
    BadLines,
    BundleToOpen,
    Data,
    ItemId,
    ItemsFiles,
    PartName,
    ProfileKey,
    ProfilesFiles,
    column_names,
    stored_files,
)
from model.progress import say, warn
from model.quality.figures import few_clicks
from model.result_places import require_file
from model.threads import limit_torch


def evaluate(
    bundle: BundleToOpen,
    data: Data,
    part: Annotated[
        PartName | None,
        typer.Option(help="Measure only this part of the data that it was trained on."),
    ] = None,
    negatives_kept: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the rows without a click that the data hold; default: "
            "what the spec says of the part, or of the test part.",
        ),
    ] = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    max_bad_lines: BadLines = 0.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File to write the figures to, as JSON.")
    ] = None,
) -> None:
    """Measure a bundle on labelled data, with the serving engine."""
    from model.score_files import Offline

    limit_torch()
    stored = stored_files(items, item_id, profiles, profile_key)
    offline = Offline.open(bundle)
    if json_file is not None:
        inputs = [*data, *(path for each in stored for path in each.paths)]
        require_file(json_file, inputs, offline.bundle.path)
    frames = offline.frames(data, part.value if part else None, max_bad_lines, stored)
    kept = offline.bundle.spec.kept(part.value if part else "test")
    metrics = offline.evaluate(frames, kept if negatives_kept is None else negatives_kept)
    if json_file is not None:
        write_file(json_file, (json.dumps(metrics.to_dict(), indent=1) + "\n").encode())
    print(f"{metrics.line()} in {metrics.rows:,} rows")
    if warning := few_clicks([(part.value if part else "these files", metrics.counts)]):
        warn(warning)


def predict(
    bundle: BundleToOpen,
    data: Data,
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .tsv.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of the data to write beside the scores, separated by commas: the label,"
            " ids to join by."
        ),
    ] = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    max_bad_lines: BadLines = 0.0,
) -> None:
    """Score files offline, with or without labels, and write one row for each line.

    The columns are file, line, those of --keep, logit, score and version.
    """
    from model.score_files import Offline

    limit_torch()
    stored = stored_files(items, item_id, profiles, profile_key)
    kept = column_names(keep or ())
    rows = Offline.open(bundle).predict(data, out, max_bad_lines, kept, stored)
    say(f"{rows:,} rows scored")
    print(out)
