"""The commands about data: ``fetch`` and ``spec``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.options import Data, column_names
from model.progress import say, warn


def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of a data set: movielens-100k.")],
    directory: Annotated[Path, typer.Option("--out", help="Directory to write to.")] = Path("data"),
) -> None:
    """Download a public data set and print its directory."""
    from model.fetch import fetch

    print(fetch(name, directory))


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
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Names of all columns, separated by commas, of files without a header."),
    ] = None,
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
    from model.draft.look import look_at
    from model.result_places import ResultError, require_file

    require_file(out, data, parents=True)
    if out.exists() and not replace:
        raise ResultError(f"{out} is there already; name another file with --out, or --replace it")
    names = column_names(columns or (), "--columns") or None
    sides = (
        column_names(each or (), option)
        for each, option in ((context, "--context"), (candidate, "--candidate"))
    )
    look = look_at(data, label, names, sample_rows)
    found = draft(look, *sides)
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
