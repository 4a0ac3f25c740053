"""Writes a made-up click log for any feature spec, as ``scripts/tiny-bundle`` trains on."""

from __future__ import annotations

import csv
import random
import sys
from datetime import UTC, datetime
from pathlib import Path

from app.features.spec import FeatureSpec, Field, MultiCategorical, Numeric, Time

ROWS = 3_000
VALUES = 200
"""Distinct values of a categorical field: the integers from 1, or ``v1``, ``v2``, …"""
FIRST_SECOND = 1_700_000_000


def moment(second: int, form: str | None) -> str:
    """Return a time as seconds since 1970, or in strptime's ``form``."""
    return datetime.fromtimestamp(second, UTC).strftime(form) if form else str(second)


def cell(field: Field, second: int, draw: random.Random) -> str:
    """Return a value of a field as a text file holds it."""
    if isinstance(field, Time):
        return moment(second, field.format)
    if isinstance(field, Numeric):
        return f"{draw.lognormvariate(1, 1):.2f}"
    prefix = "" if field.dtype == "integer" else "v"
    if isinstance(field, MultiCategorical):
        count = draw.randint(1, min(3, field.max_values))
        return field.separator.join(f"{prefix}{draw.randint(1, 20)}" for _ in range(count))
    return f"{prefix}{draw.randint(1, VALUES)}"


def write(spec: FeatureSpec, path: Path) -> None:
    """Write ``ROWS`` impressions, a click in about three of ten."""
    draw = random.Random(1)
    clicking = {value: draw.random() * 0.6 for value in range(VALUES)}
    fields = {field.name: field for field in spec.fields}
    names = spec.columns or (
        *fields, *({spec.timestamp} - {None, *fields}), spec.label,
    )  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, delimiter=spec.delimiter or ",", lineterminator="\n")
        if spec.columns is None:
            out.writerow(names)
        for number in range(ROWS):
            second = FIRST_SECOND + 300 * number
            row = {name: cell(field, second, draw) for name, field in fields.items()}
            if spec.timestamp is not None and spec.timestamp not in row:
                row[spec.timestamp] = moment(second, spec.timestamp_format)
            item = next(row[field.name] for field in spec.fields if field.side == "candidate")
            row[spec.label] = str(int(draw.random() < clicking[hash_of(item) % VALUES]))
            out.writerow([row.get(name, "") for name in names])


def hash_of(text: str) -> int:
    """Return a number that is the same in every process, unlike Python's hash of a text."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(text))


if __name__ == "__main__":
    write(FeatureSpec.load(Path(sys.argv[1])), Path(sys.argv[2]))
