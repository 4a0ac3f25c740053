"""The commands that fill a store from files: ``items put``, ``profiles put``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.data.stored_files import StoredFiles
from model.options import (
    BadLines,
    Data,
    SpecOption,
    StoreUrl,
)

Create = Annotated[
    bool, typer.Option("--create", help="Make the store in Redis where there is none.")
]
items_cli = typer.Typer(no_args_is_help=True, help="Items of a store: see put.")
profiles_cli = typer.Typer(no_args_is_help=True, help="Profiles of a store: see put.")


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
    create: Create = False,
) -> None:
    """Store items, in the place of those with the same ids."""
    _put(StoredFiles("item", files, item_id), spec, store, max_bad_lines, create)


@profiles_cli.command("put")
def put_profiles_command(
    files: Data,
    key: Annotated[str, typer.Option("--key", help="Column with the key of a user.")],
    spec: SpecOption,
    store: StoreUrl,
    max_bad_lines: BadLines = 0.0,
    create: Create = False,
) -> None:
    """Store profiles, in the place of those with the same keys."""
    _put(StoredFiles("profile", files, key), spec, store, max_bad_lines, create)


def _put(files: StoredFiles, spec: Path, store: str, max_bad_lines: float, create: bool) -> None:
    from model.put_stored import put_stored

    put_stored(spec, files, store, max_bad_lines, create)
