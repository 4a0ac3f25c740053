"""Waits for the demo's service, ranks all films for one person, and prints a curl to try."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import polars as pl

READY_SECONDS = 60
PERSON = 196
SHOWN = 5


def wait_until_ready(client: httpx.Client, process: int) -> None:
    """Wait for the service; exit with a message when its process ends or time is up."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        except ProcessLookupError:
            raise SystemExit("demo: the service ended; its log above says why") from None
        time.sleep(0.05)
    raise SystemExit(f"demo: the service was not ready after {READY_SECONDS} s; see its log above")


def person(ratings: Path) -> dict[str, Any]:
    """Return the context of one person: who they are, at the time of their last rating."""
    rows = pl.read_csv(ratings, schema_overrides={"zip": pl.String})
    last = rows.filter(pl.col("user_id") == PERSON).sort("time").row(-1, named=True)
    return {name: last[name] for name in ("user_id", "age", "gender", "occupation", "zip", "time")}


def candidates(movies: pl.DataFrame) -> list[dict[str, Any]]:
    """Return every film as a candidate whose id is its title."""
    return [
        {
            "id": row["title"],
            "features": {
                "item_id": row["item_id"],
                "year": row["year"],
                "genres": (row["genres"] or "").split("|") if row["genres"] else [],
            },
        }
        for row in movies.iter_rows(named=True)
    ]


def main(url: str, data: Path, process: int) -> None:
    """Rank, print the best titles, print a curl."""
    context = person(data / "ratings.csv")
    films = candidates(pl.read_csv(data / "movies.csv"))
    with httpx.Client(base_url=url, timeout=10) as client:
        wait_until_ready(client, process)
        start = time.perf_counter()
        response = client.post(
            "/rank", json={"context": context, "candidates": films, "top_k": SHOWN}
        )
        milliseconds = (time.perf_counter() - start) * 1000
        response.raise_for_status()
    print(
        f"    /rank: {len(films):,} films in {milliseconds:.0f} ms, from request to answer,"
        f" for user {PERSON}; score: probability of a click"
    )
    for place, ranked in enumerate(response.json()["ranking"], 1):
        print(f"    {place}. {ranked['score']:.3f}  {ranked['id']}")
    print(
        f"    try: curl {url}/predict -H 'content-type: application/json' \\\n"
        f'      -d \'{{"instances": [{{"user_id": {PERSON}, "item_id": 1}},'
        f' {{"user_id": {PERSON}, "item_id": 2}}]}}\''
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
