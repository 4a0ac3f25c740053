"""Writes a made-up click log for any feature spec, as ``scripts/tiny-bundle`` trains on.

Without a spec it is the log of a shop, in which users have a country, and items have categories
and a price.
"""

from __future__ import annotations

import csv
import io
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from app.errors import CtrError
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from model.result_places import reason_of, require_file

ROWS = 3_000
VALUES = 200
"""Distinct values of a categorical field: the integers from 1, or ``v1``, ``v2``, …"""
FIRST_SECOND = 1_700_000_000
SHOP = FeatureSpec(
    label="click",
    timestamp="time",
    fields=(
        Categorical(name="user_id", side="context", dtype="integer"),
        Categorical(name="country", side="context"),
        Time(name="time", side="context", parts=("hour",), format="%Y-%m-%dT%H:%M:%SZ"),
        Categorical(name="item_id", side="candidate", dtype="integer"),
        MultiCategorical(name="category", side="candidate"),
        Numeric(name="price", side="candidate"),
    ),
)
"""The log without a spec; ``KEYS`` names the columns that decide others."""
KEYS = {"country": "user_id", "category": "item_id", "price": "item_id"}
UNIT_SEPARATOR = "\x1f"
"""Stands for a delimiter of several characters, which ``csv`` does not write."""


def moment(second: int, form: str | None) -> str:
    """Return a time as seconds since 1970, or in strptime's ``form``."""
    return datetime.fromtimestamp(second, UTC).strftime(form) if form else str(second)


def cell(field: Field, second: int, draw: random.Random) -> str:
    """Return a value of a field as a text file holds it."""
    if isinstance(field, Time):
        return moment(second, field.format)
    if isinstance(field, Numeric):
        return f"{draw.lognormvariate(1, 1):.2f}"
    if isinstance(field, MultiCategorical):
        count = draw.randint(1, min(3, field.max_values))
        return field.separator.join(token(field.dtype, 20, draw) for _ in range(count))
    return token(field.dtype, VALUES, draw)


def token(dtype: str, values: int, draw: random.Random) -> str:
    """Return one of so many values of a vocabulary."""
    number = draw.randint(1, values)
    if dtype == "boolean":
        return "true" if number % 2 else "false"
    return str(number) if dtype == "integer" else f"v{number}"


def write(spec: FeatureSpec, path: Path) -> None:
    """Write ``ROWS`` impressions, a click in about three of ten."""
    draw = random.Random(1)
    clicking = {value: draw.random() * 0.6 for value in range(VALUES)}
    fields = {field.name: field for field in spec.fields}
    names = spec.columns or (
        *fields,
        *({spec.timestamp} - {None, *fields}),
        spec.label,
    )
    delimiter = spec.delimiter or ","
    single = delimiter if len(delimiter) == 1 else UNIT_SEPARATOR
    with io.StringIO() as text, path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(text, delimiter=single, lineterminator="\n")
        if spec.columns is None:
            out.writerow(names)
        for number in range(ROWS):
            second = FIRST_SECOND + 300 * number
            row: dict[str, str] = {}
            for name, field in fields.items():
                key = KEYS.get(name) if spec is SHOP else None
                row[name] = cell(field, second, random.Random(row[key]) if key else draw)
            if spec.timestamp is not None and spec.timestamp not in row:
                row[spec.timestamp] = moment(second, spec.timestamp_format)
            item = next(row[field.name] for field in spec.fields if field.side == "candidate")
            row[spec.label] = str(int(draw.random() < clicking[hash_of(item) % VALUES]))
            out.writerow([row.get(name, "") for name in names])
        file.write(text.getvalue().replace(single, delimiter))


def hash_of(text: str) -> int:
    """Return a number that is the same in every process, unlike Python's hash of a text."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(text))


def main(words: Sequence[str]) -> None:
    """Run the command line; an error is one message and exit code 1."""
    if len(words) not in (1, 2):
        sys.exit("usage: made_up_log.py [SPEC] LOG")
    *specs, log = map(Path, words)
    try:
        require_file(log, specs)
        write(FeatureSpec.load(specs[0]) if specs else SHOP, log)
    except CtrError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {reason_of(error)}")


if __name__ == "__main__":
    main(sys.argv[1:])
