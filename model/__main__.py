"""``python -m model``: the trainer's commands."""

from __future__ import annotations

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.errors import CtrError
from model.config import NETWORKS, ConfigError, TrainConfig
from model.data import Part, SplitMode
from model.fetch import FetchError, fetch
from model.pipeline import Inputs, Offline, say, show, train
from model.train import TrainingError

cli = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Data = Annotated[list[Path], typer.Argument(help="CSV, TSV or Parquet files, also gzipped.")]
BadLines = Annotated[
    float, typer.Option(min=0, max=1, help="Share of bad lines that is put up with.")
]

INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM, as shells have it."""


class Quantized(StrEnum):
    """Graphs that an export writes beside the float32 one."""

    none = "none"
    int8 = "int8"


class Split(StrEnum):
    """How data files are split into parts."""

    auto = "auto"
    time = "time"
    random = "random"


class PartName(StrEnum):
    """A part of the split."""

    train = "train"
    validation = "validation"
    test = "test"


@cli.command("fetch")
def fetch_command(
    name: Annotated[str, typer.Argument(help="A data set, such as movielens-100k.")],
    directory: Annotated[Path, typer.Option("--out", help="Where to put it.")] = Path("data"),
) -> None:
    """Download a public data set and print its directory."""
    print(fetch(name, directory))


@cli.command("train")
def train_command(
    spec: Annotated[Path, typer.Argument(help="The feature spec, a TOML file.")],
    data: Annotated[list[Path] | None, typer.Argument(help="Files to split.")] = None,
    train_files: Annotated[list[Path] | None, typer.Option("--train")] = None,
    validation_files: Annotated[list[Path] | None, typer.Option("--validation")] = None,
    test_files: Annotated[list[Path] | None, typer.Option("--test")] = None,
    network: Annotated[str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")] = "deepfm",
    config: Annotated[
        Path | None,
        typer.Option(help="Training settings; default: <spec>.train.toml beside the spec."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the settings' seed.")] = None,
    split: Annotated[Split, typer.Option(help="Along time, or at random.")] = Split.auto,
    max_bad_lines: BadLines = 0.0,
    quantize: Annotated[
        Quantized, typer.Option(help="Write an int8 graph too, if it loses next to nothing.")
    ] = Quantized.none,
    out: Annotated[Path, typer.Option(help="Directory of bundles.")] = Path("bundles"),
) -> None:
    """Train a network, export and check it, and print the new bundle's path."""
    path = config or spec.with_name(f"{spec.stem}.train.toml")
    if config is not None or path.is_file():
        settings = TrainConfig.from_toml(path).to_dict()
    else:
        settings = TrainConfig().to_dict()
    settings["network"] = network
    if seed is not None:
        settings["seed"] = seed
    parts = {"train": train_files, "validation": validation_files, "test": test_files}
    given: dict[Part, list[Path]] = {name: files for name, files in parts.items() if files}  # type: ignore[misc]
    mode: SplitMode = split.value
    training = TrainConfig.from_dict(settings)
    inputs = Inputs(data or (), given or None, mode, training.seed, max_bad_lines)
    print(train(spec, inputs, training, out, int8=quantize is Quantized.int8))


@cli.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a directory of them.")],
    data: Data,
    part: Annotated[
        PartName | None, typer.Option(help="Only this part of the data it was trained on.")
    ] = None,
    max_bad_lines: BadLines = 0.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write figures here.")] = None,
) -> None:
    """Measure a bundle on labelled data, through the engine that serves."""
    offline = Offline.open(bundle)
    metrics = offline.evaluate(offline.rows(data, part.value if part else None, max_bad_lines))
    if json_file is not None:
        json_file.write_text(json.dumps(metrics.to_dict(), indent=1) + "\n")
    print(show(metrics))


@cli.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or a directory of them.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    max_bad_lines: BadLines = 0.0,
) -> None:
    """Score files offline, with or without labels, and write one row for each line."""
    rows = Offline.open(bundle).predict(data, out, max_bad_lines)
    say(f"{rows:,} rows scored")
    print(out)


def main() -> int:
    """Run a command; an expected failure is one message and exit code 1."""
    # SIGTERM unwinds like Ctrl-C, so that no half-written file is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # typer turns Ctrl-C into the exit code 130, which it returns when not standalone.
        code: int = cli(standalone_mode=False) or 0
    except (CtrError, ConfigError, FetchError, TrainingError, OSError) as error:
        say(f"error: {error}")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        say(f"error: {error}")
        return 2
    if code == INTERRUPTED:
        say("interrupted; nothing was written")
    return code


if __name__ == "__main__":
    sys.exit(main())
