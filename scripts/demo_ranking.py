"""Waits for the demo's service, ranks all films for one person by id, and prints a curl to try."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

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


def main(url: str, data: Path, process: int) -> None:
    """Rank, print the best titles, print the same request as a curl of one line."""
    titles = dict(pl.read_csv(data / "movies.csv").select("item_id", "title").iter_rows())
    asked = {"context": {"user_id": PERSON}, "candidates": {"all": True}, "top_k": SHOWN}
    with httpx.Client(base_url=url, timeout=10) as client:
        wait_until_ready(client, process)
        start = time.perf_counter()
        response = client.post("/rank", json=asked)
        milliseconds = (time.perf_counter() - start) * 1000
        response.raise_for_status()
    print(
        f"    /rank: {len(titles):,} films in {milliseconds:.0f} ms for user {PERSON};"
        " score: probability of a click; by hand:"
    )
    body = json.dumps(asked, separators=(",", ":"))
    print(f"curl --json '{body}' {url.removeprefix('http://')}/rank")
    for place, ranked in enumerate(response.json()["ranking"], 1):
        print(f"    {place}. {ranked['score']:.3f}  {titles[ranked['id']]}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
