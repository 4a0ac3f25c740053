"""``python -m model``: the trainer's commands.

A command imports what only it needs: torch alone takes more than a second.
"""

from __future__ import annotations

import sys

from app.missing_packages import advise

sys.excepthook = advise

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, TypeVar

import typer

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.errors import CtrError
from app.features.spec import DataPart
from app.files import write_file
from app.remote.address import Address
from app.remote.link import Link, open_link
from model import publish as publishing
from model.config import MANY_ROWS, NETWORKS, Quantized, SettingsFile, settings_path
from model.data.stored_files import StoredFiles
from model.options import (
    BadLines,
    CacheDirectory,
    Data,
    DataToSplit,
    GateFile,
    InitFrom,
    ItemId,
    ItemsFiles,
    MustBeatOption,
    Network,
    PartName,
    PasswordFile,
    ProfileKey,
    ProfilesFiles,
    RedisUrl,
    SettingsOption,
    Spec,
    SpecOption,
    Split,
    SplitOption,
    StoreUrl,
    TestFiles,
    TrainFiles,
    ValidationFiles,
    column_names,
    part_files,
    stored_files,
)
from model.progress import FIRST, say, warn
from model.quality.figures import Counts, few_clicks
from model.result_places import reason_of, require_bundle_directory, require_directory, require_file
from model.threads import limit_torch

cli = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Result = TypeVar("Result")
INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM, as shells have it."""


@cli.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of a data set: movielens-100k.")],
    directory: Annotated[Path, typer.Option("--out", help="Directory to write to.")] = Path("data"),
) -> None:
    """Download a public data set and print its directory."""
    from model.fetch import fetch

    print(fetch(name, directory))


@cli.command("train")
def train_command(
    spec: Spec,
    data: DataToSplit = None,
    train_files: TrainFiles = None,
    validation_files: ValidationFiles = None,
    test_files: TestFiles = None,
    network: Network = None,
    config: SettingsOption = None,
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
    out: Annotated[Path, typer.Option(help="Directory of bundles to write to.")] = Path("bundles"),
) -> None:
    """Train a network, export and check it, and print the new bundle's path.

    With --must-beat nothing is written, and the exit code is 3, if the new bundle breaks a bound.
    Under torchrun all its processes train the network together.
    """
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare_together
    from model.group import joined
    from model.must_beat import MustBeat
    from model.pipeline import CheckpointOptions, export, train

    limit_torch()
    # The first process writes for all of them.
    if FIRST:
        require_bundle_directory(out)
    settings = SettingsFile.beside(spec, config)
    name = network or settings.network
    given = {} if seed is None else {"seed": seed}
    # Errors of the settings are told before the data are read.
    seed = settings.config(name, MANY_ROWS, **given).seed
    parts = part_files(train_files, validation_files, test_files)
    if gate is not None and must_beat is None:
        raise typer.BadParameter("it needs --must-beat", param_hint="--gate")
    other = MustBeat.read(must_beat, gate) if must_beat else None
    before = Bundle.open(newest(init_from)) if init_from else None
    stored = stored_files(items, item_id, profiles, profile_key)
    inputs = InputFiles(data or (), parts, split.value, seed, max_bad_lines, stored=stored)
    checkpointing = CheckpointOptions(checkpoint_seconds, checkpoint_steps, resume)
    with joined() as group:
        prepared = prepare_together(group, spec, inputs, before, cache)
        training = settings.config(name, prepared.train_rows, **given)
        trained = train(prepared, training, out, True, init_from, checkpointing, group)
        if group.rank == 0:
            print(export(trained, out, quantize, other))


@cli.command("compare")
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

    limit_torch()
    require_directory(out)
    settings, names = SettingsFile.beside(spec, config), chosen(networks)
    parts = part_files(train_files, validation_files, test_files)
    seed = settings.config(names[0], MANY_ROWS).seed
    stored = stored_files(items, item_id, profiles, profile_key)
    inputs = InputFiles(data or (), parts, split.value, seed, max_bad_lines, stored=stored)
    prepared = prepare(spec, inputs, cache=cache)
    found = compare(prepared, settings, names, seeds, out, lambda sofar: write_summary(out, sofar))
    counts = {part: Counts.of(encoded.label) for part, encoded in prepared.data.items()}
    page = write_pages(out, f"{prepared.name}: networks compared", counts, found)
    say((out / TABLE).read_text(encoding="utf-8"))
    print(page)
    if found.failures:
        failed = ", ".join(str(member) for member, _ in found.failures)
        raise CompareError(f"failed: {failed}; the others are in the report")


@cli.command("tune")
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
    from model.training.warm_start import WarmStart
    from model.tune import NAMES, require_places, tune

    limit_torch()
    settings = SettingsFile.beside(spec, config)
    name = network or settings.network
    seed = settings.config(name, MANY_ROWS).seed
    study = study or out.with_name(f"{out.name}.study")
    stored = stored_files(items, item_id, profiles, profile_key)
    files = [*(data or ()), *(train_files or ()), *(validation_files or ())]
    files += [path for each in stored for path in each.paths]
    require_places(out, study, [spec, settings_path(spec, config), *files])
    wanted: tuple[DataPart, ...] = ("train", "validation")
    parts = part_files(train_files, validation_files, None)
    before = Bundle.open(newest(init_from)) if init_from else None
    inputs = InputFiles(data or (), parts, split.value, seed, max_bad_lines, wanted, stored)
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


@cli.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a directory of them.")],
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


@cli.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a directory of them.")],
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


def _with_redis(
    url: str, password_file: Path | None, work: Callable[[Link], Awaitable[Result]]
) -> Result:
    async def run() -> Result:
        link = open_link(Address.parse(url), 1, password_file)
        try:
            return await work(link)
        finally:
            await link.close()

    return asyncio.run(run())


@cli.command("publish")
def publish_command(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a directory of them.")],
    redis: RedisUrl,
    redis_password_file: PasswordFile = None,
) -> None:
    """Write a bundle's vocabulary into Redis, check it, and let services see it."""
    opened = Bundle.open(newest(bundle), mapped=True)
    done = _with_redis(redis, redis_password_file, lambda link: publishing.publish(link, opened))
    for warning in done.warnings:
        warn(warning)
    say(f"{done.entry.values:,} values of {done.entry.bundle}; {done.written:,} buckets written")
    print(done.entry.hash)


@cli.command("list")
def list_command(redis: RedisUrl, redis_password_file: PasswordFile = None) -> None:
    """List the vocabularies in Redis, the newest first."""
    for each in _with_redis(redis, redis_password_file, publishing.listed):
        entry = each.entry
        print(
            entry.hash[:12],
            entry.published,
            f"{entry.values:>12,}",
            f"{entry.state:10}",
            "in use" if each.in_use else "-     ",
            entry.bundle,
            sep="  ",
        )


@cli.command("unpublish")
def unpublish_command(
    vocabulary: Annotated[str, typer.Argument(help="First digits of the vocabulary's hash.")],
    redis: RedisUrl,
    redis_password_file: PasswordFile = None,
    force: Annotated[
        bool, typer.Option("--force", help="Remove it even if a service uses it.")
    ] = False,
) -> None:
    """Remove a vocabulary from Redis."""
    gone = _with_redis(
        redis, redis_password_file, lambda link: publishing.unpublish(link, vocabulary, force)
    )
    print(gone.hash)


@cli.command("prune")
def prune_command(
    keep: Annotated[int, typer.Option(min=1, help="Number of vocabularies to keep.")],
    redis: RedisUrl,
    redis_password_file: PasswordFile = None,
) -> None:
    """Remove older vocabularies from Redis, except those that services use."""
    for entry in _with_redis(redis, redis_password_file, lambda link: publishing.prune(link, keep)):
        print(entry.hash)


items_cli = typer.Typer(no_args_is_help=True, help="Items of a store: see put.")
profiles_cli = typer.Typer(no_args_is_help=True, help="Profiles of a store: see put.")
cli.add_typer(items_cli, name="items")
cli.add_typer(profiles_cli, name="profiles")


@items_cli.callback()
@profiles_cli.callback()
def store_command() -> None:
    """Fill a store from files of any kind that is read as a log."""


@items_cli.command("put")
def put_items_command(
    files: Data,
    item_id: Annotated[str, typer.Option("--id", help="Column with the id of an item.")],
    spec: SpecOption,
    store: StoreUrl,
    max_bad_lines: BadLines = 0.0,
) -> None:
    """Store items, in the place of those with the same ids."""
    _put(StoredFiles("item", files, item_id), spec, store, max_bad_lines)


@profiles_cli.command("put")
def put_profiles_command(
    files: Data,
    key: Annotated[str, typer.Option("--key", help="Column with the key of a user.")],
    spec: SpecOption,
    store: StoreUrl,
    max_bad_lines: BadLines = 0.0,
) -> None:
    """Store profiles, in the place of those with the same keys."""
    _put(StoredFiles("profile", files, key), spec, store, max_bad_lines)


def _put(files: StoredFiles, spec: Path, store: str, max_bad_lines: float) -> None:
    from model.put_stored import put_stored

    put_stored(spec, files, store, max_bad_lines)


class Interrupted(BaseException):
    """The process was told to end, by SIGINT or SIGTERM.

    Not KeyboardInterrupt: once that has passed through code given to ``exec`` as text, as torch and
    dataclasses have it, CPython ends by the signal, whatever the exit code.
    """


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted


def main() -> int:
    """Run a command; an expected failure is one message and exit code 1."""
    # SIGTERM unwinds like Ctrl-C, so that no half-written file is left.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        # typer turns Ctrl-C into the exit code 130, which it returns where it does not exit itself.
        code: int = cli(standalone_mode=False) or 0
    except CtrError as error:
        say(f"error: {error}")
        return error.exit_code
    except OSError as error:
        say(f"error: {reason_of(error)}")
        return 1
    except (Interrupted, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        # Without a command typer has printed the help already, and has no message.
        if message := error.format_message().rstrip("."):
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "python -m model"
            say(f"error: {message}; see {command} --help")
        return 2
    if code == INTERRUPTED:
        say("interrupted; no unfinished result is left")
    return code


if __name__ == "__main__":
    sys.exit(main())
