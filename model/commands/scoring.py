"""The commands over a bundle and files: ``evaluate``, ``predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.files import write_file
from model.cluster.places import MEMORY_MIB
from model.options import (
    BadLines,
    BundleToOpen,
    Cluster,
    Data,
    ItemId,
    ItemsFiles,
    PartName,
    ProfileKey,
    ProfilesFiles,
    WorkerMemory,
    Workers,
    column_names,
    stored_files,
)
from model.progress import say, warn
from model.quality.figures import few_clicks
from model.remote.bundles import local_bundle
from model.remote.files import file_path
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
    bundle: Annotated[
        Path, typer.Argument(parser=file_path, help="A bundle, or a directory of them.")
    ],
    data: Data,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .parquet, .csv or .tsv; with --cluster a directory, which gets one"
            " Parquet file for each block."
        ),
    ],
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
    cluster: Cluster = None,
    workers: Workers = None,
    worker_memory: WorkerMemory = MEMORY_MIB,
) -> None:
    """Score files offline, with or without labels, and write one row for each line.

    The columns are file, line, those of --keep, logit, score and version. With --cluster the same
    command goes on with a run that was killed; _SUCCESS in --out says that one has ended.
    """
    from model.cluster.ray_engine import opened
    from model.score_blocks import predict_blocks
    from model.score_files import Offline

    limit_torch()
    stored = stored_files(items, item_id, profiles, profile_key)
    kept = column_names(keep or ())
    if cluster is None and workers is None:
        rows = Offline.open(local_bundle(bundle)).predict(data, out, max_bad_lines, kept, stored)
    else:
        with opened(cluster, workers, worker_memory) as places:
            rows = predict_blocks(places, bundle, data, out, max_bad_lines, kept, stored)
    say(f"{rows:,} rows scored")
    print(out)
