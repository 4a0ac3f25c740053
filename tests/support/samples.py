"""A small click log with a signal in it, its feature spec, and its rows as callers send them."""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.trained import trained

SPEC = """\
label = "click"
timestamp = "time"
null_values = ["\\\\N"]

[[fields]]
name = "user_id"
kind = "categorical"
side = "context"
dtype = "integer"

[[fields]]
name = "country"
kind = "categorical"
side = "context"

[[fields]]
name = "time"
kind = "time"
side = "context"
parts = ["hour", "weekday"]

[[fields]]
name = "age"
kind = "numeric"
side = "context"
encoding = "log_squared"

[[fields]]
name = "placement"
kind = "categorical"
side = "context"
required = true

[[fields]]
name = "item_id"
kind = "categorical"
side = "candidate"
dtype = "integer"

[[fields]]
name = "tags"
kind = "multi_categorical"
side = "candidate"
max_values = 4

[[fields]]
name = "price"
kind = "numeric"
side = "candidate"
encoding = "quantile"
buckets = 16

[[fields]]
name = "quality"
kind = "numeric"
side = "candidate"
encoding = "edges"
edges = [0.25, 0.5, 0.75]
"""

ROWS = 3_000
CONTEXT = ("user_id", "country", "time", "age", "placement")
CANDIDATE = ("item_id", "tags", "price", "quality")
FIELDS = CONTEXT + CANDIDATE
NULL = "\\N"
"""A null as Hive writes it; the log has it beside empty cells."""
KNOWN_USER = 12345
LARGEST_USER = 2**64 - 1
_COUNTRIES = ("DE", "FR", "é", "NA", "null", "us", "US")
_TAGS = ("news", "sport", "[PAD]", "__OOV__", "film", "music")


def with_rare_users_unseen() -> str:
    """A later version of the spec: fewer users have a row of their own, so all rows move."""
    return SPEC.replace('dtype = "integer"\n', 'dtype = "integer"\nmin_count = 60\n', 1)


def with_scaled_numbers() -> str:
    """The spec with a number of each side taken as it is instead of in buckets."""
    scaled = SPEC.replace('encoding = "log_squared"', 'encoding = "scaled"')
    return scaled.replace('encoding = "quantile"\nbuckets = 16', 'encoding = "scaled"')


def with_dynamic_fields() -> str:
    """The spec with a list and a number whose values come with a request."""
    listed = SPEC.replace("max_values = 4\n", "max_values = 4\ndynamic = true\n")
    return listed.replace("buckets = 16\n", "buckets = 16\ndynamic = true\n")


def write_log(path: Path, rows: int, seed: int = 7) -> None:
    """Write ``rows`` impressions as CSV.

    Every second user id has a trailing ``.0``, as a column of integers with gaps gets where
    a data frame wrote the file; some cells are empty, some values are seen once only.
    """
    rng = random.Random(seed)
    users = [KNOWN_USER, LARGEST_USER, *rng.sample(range(1, 10**9), 38)]
    items = rng.sample(range(1, 10**6), 60)
    with path.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        write([*FIELDS, "click"])
        for number in range(rows):
            user, item = rng.choice(users), rng.choice(items)
            price, quality = round(rng.lognormvariate(1, 1), 2), round(rng.random(), 3)
            placement = rng.choice(("top", "side"))
            tags = [rng.choice(_TAGS) for _ in range(rng.randrange(6))]
            chance = (
                0.15 + 0.4 * ((user + item) % 2) + 0.2 * (placement == "top") - 0.1 * (price > 4)
            )
            shown = f"{user}.0" if number % 2 and user < 2**53 else str(user)
            if rng.random() < 0.02:
                shown = str(10**9 + number)
            write([
                "" if rng.random() < 0.1 else shown,
                NULL if rng.random() < 0.1 else rng.choice(_COUNTRIES),
                1_700_000_000 + number * 300,
                NULL if rng.random() < 0.1 else rng.randrange(1, 90),
                placement,
                item,
                "|".join(tags),
                "" if rng.random() < 0.1 else price,
                "" if rng.random() < 0.1 else quality,
                int(rng.random() < chance),
            ])  # fmt: skip


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return each line of the log as the JSON object that a caller would send for it."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name in FIELDS:
        text = line[name]
        if text in ("", NULL):
            continue
        if name == "user_id":
            row[name] = int(text.removesuffix(".0"))
        elif name in ("time", "item_id"):
            row[name] = int(text)
        elif name in ("price", "quality", "age"):
            row[name] = float(text)
        elif name == "tags":
            row[name] = text.split("|")
        else:
            row[name] = text
    return row


def context_of(row: dict[str, Any]) -> dict[str, Any]:
    """The context fields of a row."""
    return {name: row[name] for name in CONTEXT if name in row}


def candidate_of(row: dict[str, Any]) -> dict[str, Any]:
    """The candidate fields of a row."""
    return {name: row[name] for name in CANDIDATE if name in row}


@dataclass(frozen=True)
class Sample:
    """A click log with its feature spec; ``rows`` are its lines as callers send them."""

    spec: Path
    data: Path
    rows: list[dict[str, Any]]

    @classmethod
    def make(cls, directory: Path) -> Sample:
        """Write spec and log into a directory."""
        spec, data = directory / "sample.toml", directory / "clicks.csv"
        spec.write_text(SPEC, encoding="utf-8")
        write_log(data, ROWS)
        return cls(spec, data, read_rows(data))


def train_tiny(sample: Sample, out: Path, after: str = "") -> Path:
    """Return a bundle of a small network trained on the sample, which has an int8 graph too."""
    from model.config import TrainConfig

    config = TrainConfig(
        embedding_size=4, hidden=(16,), batch_size=256, epochs=3, learning_rate=0.02, threads=1,
    )  # fmt: skip
    return trained(sample.spec, sample.data, config, out, int8=True, after=after)


def train_other(sample: Sample, tiny: Path, directory: Path) -> Path:
    """Return a later version than ``tiny``: other rows for the same values, fewer users."""
    directory.mkdir()
    spec = directory / "other.toml"
    spec.write_text(with_rare_users_unseen(), encoding="utf-8")
    return train_tiny(replace(sample, spec=spec), directory / "bundles", tiny.name)
