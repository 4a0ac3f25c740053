"""The commands that train: ``train``, ``compare``, ``tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.features.spec import DataPart
from model.cluster.places import MEMORY_MIB
from model.config import MANY_ROWS, NETWORKS, Quantized, SettingsFile, settings_path
from model.options import (
    BadLines,
    CacheDirectory,
    Cluster,
    DataToSplit,
    DeviceOption,
    GateFile,
    InitFrom,
    ItemId,
    ItemsFiles,
    MustBeatOption,
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
    part_files,
    stored_files,
)
from model.progress import is_first, say
from model.quality.figures import Counts
from model.remote.bundles import bundle_place
from model.remote.files import RemoteFile, file_path
from model.result_places import require_bundle_directory, require_directory
from model.threads import limit_torch


def train_command(
    spec: Spec,
    data: DataToSplit = None,
    train_files: TrainFiles = None,
    validation_files: ValidationFiles = None,
    test_files: TestFiles = None,
    network: Network = None,
    config: SettingsOption = None,
    device: DeviceOption = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed; overrides that of --config.")
    ] = None,
    init_from: InitFrom = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    split: SplitOption = Split.auto,
    max_bad_lines: BadLines = 0.0,
    cache: CacheDirectory = None,
    quantize: Annotated[
        Quantized,
        typer.Option(
            help="int8 writes an int8 graph too, if the validation part shows that it loses next"
            " to nothing; int8-unmeasured also where that part has too few rows to tell."
        ),
    ] = Quantized.none,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue from the last state that the same command saved."),
    ] = False,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds between two saved states; 0 saves none.")
    ] = 600.0,
    checkpoint_steps: Annotated[
        int, typer.Option(min=0, help="Batches between two saved states; 0 does not count them.")
    ] = 0,
    must_beat: MustBeatOption = None,
    gate: GateFile = None,
    out: Annotated[
        Path, typer.Option(parser=file_path, help="Directory of bundles to write to.")
    ] = Path("bundles"),
    cluster: Cluster = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train together; for --cluster, which needs it."),
    ] = None,
    worker_memory: WorkerMemory = MEMORY_MIB,
    sharded: Annotated[
        bool,
        typer.Option(
            "--sharded",
            help="Cut the table of embeddings into a part for each process of torchrun, for tables"
            " larger than a machine's memory. Needs TorchRec.",
        ),
    ] = False,
) -> None:
    """Train a network, export and check it, and print the new bundle's path.

    With --must-beat nothing is written, and the exit code is 3, if the new bundle breaks a bound.
    Under torchrun all its processes train the network together. With --cluster Ray starts --workers
    of them, and starts them again from the last saved state where one has died. With --sharded each
    process holds its part of the table alone.
    """
    # Each option by its name: the processes of a cluster get the same.
    options = dict(locals())
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare_together
    from model.group import joined
    from model.must_beat import MustBeat
    from model.pipeline import export
    from model.train_network import CheckpointOptions, asking, train
    from model.training.device import choose

    if sharded:
        _require_sharded({"--cluster": cluster, "--init-from": init_from}, quantize)
    if cluster is not None or workers is not None:
        _train_on_cluster(cluster, workers, worker_memory, cache, options)
        return
    limit_torch()
    # The first process writes for all of them.
    if is_first():
        require_bundle_directory(out)
    if resume and isinstance(out, RemoteFile) and cache is None:
        raise typer.BadParameter(
            "with --out in an object store it needs --cache, which keeps the states",
            param_hint="--resume",
        )
    settings = SettingsFile.beside(spec, config).on(device)
    name = network or settings.network
    given = {} if seed is None else {"seed": seed}
    # Errors of the settings are told before the data are read.
    checked = settings.config(name, MANY_ROWS, **given)
    if sharded:
        if checked.device == "cuda":
            raise typer.BadParameter("it trains on CPUs: device is cuda", param_hint="--sharded")
        settings = settings.on("cpu")
        checked = settings.config(name, MANY_ROWS, **given)
    parts = part_files(train_files, validation_files, test_files)
    if gate is not None and must_beat is None:
        raise typer.BadParameter("it needs --must-beat", param_hint="--gate")
    other = MustBeat.read(must_beat, gate) if must_beat else None
    before = Bundle.open(newest(init_from)) if init_from else None
    stored = stored_files(items, item_id, profiles, profile_key)
    inputs = InputFiles(data or (), parts, split.value, checked.seed, max_bad_lines, stored=stored)
    checkpointing = CheckpointOptions(checkpoint_seconds, checkpoint_steps, resume)
    with joined(alone_too=sharded) as group, bundle_place(out, cache) as place:
        choose(checked.device, group)
        prepared = prepare_together(group, spec, inputs, before, cache)
        training = settings.config(name, prepared.train_rows, **given)
        trained = train(
            prepared, training, place.directory, True, init_from, checkpointing, group, sharded
        )
        with asking(trained):
            if group.rank == 0:
                print(place.publish(export(trained, place.directory, quantize, other)))


def _require_sharded(options: dict[str, object], quantize: Quantized) -> None:
    """Refuse what a sharded table cannot do yet, before anything is read."""
    from model.sharding.row_exchange import require_torchrec

    given = [name for name, value in options.items() if value is not None]
    if quantize is not Quantized.none:
        given.append("--quantize")
    if given:
        raise typer.BadParameter(
            f"it cannot be combined with {given[0]} yet", param_hint="--sharded"
        )
    require_torchrec()


def _train_on_cluster(
    cluster: str | None,
    workers: int | None,
    memory_mib: int,
    cache: Path | None,
    options: dict[str, Any],
) -> None:
    """Let the processes of a cluster run the same command."""
    from model.train_group import train_on_cluster

    if cluster is None or workers is None:
        raise typer.BadParameter("they go together", param_hint="--cluster and --workers")
    if cache is None:
        raise typer.BadParameter(
            "the processes share the encoded data: it needs --cache, a directory that all machines"
            " see",
            param_hint="--cluster",
        )
    options |= {"cluster": None, "workers": None}
    print(train_on_cluster(cluster, workers, memory_mib, cache, train_command, options))


def compare_command(
    spec: Spec,
    data: DataToSplit = None,
    train_files: TrainFiles = None,
    validation_files: ValidationFiles = None,
    test_files: TestFiles = None,
    networks: Annotated[
        str, typer.Option(help=f"all, or some of {', '.join(NETWORKS)}, separated by commas.")
    ] = "all",
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds; each network is trained once with each.")
    ] = 5,
    config: SettingsOption = None,
    device: DeviceOption = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    split: SplitOption = Split.auto,
    max_bad_lines: BadLines = 0.0,
    cache: CacheDirectory = None,
    out: Annotated[Path, typer.Option(help="Directory for the report and its bundles.")] = Path(
        "report"
    ),
) -> None:
    """Train several networks on one split, write tables and plots, and print the page's path.

    Finished trainings are kept: the same command continues an interrupted comparison.
    """
    from model.compare import CompareError, chosen, compare
    from model.compare_report import TABLE, write_pages, write_summary
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare
    from model.training.device import choose

    limit_torch()
    require_directory(out)
    settings, names = SettingsFile.beside(spec, config).on(device), chosen(networks)
    parts = part_files(train_files, validation_files, test_files)
    checked = settings.config(names[0], MANY_ROWS)
    choose(checked.device)
    stored = stored_files(items, item_id, profiles, profile_key)
    inputs = InputFiles(data or (), parts, split.value, checked.seed, max_bad_lines, stored=stored)
    prepared = prepare(spec, inputs, cache=cache)
    found = compare(prepared, settings, names, seeds, out, lambda sofar: write_summary(out, sofar))
    counts = {part: Counts.of(encoded.label) for part, encoded in prepared.data.items()}
    page = write_pages(out, f"{prepared.name}: networks compared", counts, found)
    say((out / TABLE).read_text(encoding="utf-8"))
    print(page)
    if found.failures:
        failed = ", ".join(str(member) for member, _ in found.failures)
        raise CompareError(f"failed: {failed}; the others are in the report")


def tune_command(
    spec: Spec,
    data: DataToSplit = None,
    train_files: TrainFiles = None,
    validation_files: ValidationFiles = None,
    network: Network = None,
    trials: Annotated[
        int,
        typer.Option(min=1, help="Number of trials in all, earlier ones of the study included."),
    ] = 50,
    config: SettingsOption = None,
    device: DeviceOption = None,
    init_from: InitFrom = None,
    items: ItemsFiles = None,
    item_id: ItemId = None,
    profiles: ProfilesFiles = None,
    profile_key: ProfileKey = None,
    split: SplitOption = Split.auto,
    max_bad_lines: BadLines = 0.0,
    cache: CacheDirectory = None,
    study: Annotated[
        Path | None,
        typer.Option(help="File that keeps the trials. Default: <out>.study beside --out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Settings file to write.")] = Path("found.train.toml"),
) -> None:
    """Search for better training settings on the validation part; print the path of the file.

    The test part is not read. The same command continues an interrupted search.
    """
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare
    from model.training.device import choose
    from model.training.warm_start import WarmStart
    from model.tune import NAMES, require_places, tune

    limit_torch()
    settings = SettingsFile.beside(spec, config).on(device)
    name = network or settings.network
    checked = settings.config(name, MANY_ROWS)
    taken = choose(checked.device)
    study = study or out.with_name(f"{out.name}.study")
    stored = stored_files(items, item_id, profiles, profile_key)
    files = [*(data or ()), *(train_files or ()), *(validation_files or ())]
    files += [path for each in stored for path in each.paths]
    require_places(out, study, [spec, settings_path(spec, config), *files])
    wanted: tuple[DataPart, ...] = ("train", "validation")
    parts = part_files(train_files, validation_files, None)
    before = Bundle.open(newest(init_from)) if init_from else None
    inputs = InputFiles(data or (), parts, split.value, checked.seed, max_bad_lines, wanted, stored)
    if taken.worth_saying:
        say(f"trains on {taken}")
    prepared = prepare(spec, inputs, before, cache)
    base = settings.config(name, prepared.train_rows)
    start = (
        WarmStart.read(before, prepared.vocabulary, prepared.data["train"], base)
        if before
        else None
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    study.parent.mkdir(parents=True, exist_ok=True)
    found = tune(prepared, base, trials, study, out, start)
    say(
        f"best of {found.trials} trials, {found.given_up} given up and {found.failed} failed:"
        f" trial {found.number}, {NAMES[found.metric]} {found.value:.4f} on the validation part"
    )
    print(out)
