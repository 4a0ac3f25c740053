"""The command that makes data: ``fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fetch_command(
    name: Annotated[str, typer.Argument(help="Name of a data set: movielens-100k.")],
    directory: Annotated[Path, typer.Option("--out", help="Directory to write to.")] = Path("data"),
) -> None:
    """Download a public data set and print its directory."""
    from model.fetch import fetch

    print(fetch(name, directory))
