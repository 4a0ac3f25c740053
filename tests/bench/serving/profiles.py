"""The cost of a profile that is not sent: rows of ``scripts/bench --catalogue``."""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

from app.store.opening import open_store
from app.store.store import Item
from tests.bench.serving.following import over
from tests.bench.serving.shape import Draws
from tests.support.redis_server import RedisServer

PROFILES = 20_000
REQUESTS = 300
KEY = "user"


def _median_ms(ask: Callable[[int], object], count: int) -> float:
    times = []
    for number in range(count):
        began = perf_counter()
        ask(number)
        times.append(1e3 * (perf_counter() - began))
    return statistics.median(times)


class _Asker:
    """One kept connection."""

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.connect()
        self._bodies = bodies

    def __call__(self, number: int) -> None:
        body = self._bodies[number % len(self._bodies)]
        self._connection.request("POST", "/rank", body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200 or b"degraded" in text:
            raise SystemExit(f"/rank answered {answer.status}: {text[:200]!r}")


def profile_figures(bundle: Path, scratch: Path, repetitions: int) -> dict[str, float]:
    """``/rank`` of one candidate: the whole context sent, a remembered profile, and profiles that
    are looked up each time, in SQLite and in Redis; beside each store's own round trip.

    Milliseconds, medians of the repetitions, in which all take turns.
    """
    draws = Draws(23)
    contexts = [draws.side(True) for _ in range(PROFILES)]
    candidates = [{"features": draws.side(False)}]
    whole = [json.dumps({"context": each, "candidates": candidates}).encode()
             for each in contexts[:REQUESTS]]  # fmt: skip
    keys = [json.dumps({"context": {KEY: n}, "candidates": candidates}).encode()
            for n in range(REQUESTS)]  # fmt: skip
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        urls = {"sqlite": f"sqlite://{scratch / 'profiles.db'}", "redis": server.url}
        asks: dict[str, Callable[[int], object]] = {}
        for name, url in urls.items():
            store = stack.enter_context(closing(open_store(url, create=True)))
            store.profiles.put(Item(n, each) for n, each in enumerate(contexts))
            asks[f"{name}_round_trip"] = lambda n, held=store: held.profiles.find([str(n)])
            service = stack.enter_context(
                over(
                    url, bundle, scratch, profile_key=KEY, profile_seconds=0, redis_timeout_ms=1_000
                )
            )
            asks[name] = _Asker(service.port, keys)
        remembering = stack.enter_context(over(urls["sqlite"], bundle, scratch, profile_key=KEY))
        asks["remembered"] = _Asker(remembering.port, keys)
        plain = stack.enter_context(over(urls["sqlite"], bundle, scratch))
        asks["sent"] = _Asker(plain.port, whole)
        for turn in range(repetitions + 1):
            for name, ask in asks.items():
                found = _median_ms(ask, REQUESTS)
                # The first turn fills memories and warms up.
                if turn:
                    samples.setdefault(name, []).append(found)
    found = {name: statistics.median(each) for name, each in samples.items()}
    figures = {f"profile_{name}_ms": each for name, each in found.items()}
    for name in ("sqlite", "redis", "remembered"):
        figures[f"profile_{name}_added_ms"] = found[name] - found["sent"]
    return figures
