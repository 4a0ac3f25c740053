"""Simulated users: they ask for films, see the first ones, and click on those that they liked.

What they like is their own rating, which the first bundle has never seen: a click is a rating of
four or five stars.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

CONTEXT = ("user_id", "age", "gender", "occupation", "zip", "time")
LIST, SEEN = 10, 5
"""Films of a list, and those at its head that are seen."""
HISTORY = {"train": 0.36, "validation": 0.07, "test": 0.07}
"""Shares of the ratings that the first bundle is made of; the days have the rest."""


@dataclass(frozen=True)
class Visit:
    """One list that a user asks for; ``likes`` has 1 for each candidate that would be clicked."""

    context: dict[str, Any]
    candidates: list[dict[str, Any]]
    likes: list[int]

    @property
    def body(self) -> dict[str, Any]:
        """The body of its /rank."""
        return {
            "context": self.context,
            "candidates": [{"features": each} for each in self.candidates],
        }


@dataclass(frozen=True)
class Ratings:
    """Files of the first bundle, and the ratings of each day."""

    history: dict[str, Path]
    days: Sequence[pl.DataFrame]

    @classmethod
    def cut(cls, ratings: Path, scratch: Path, days: int, share: float, seed: int) -> Ratings:
        """Cut the ratings at random; ``share`` of them take part."""
        frame = pl.read_csv(ratings, schema_overrides={"zip": pl.String, "genres": pl.String})
        frame = frame.sample(fraction=share, shuffle=True, seed=seed)
        history, start = {}, 0
        for part, of_all in HISTORY.items():
            rows = round(of_all * frame.height)
            history[part] = scratch / f"{part}.csv"
            frame.slice(start, rows).write_csv(history[part])
            start += rows
        size = (frame.height - start) // days
        return cls(history, [frame.slice(start + day * size, size) for day in range(days)])

    def visits(self, day: int, seed: int) -> list[Visit]:
        """Return a day's visits, in a random order."""
        found = list(_visits(self.days[day]))
        random.Random(seed + day).shuffle(found)
        return found


def _visits(frame: pl.DataFrame) -> Iterator[Visit]:
    for part in frame.partition_by("user_id", maintain_order=True):
        for start in range(0, part.height, LIST):
            rows = part.slice(start, LIST).to_dicts()
            yield Visit(
                {name: rows[0][name] for name in CONTEXT},
                [
                    {
                        "item_id": row["item_id"],
                        "year": row["year"],
                        "genres": (row["genres"] or "").split("|"),
                    }
                    for row in rows
                ],
                [row["click"] for row in rows],
            )
