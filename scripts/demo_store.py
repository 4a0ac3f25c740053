"""Writes the demo's films and people as JSON lines: items and profiles of a store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

WHO = ("user_id", "age", "gender", "occupation", "zip")


def films(path: Path) -> list[dict[str, Any]]:
    """Return the values of every film; its title is no field of the spec, and kept."""
    return [
        {**row, "genres": row["genres"].split("|") if row["genres"] else []}
        for row in pl.read_csv(path).iter_rows(named=True)
    ]


def people(path: Path) -> list[dict[str, Any]]:
    """Return the values of everyone who rated a film."""
    ratings = pl.read_csv(path, schema_overrides={"zip": pl.String})
    return list(ratings.select(WHO).unique("user_id").sort("user_id").iter_rows(named=True))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(data: Path) -> None:
    """Write both files beside the data."""
    write(data / "films.jsonl", films(data / "movies.csv"))
    write(data / "people.jsonl", people(data / "ratings.csv"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
