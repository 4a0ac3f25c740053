"""The commands about data: ``fetch``, ``spec`` and ``check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from app.features.spec import MAX_LIST_VALUES, DataPart
from model.cluster.places import MEMORY_MIB
from model.config import MANY_ROWS, SettingsFile
from model.options import (
    BadLines,
    CacheDirectory,
    Cluster,
    Data,
    DataToSplit,
    InitFrom,
    ItemId,
    ItemsFiles,
    Network,
    ProfileKey,
    ProfilesFiles,
    SettingsOption,
    Spec,
    Split,
    SplitOption,
    TestFiles,
    TrainFiles,
    ValidationFiles,
    WorkerMemory,
    Workers,
    column_names,
    part_files,
    stored_files,
)
from model.progress import say, warn


def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of a data set: movielens-100k.")],
    directory: Annotated[Path, typer.Option("--out", help="Directory to write to.")] = Path("data"),
    histories: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_LIST_VALUES,
            help="Past films for each rating, in histories-N.csv: those that the user had rated 4"
            " or 5 before.",
        ),
    ] = 0,
) -> None:
    """Download a public data set and print its directory."""
    from model.fetch import fetch

    print(fetch(name, directory, histories))


def spec_command(
    data: Data,
    label: Annotated[
        str, typer.Option(help="Column with 0 and 1, or true and false: whether it was clicked.")
    ],
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of the user or the request, separated by commas; what is the same in all"
            " rows of such a value is of its side."
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(help="Columns of the item, such as its id, in the same way."),
    ] = None,
    serve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="A column that is known in training only, such as a position, and the value that"
            " every request counts as having; repeat it for others.",
        ),
    ] = None,
    dynamic: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of the item whose values depend on the moment, separated by commas: they"
            " come with each request, never from a store."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Names of all columns, separated by commas, of files without a header."),
    ] = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    sample_rows: Annotated[
        int, typer.Option(min=1, help="Rows to look at; of larger files blocks are taken evenly.")
    ] = 300_000,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a file that is there already.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Feature spec to write.")] = Path("spec.toml"),
) -> None:
    """Look at data, write a feature spec with comments, and print its path."""
    from app.features.spec import FeatureSpec
    from app.files import write_file
    from model.draft.draft import draft
    from model.draft.items import with_items
    from model.draft.look import look_at
    from model.draft.serving import Serving
    from model.result_places import ResultError, require_file

    stored = stored_files(items, item_id, None, None)
    require_file(out, [*data, *(path for each in stored for path in each.paths)], parents=True)
    if out.exists() and not replace:
        raise ResultError(f"{out} is there already; name another file with --out, or --replace it")
    names = column_names(columns or (), "--columns") or None
    sides = [
        column_names(each or (), option)
        for each, option in ((context, "--context"), (candidate, "--candidate"))
    ]
    serving = Serving.of(serve or (), column_names(dynamic or (), "--dynamic"))
    look = look_at(data, label, names, sample_rows)
    for each in stored:
        look = with_items(look, each.paths, each.key)
    found = draft(look, sides[0], sides[1], serving)
    text = found.text()
    # Its own reader is the judge of what was written.
    FeatureSpec.parse(text, str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, text.encode())
    for line in found.table():
        say(line)
    for line in found.left_out():
        say(f"left out: {line}")
    for line in found.warnings():
        warn(line)
    print(out)


def prepare_command(
    spec: Spec,
    data: DataToSplit = None,
    train_files: TrainFiles = None,
    validation_files: ValidationFiles = None,
    test_files: TestFiles = None,
    network: Network = None,
    config: SettingsOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the split; overrides that of --config.")
    ] = None,
    init_from: InitFrom = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    split: SplitOption = Split.auto,
    max_bad_lines: BadLines = 0.0,
    without_test: Annotated[
        bool, typer.Option("--without-test", help="Leave out the test part, as `tune` does.")
    ] = False,
    cluster: Cluster = None,
    workers: Workers = None,
    worker_memory: WorkerMemory = MEMORY_MIB,
    *,
    cache: Annotated[Path, typer.Option(help="Directory that keeps the encoded data.")],
) -> None:
    """Read, split and encode data, and print where they are; `train` and `compare` find them.

    With the options that decide the rows (seed, split, files) equal, those commands read no file
    again with the same --cache. A run that was interrupted or killed goes on where it was.
    """
    from app.bundle.bundle import Bundle
    from app.bundle.directory import newest
    from model.cluster.ray_engine import opened
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare_rows
    from model.data.split import PARTS

    settings = SettingsFile.beside(spec, config)
    given = {} if seed is None else {"seed": seed}
    seed = settings.config(network or settings.network, MANY_ROWS, **given).seed
    parts = part_files(train_files, validation_files, None if without_test else test_files)
    before = Bundle.open(newest(init_from)) if init_from else None
    stored = stored_files(items, item_id, profiles, profile_key)
    wanted: Sequence[DataPart] = ("train", "validation") if without_test else PARTS
    inputs = InputFiles(data or (), parts, split.value, seed, max_bad_lines, wanted, stored)
    with opened(cluster, workers, worker_memory) as places:
        entry = prepare_rows(spec, inputs, before, cache, places)
    print(entry)


def check_command(
    spec: Spec,
    data: DataToSplit = None,
    train_files: TrainFiles = None,
    validation_files: ValidationFiles = None,
    test_files: TestFiles = None,
    network: Network = None,
    config: SettingsOption = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    split: SplitOption = Split.auto,
    max_bad_lines: BadLines = 0.0,
    cache: CacheDirectory = None,
) -> None:
    """Read and encode data as ``train`` does, and print what it would find; nothing is trained.

    Lines that cannot be used are left out and named; the exit code is 1 if training would stop at
    them. Time and memory are those of some steps, which are taken and forgotten.
    """
    from model.check import check, require_few_bad_lines
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare
    from model.threads import limit_torch

    limit_torch()
    settings = SettingsFile.beside(spec, config)
    name = network or settings.network
    seed = settings.config(name, MANY_ROWS).seed
    parts = part_files(train_files, validation_files, test_files)
    stored = stored_files(items, item_id, profiles, profile_key)
    # All bad lines are found at once, whatever training would allow.
    inputs = InputFiles(data or (), parts, split.value, seed, max_bad_lines or 1.0, stored=stored)
    prepared = prepare(spec, inputs, cache=cache)
    for line in check(prepared, settings.config(name, prepared.train_rows)):
        print(line)
    require_few_bad_lines(prepared.warnings, max_bad_lines)
