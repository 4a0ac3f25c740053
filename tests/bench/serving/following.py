"""What a large catalogue and its changes cost: rows of ``scripts/bench --catalogue``."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import NamedTuple

import httpx

from app.store.opening import open_store
from app.store.store import Item
from tests.bench.serving.shape import Draws
from tests.support.redis_server import RedisServer
from tests.support.serving import Service, workers_of

Columns = Mapping[str, Sequence[str]]
CHANGES_A_SECOND = 1_000
PUT_SECONDS = 0.05
"""Time between two puts of the writer."""
CHANGED_ITEMS = 1_000
SEEN_CHANGES = 20
CONNECTIONS = 48
"""Connections to four workers: that one of them has none happens once in a quarter million runs."""
FOUND_ITEMS = (5, 200)
"""Fewest and most items that the condition of ``where`` leaves."""
READY_SECONDS = 900.0


def store_of(url: str, columns: Columns, count: int) -> float:
    """Make a store with the first items of some columns; return the seconds that it took."""
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    began = monotonic()
    with closing(open_store(url, create=True)) as store:
        store.put(Item(number, values) for number, values in zip(range(count), rows, strict=False))
    return monotonic() - began


@contextmanager
def over(url: str, bundle: Path, scratch: Path, **settings: object) -> Iterator[Service]:
    """Run a service over a store."""
    with tempfile.NamedTemporaryFile(dir=scratch) as log:
        service = Service(bundle, Path(log.name), store=url, log_level="warning",
                          engine_threads=1, **settings)  # type: ignore[arg-type]  # fmt: skip
        try:
            _await_ready(service)
            yield service
        finally:
            service.stop()


def _await_ready(service: Service) -> None:
    end = monotonic() + READY_SECONDS
    while monotonic() < end and service.process.poll() is None:
        with suppress(httpx.TransportError):
            if service.client.get("/ready").status_code == 200:
                return
        sleep(0.05)
    raise SystemExit(f"the service did not start:\n{service.log()}")


class Memory(NamedTuple):
    """Memory of a process that no other one shares, in MiB."""

    own: float
    """Without a file behind it."""
    mapped: float
    """Of files that only this process has looked at; the system takes it back when it wants it."""


def memory_of(pid: int) -> Memory:
    """Return the memory of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    private = found["Private_Clean"] + found["Private_Dirty"]
    own = min(private, found["Anonymous"])
    return Memory(own / 2**10, (private - own) / 2**10)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def start_figures(bundle: Path, scratch: Path, columns: Columns, count: int) -> dict[str, float]:
    """Start with a large catalogue: two workers, and the cost of a condition over all of it."""
    url = f"sqlite://{scratch / 'large.db'}"
    figures = {"large_items": float(count), "large_put_seconds": store_of(url, columns, count)}
    began = monotonic()
    with over(url, bundle, scratch, workers=2, max_catalogue_rows=count) as service:
        figures["large_ready_seconds"] = monotonic() - began
        figures["large_worker_cpu_seconds"] = cpu_seconds(workers_of(service)[1])
        memory = memory_of(workers_of(service)[1])
        figures |= {"large_worker_mib": memory.own, "large_worker_mapped_mib": memory.mapped}
        figures |= where_figures(service, columns, count)
    with over(_empty(scratch), bundle, scratch, workers=2) as service:
        without = memory_of(workers_of(service)[1])
    figures["large_worker_over_empty_mib"] = memory.own - without.own
    return figures


def _empty(scratch: Path) -> str:
    url = f"sqlite://{scratch / 'empty.db'}"
    open_store(url, create=True).close()
    return url


def where_figures(service: Service, columns: Columns, count: int) -> dict[str, float]:
    """``where`` over the whole catalogue, beside the same items by their ids, and the best 2,000
    of it by a first cut; milliseconds.
    """
    name, wanted, ids = _rare(columns, count)
    other, common = next(
        (each, value) for each, values in columns.items()
        if each != name and (value := values[ids[0]])
    )  # fmt: skip
    context = Draws(13).side(True)
    conditions = {
        "where_one": {name: [wanted]},
        "where_two": {name: [wanted], other: [common]},
    }
    bodies = {
        each: {"context": context, "candidates": {"all": True, "where": where}}
        for each, where in conditions.items()
    }
    bodies["same_ids"] = {"context": context, "candidates": {"ids": ids}}
    cut = {"all": True, "prefilter": 2_000}
    bodies["large_prefilter"] = {"context": context, "candidates": cut, "top_k": 20}
    samples: dict[str, list[float]] = {name: [] for name in bodies}
    for turn in range(33):
        for each, body in bodies.items():
            began = perf_counter()
            answer = service.post("/rank", body)
            taken = perf_counter() - began
            if answer.status_code != 200:
                raise SystemExit(f"/rank answered {answer.status_code}: {answer.text}")
            if each == "where_one" and len(answer.json()["ranking"]) != len(ids):
                raise SystemExit("where found other items than there are")
            if turn > 2:
                samples[each].append(1e3 * taken)
    return {f"{each}_ms": statistics.median(times) for each, times in samples.items()} | {
        "where_found": float(len(ids))
    }


def _rare(columns: Columns, count: int) -> tuple[str, str, list[int]]:
    """Return a field and a value that few items have, and the items."""
    for name, values in columns.items():
        places: dict[str, list[int]] = {}
        for number, value in enumerate(values[:count]):
            places.setdefault(value, []).append(number)
        for value, found in places.items():
            if FOUND_ITEMS[0] <= len(found) <= FOUND_ITEMS[1]:
                return name, value, found
    raise SystemExit("no value is rare enough")


def _keep_changing(url: str, columns: dict[str, list[str]], items: int) -> None:
    """Put items again and again, evenly over time, until the process is ended."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    share = round(CHANGES_A_SECOND * PUT_SECONDS)
    store = open_store(url)
    number, due = 0, monotonic()
    while True:
        store.put(
            Item((number + each) % items, rows[(7 * number + each) % len(rows)])
            for each in range(share)
        )
        number += share
        due += PUT_SECONDS
        sleep(max(0.0, due - monotonic()))


@contextmanager
def changing(url: str, columns: Columns, items: int) -> Iterator[None]:
    """Let items change, a thousand a second, until the block ends."""
    rows = {name: list(values[:5_000]) for name, values in columns.items()}
    writer = multiprocessing.get_context("spawn").Process(
        target=_keep_changing, args=(url, rows, items), daemon=True
    )
    with closing(open_store(url)) as store:
        before, _ = store.items()
        writer.start()
        try:
            while store.changes(before, 1)[0] == before:
                if not writer.is_alive():
                    raise SystemExit("the writer of changes has ended")
                sleep(0.02)
            began, (first, _) = monotonic(), store.items()
            yield
            last, _ = store.items()
            rate = (last.number - first.number) / (monotonic() - began)
            if rate < 0.9 * CHANGES_A_SECOND:
                raise SystemExit(f"only {rate:.0f} changes a second: the machine is too slow")
        finally:
            writer.kill()
            writer.join()


def change_figures(
    bundle: Path,
    scratch: Path,
    columns: Columns,
    p99_of: Callable[[int], float],
    repetitions: int,
) -> dict[str, float]:
    """``/predict``'s p99 while items change beside without, in turns; microseconds.

    ``p99_of`` drives the service at a port.
    """
    url = f"sqlite://{scratch / 'changing.db'}"
    items = min(100_000, len(next(iter(columns.values()))))
    store_of(url, columns, items)
    calm, busy = [], []
    with over(url, bundle, scratch) as service:
        p99_of(service.port)
        for _ in range(repetitions):
            calm.append(p99_of(service.port))
            with changing(url, columns, items):
                busy.append(p99_of(service.port))
            sleep(1.0)
    return {
        "predict_p99_calm_us": statistics.median(calm),
        "predict_p99_changing_us": statistics.median(busy),
        "predict_p99_changing_ratio": statistics.median(
            one / other for one, other in zip(busy, calm, strict=True)
        ),
    }


class Asker:
    """Kept connections to every process that serves a port."""

    def __init__(self, ports: Sequence[int], connections: int) -> None:
        self._open = [
            http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            for port in ports for _ in range(connections)
        ]  # fmt: skip
        for connection in self._open:
            connection.connect()

    def seconds_until(self, identity: int, context: dict[str, str]) -> float:
        """Return the seconds from now until an item is known on every connection."""
        body = json.dumps({"context": context, "candidates": {"ids": [identity]}})
        began = perf_counter()
        waiting = list(self._open)
        while waiting:
            waiting[-1].request("POST", "/rank", body, {"content-type": "application/json"})
            if json.loads(waiting[-1].getresponse().read())["ranking"]:
                waiting.pop()
            else:
                sleep(0.002)
        return perf_counter() - began

    def close(self) -> None:
        """Close the connections."""
        for connection in self._open:
            connection.close()


def seen_figures(bundle: Path, scratch: Path, columns: Columns) -> dict[str, float]:
    """Time from a put until all of four workers use it; until both of two services do."""
    figures: dict[str, float] = {}
    url = f"sqlite://{scratch / 'seen.db'}"
    store_of(url, columns, CHANGED_ITEMS)
    with over(url, bundle, scratch, workers=4) as service:
        figures |= _seen("workers", url, [service.port], CONNECTIONS, columns)
    with RedisServer() as server:
        store_of(server.url, columns, CHANGED_ITEMS)
        with (
            over(server.url, bundle, scratch) as one,
            over(server.url, bundle, scratch) as other,
        ):
            figures |= _seen("replicas", server.url, [one.port, other.port], 1, columns)
    return figures


def _seen(
    name: str, url: str, ports: Sequence[int], connections: int, columns: Columns
) -> dict[str, float]:
    context = Draws(17).side(True)
    times = []
    with closing(open_store(url)) as store, closing(Asker(ports, connections)) as asker:
        for turn in range(SEEN_CHANGES):
            identity = 10_000_000 + turn
            store.put([Item(identity, {field: values[turn] for field, values in columns.items()})])
            times.append(asker.seconds_until(identity, context))
            # Puts fall anywhere between two looks of the followers.
            sleep(0.013 * turn)
    return {
        f"seen_by_{name}_median_ms": 1e3 * statistics.median(times),
        f"seen_by_{name}_worst_ms": 1e3 * max(times),
    }
