"""Callers that rank all the time, and compare each answer with the offline logits."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from model.score_files import Offline
from tests.drills.parity import Check, worst_difference

ROWS = 2_000
CANDIDATES = 20
REQUESTS = 200
CALLERS = 4
PAUSE_SECONDS = 0.06
"""Between two requests of a caller: some 50 requests a second from all of them."""
RIGHT = "right"


class Truth:
    """The same rankings for every bundle: their bodies, and what each bundle says to them."""

    def __init__(self, ratings: Path) -> None:
        self._ratings = ratings
        self._logits: dict[str, list[NDArray[np.float64]]] = {}
        self._tolerance: dict[str, float] = {}
        self.bodies: list[bytes] = []

    def add(self, bundle: Path, client: httpx.Client) -> Check:
        """Score the rankings with a bundle, offline; return its comparison with the service."""
        offline = Offline.open(bundle)
        check = Check(offline, [self._ratings], ROWS, client)
        lists = np.random.default_rng(5).permutation(check.rows)[: REQUESTS * CANDIDATES // 4]
        lists = np.resize(lists, (REQUESTS, CANDIDATES))
        version = offline.bundle.version
        self._logits[version] = [
            check.offline(np.full(CANDIDATES, index), rows) for index, rows in enumerate(lists)
        ]
        self._tolerance[version] = offline.engine.tolerance
        self.bodies = [
            json.dumps(
                {
                    "context": check.side(index, context=True),
                    "candidates": [
                        {"id": place, "features": check.side(row, context=False)}
                        for place, row in enumerate(rows.tolist())
                    ],
                }
            ).encode()
            for index, rows in enumerate(lists)
        ]
        return check

    def judge(self, number: int, answer: Mapping[str, Any]) -> str:
        """Return whether a ranking is right for the bundle that it names."""
        version = answer["version"]
        if version not in self._logits:
            return f"unknown version {version}"
        ranking = answer["ranking"]
        places = [ranked["id"] for ranked in ranking]
        if sorted(places) != list(range(CANDIDATES)):
            return "candidates lost"
        scores = [ranked["score"] for ranked in ranking]
        difference = worst_difference(scores, self._logits[version][number][places])
        return RIGHT if difference <= self._tolerance[version] else f"wrong by {difference:.1e}"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was begun and had its answer, what came of it, and from which bundle."""

    begun: float
    ended: float
    outcome: str
    version: str | None


class Traffic:
    """Rankings from several callers at once while the context lasts."""

    def __init__(self, url: str, truth: Truth) -> None:
        self._url = url
        self._truth = truth
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(index,)) for index in range(CALLERS)
        ]
        self.asked: list[Asked] = []

    def _call(self, index: int) -> None:
        number = index * REQUESTS // CALLERS
        with httpx.Client(base_url=self._url, timeout=10.0, trust_env=False) as client:
            while not self._over.wait(PAUSE_SECONDS):
                number = (number + 1) % REQUESTS
                begun = time.monotonic()
                version, outcome = None, RIGHT
                try:
                    answer = client.post(
                        "/rank", content=self._truth.bodies[number],
                        headers={"content-type": "application/json"},
                    )  # fmt: skip
                    if answer.status_code == 200:
                        version = answer.json()["version"]
                        outcome = self._truth.judge(number, answer.json())
                    else:
                        outcome = str(answer.status_code)
                except httpx.TransportError as error:
                    outcome = type(error).__name__
                self.asked.append(Asked(begun, time.monotonic(), outcome, version))

    def outcomes(self, start: float = 0.0, end: float = float("inf")) -> Counter[str]:
        """The outcome of the requests that were begun in a time."""
        return Counter(each.outcome for each in self.asked if start <= each.begun < end)

    def slowest_ms(self, start: float = 0.0, end: float = float("inf")) -> float:
        """The longest time that a right answer took."""
        took = [
            each.ended - each.begun for each in self.asked
            if each.outcome == RIGHT and start <= each.begun < end
        ]  # fmt: skip
        return max(took, default=0.0) * 1000

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
