"""What explanations cost, and what they cost others: ``scripts/bench-explain BUNDLE``.

``BUNDLE`` is one that was trained on MovieLens-100k. Three figures, each beside what it is to be
compared with: the time of an explanation; at Criteo's shape, of one by 32 pairs of orders beside a
``/rank`` of as many rows; and the 99th percentile of ``/predict`` at 300 requests a second, with
two explanations a second and without any, in turn.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx
import numpy as np

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from tests.bench.paced import p99_of_predict
from tests.bench.serving import shape
from tests.support.serving import ROOT, Service

EXPLANATIONS = 2
"""Explanations a second."""
RANKED = 2_434
"""Rows of an explanation of 39 fields."""


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="a bundle of MovieLens-100k, or a directory")
    parser.add_argument("--work", type=Path, default=ROOT / "data" / "bench")
    parser.add_argument("--repeats", type=int, default=100, help="requests of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of load, with and without")
    parser.add_argument("--seconds", type=int, default=10, help="of a round")
    given = parser.parse_args()
    movielens = newest(given.bundle)
    criteo, _ = shape.make(given.work / "shape")
    figures = {
        **one_row(movielens, given.repeats),
        **beside_rank(criteo, max(5, given.repeats // 5)),
        **beside_predict(movielens, given.rounds, given.seconds),
    }
    print(json.dumps(figures, indent=1))


@contextmanager
def service_of(bundle: Path) -> Iterator[Service]:
    """A service that explains, and ends with the block."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        service = Service(bundle, log, explain="on", deadline_ms=10_000, max_queue_rows=100_000)
        try:
            service.wait_ready()
            yield service
        finally:
            service.stop()


def asked(bundle: Path) -> list[dict[str, Any]]:
    """Bodies of the golden requests' rows."""
    return [
        {"context": each.context, "candidate": candidate}
        for each in Bundle.open(bundle).examples
        for candidate in each.candidates
    ]


def milliseconds(call: Callable[[], httpx.Response], repeats: int) -> list[float]:
    """The time of each call, after three that are not counted."""
    taken = []
    for number in range(repeats + 3):
        begun = perf_counter()
        answer = call()
        if number >= 3:
            taken.append(1000 * (perf_counter() - begun))
        assert answer.status_code == 200, answer.text
    return taken


def one_row(bundle: Path, repeats: int) -> dict[str, float]:
    """An explanation of a row, and of two candidates, one after the other."""
    bodies = asked(bundle)
    with service_of(bundle) as service:
        turn = iter(range(10**9))
        one = milliseconds(
            lambda: service.post("/explain", bodies[next(turn) % len(bodies)]), repeats
        )
        listed = [{"features": body["candidate"]} for body in bodies[:2]]
        body = {"context": bodies[0]["context"], "candidates": listed}
        two = milliseconds(lambda: service.post("/explain", body), repeats)
    return {
        "one_row_p50_ms": median(one),
        "one_row_p99_ms": float(np.percentile(one, 99)),
        "two_candidates_p50_ms": median(two),
    }


def beside_rank(bundle: Path, repeats: int) -> dict[str, float]:
    """An explanation of 39 fields beside a ranking of as many rows, in turn."""
    draws = shape.Draws(3)
    context, columns = draws.side(True), draws.columns(False, RANKED)
    ranked = {"context": context, "candidates": {"features": columns}, "top_k": 10}
    explained = {"context": context, "candidate": draws.side(False)}
    ranking: list[float] = []
    explaining: list[float] = []
    with service_of(bundle) as service:
        for _ in range(3):
            ranking += milliseconds(lambda: service.post("/rank", ranked), repeats // 3 + 1)
            explaining += milliseconds(
                lambda: service.post("/explain", explained), repeats // 3 + 1
            )
    return {
        "criteo_rank_p50_ms": median(ranking),
        "criteo_explain_p50_ms": median(explaining),
        "criteo_explain_over_rank": median(explaining) / median(ranking),
    }


def beside_predict(bundle: Path, rounds: int, seconds: int) -> dict[str, float]:
    """The 99th percentile of /predict with explanations and without, in turn."""
    bodies = asked(bundle)
    without, beside = [], []
    with service_of(bundle) as service:
        for _ in range(rounds):
            without.append(p99_of_predict(service, bundle, seconds))
            with explanations(service, bodies):
                beside.append(p99_of_predict(service, bundle, seconds))
    return {
        "predict_p99_ms": median(without),
        "predict_p99_beside_explanations_ms": median(beside),
        "predict_p99_ratio": median(beside) / median(without),
    }


@contextmanager
def explanations(service: Service, bodies: list[dict[str, Any]]) -> Iterator[None]:
    """Ask for explanations at a steady rate while the block runs."""
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.url, timeout=30.0, trust_env=False) as client:
            number = 0
            while not ended.wait(1 / EXPLANATIONS):
                body = bodies[number % len(bodies)]
                assert client.post("/explain", json=body).status_code == 200
                number += 1
            assert number, "no explanation was asked for"

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
