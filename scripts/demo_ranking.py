"""Waits for the demo's service, ranks all films for one person, and prints a curl to try."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import polars as pl

READY_SECONDS = 60
PERSON = 196


def wait_until_ready(client: httpx.Client, process: int) -> dict[str, Any]:
    """Return what /ready says once it is; give up when the service's process has ended."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
            response = client.get("/ready")
            if response.status_code == 200:
                ready: dict[str, Any] = response.json()
                return ready
        except httpx.TransportError:
            pass
        except ProcessLookupError:
            break
        time.sleep(0.05)
    raise SystemExit("the service did not become ready; is port 8000 in use?")


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
    """Rank, print the ten best titles, print a curl."""
    context = person(data / "ratings.csv")
    films = candidates(pl.read_csv(data / "movies.csv"))
    with httpx.Client(base_url=url, timeout=10) as client:
        ready = wait_until_ready(client, process)
        print(f"    ready: {ready['version']} on {ready['provider']}")
        start = time.perf_counter()
        response = client.post("/rank", json={"context": context, "candidates": films, "top_k": 10})
        took = time.perf_counter() - start
        response.raise_for_status()
    print(f"    {len(films):,} films ranked in {took * 1000:.0f} ms for {context}")
    for place, ranked in enumerate(response.json()["ranking"], 1):
        print(f"    {place:2}. {ranked['score']:.4f}  {ranked['id']}")
    body = json.dumps({"context": context, "candidates": films[:3]}, ensure_ascii=True)
    quoted = body.replace("'", "'\\''")
    print(f"\n    curl -s {url}/rank -H 'content-type: application/json' -d '{quoted}'\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
