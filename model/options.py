"""Arguments and options that several commands share."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.features.spec import DataPart
from model.config import DEVICES, NETWORKS
from model.data.stored_files import Kind, StoredFiles
from model.remote.bundles import local_bundle
from model.remote.files import file_path, with_patterns_found


def each_file(paths: list[Path] | None) -> list[Path] | None:
    """Return the files that were named, those of patterns of a store one by one."""
    return paths and with_patterns_found(paths)


def _bundle_if_any(path: Path | None) -> Path | None:
    return path and local_bundle(path)


Spec = Annotated[Path, typer.Argument(help="The feature spec, a TOML file.")]
DataToSplit = Annotated[
    list[Path] | None,
    typer.Argument(
        parser=file_path,
        callback=each_file,
        help="CSV, TSV, JSON lines or Parquet, also gzipped; split into three parts.",
    ),
]
Data = Annotated[
    list[Path],
    typer.Argument(
        parser=file_path,
        callback=each_file,
        help="CSV, TSV, JSON lines or Parquet, also gzipped.",
    ),
]
TrainFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--train", parser=file_path, callback=each_file, help="Files of the training part."
    ),
]
ValidationFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--validation",
        parser=file_path,
        callback=each_file,
        help="Files of the validation part.",
    ),
]
TestFiles = Annotated[
    list[Path] | None,
    typer.Option("--test", parser=file_path, callback=each_file, help="Files of the test part."),
]
ItemsFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--items",
        parser=file_path,
        callback=each_file,
        help="Files with the values of items, for data that have their ids; needs --id.",
    ),
]
ItemId = Annotated[
    str | None, typer.Option("--id", help="Column with the id of an item, in data and --items.")
]
ProfilesFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--profiles",
        parser=file_path,
        callback=each_file,
        help="Files with the values of users, for data that have their key; needs --key.",
    ),
]
ProfileKey = Annotated[
    str | None, typer.Option("--key", help="Column with the key of a user, in data and --profiles.")
]
SpecOption = Annotated[
    Path, typer.Option("--spec", help="The feature spec, a TOML file: its fields are stored.")
]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store", envvar="CTR_STORE", help="sqlite:///absolute/path, or redis://host; is made."
    ),
]
BadLines = Annotated[
    float, typer.Option(min=0, max=1, help="Share of unusable lines that is allowed.")
]

RedisUrl = Annotated[
    str,
    typer.Option(
        "--redis", envvar="CTR_REDIS_URL", help="redis://…, as in the service's CTR_REDIS_URL."
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--redis-password-file",
        envvar="CTR_REDIS_PASSWORD_FILE",
        help="File with the password, or a user and a password on two lines.",
    ),
]
BundleToOpen = Annotated[
    Path,
    typer.Argument(
        parser=file_path, callback=local_bundle, help="A bundle, or a directory of them."
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        help="Training settings, a TOML file. Default: <spec>.train.toml beside the spec."
    ),
]
Network = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(NETWORKS)}. Default: that of --config, or deepfm."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help=f"Processor of the training steps: {', '.join(DEVICES)}; auto takes a GPU with CUDA"
        " where there is one. Default: that of --config, or auto.",
    ),
]
MustBeatOption = Annotated[
    Path | None,
    typer.Option(
        "--must-beat",
        parser=file_path,
        callback=_bundle_if_any,
        help="Bundle, or directory of bundles, that the new one must be as good as.",
    ),
]
GateFile = Annotated[
    Path | None,
    typer.Option(
        "--gate",
        help="TOML file of bounds for --must-beat, as the service's CTR_GATE. Default: on the same"
        " test data no AUC is lost and no log loss added.",
    ),
]
InitFrom = Annotated[
    Path | None,
    typer.Option(
        parser=file_path,
        callback=_bundle_if_any,
        help="Bundle whose weights to start from: yesterday's, or an fm for an fnn.",
    ),
]

CacheDirectory = Annotated[
    Path | None,
    typer.Option(
        help="Directory that keeps encoded data, reused while files and spec are unchanged."
    ),
]

Cluster = Annotated[
    str | None,
    typer.Option(
        help="Run blocks on Ray: ray (on this machine, for this command), auto (the Ray that this"
        " machine runs), host:port or ray://host:port. All machines see the data, the results"
        " and --cache under the same paths."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Blocks that run at once on the cluster. Default: one for each CPU."),
]
WorkerMemory = Annotated[
    int,
    typer.Option(
        min=128,
        help="MiB that a block may take on the cluster: its size follows, and Ray runs no more on"
        " a machine than fit.",
    ),
]


class Split(StrEnum):
    """Ways of splitting data files into parts."""

    auto = "auto"
    time = "time"
    random = "random"


SplitOption = Annotated[
    Split,
    typer.Option(
        help="Split along time or at random; auto: along time if the spec has a timestamp."
    ),
]


class PartName(StrEnum):
    """A part of the split."""

    train = "train"
    validation = "validation"
    test = "test"


def part_files(
    train_files: list[Path] | None,
    validation_files: list[Path] | None,
    test_files: list[Path] | None,
) -> dict[DataPart, Sequence[Path]] | None:
    """Return the files given for each part, if any were."""
    files: dict[DataPart, list[Path] | None] = {
        "train": train_files,
        "validation": validation_files,
        "test": test_files,
    }
    return {part: paths for part, paths in files.items() if paths} or None


def column_names(given: Sequence[str], option: str = "--keep") -> list[str]:
    """Return the names of comma-separated lists; quotes surround a name that has a comma."""
    rows = csv.reader(given, skipinitialspace=True, strict=True)
    try:
        return [name.strip() for row in rows for name in row if name.strip()]
    except csv.Error as error:
        raise typer.BadParameter(f"{option}: {error}") from error


def stored_files(
    items: list[Path] | None,
    item_id: str | None,
    profiles: list[Path] | None,
    profile_key: str | None,
) -> list[StoredFiles]:
    """Return the files whose values are joined to data."""
    found = []
    given: list[tuple[Kind, list[Path] | None, str | None, str]] = [
        ("item", items, item_id, "--items and --id"),
        ("profile", profiles, profile_key, "--profiles and --key"),
    ]
    for kind, paths, key, options in given:
        if bool(paths) != bool(key):
            raise typer.BadParameter(f"{options} go together")
        if paths and key:
            found.append(StoredFiles(kind, paths, key))
    return found
