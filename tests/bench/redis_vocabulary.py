"""The costs of a vocabulary in Redis: room, publishing, start-up, and speed beside memory.

``layouts`` stores the same values as one plain hash for each slot and in the buckets that
publishing uses, and asks the server for its memory. ``field`` publishes a field of a million
values and starts services over it, with the vocabulary in memory and in Redis. ``warm`` drives
two services turn and turn about, one of each kind, once everything is cached. ``missing`` gives
every request values that nobody has seen, 5 % of its fields, and times one caller.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import redis
import torch

from app.bundle.directory import newest
from app.features.arrangement import arrange
from app.features.encoder import Encoder
from app.features.layout import Slot
from app.features.spec import FeatureSpec
from app.features.vocabulary import Texts, Vocabulary
from app.remote.link import Command
from app.remote.redis_layout import SENTINEL, slot_keys
from model.config import TrainConfig
from model.export.golden import example
from model.networks.deepfm import DeepFM
from tests.bench.serving.__main__ import Samples, predict_bodies, predict_rows, wrk
from tests.bench.serving.shape import make, value, write_untrained
from tests.support.redis_server import RedisServer, binaries
from tests.support.serving import ROOT, Service
from tests.support.vocabularies import linked

SPEC_TEXT = """\
label = "click"

[[fields]]
name = "user"
kind = "categorical"
side = "context"
min_count = 1

[[fields]]
name = "item"
kind = "categorical"
side = "candidate"
min_count = 1
"""
ITEMS = 1_000
MISSING_FIELDS = 2
"""Of 39: five per cent."""
CONNECTIONS = 32
REPEATS = 3


def texts(count: int) -> Texts:
    """Sorted texts of eight hexadecimal digits, like Criteo's, with ascending rows."""
    keys = sorted({value(0, rank) for rank in range(count)})
    return Texts.of(keys, np.arange(3, 3 + len(keys), dtype=np.int32))


def used_memory(server: RedisServer) -> int:
    """Bytes that a server has allocated."""
    with redis.Redis(port=server.port) as client:
        return int(client.info("memory")["used_memory"])


# Layouts.


def as_plain_hash(part: Texts) -> Iterator[Command]:
    """One hash for the slot, a field for each value."""
    keys = slot_keys("0" * 64, 0, Slot("user", "user", 1, 2 + len(part.rows)), len(part.rows))
    for start in range(0, len(part.rows), 100):
        places = np.arange(start, min(start + 100, len(part.rows)))
        pairs = zip(part.texts(places), part.rows[places].tolist(), strict=True)
        yield ("HSET", keys.prefix, *(word for pair in pairs for word in pair))


def as_buckets(part: Texts) -> Iterator[Command]:
    """The commands by which publishing writes a part."""
    keys = slot_keys("0" * 64, 0, Slot("user", "user", 1, 2 + len(part.rows)), len(part.rows))
    buckets: list[list[bytes | int]] = [
        [SENTINEL, keys.sentinel(bucket)] for bucket in range(keys.buckets)
    ]
    for start in range(0, len(part.rows), 10_000):
        places = np.arange(start, min(start + 10_000, len(part.rows)))
        for text, row in zip(part.texts(places), part.rows[places].tolist(), strict=True):
            buckets[keys.of(text)] += (text, row)
    for bucket, words in enumerate(buckets):
        yield ("HSET", keys.name(bucket), *words)


LAYOUTS = {"plain hash": as_plain_hash, "buckets": as_buckets}


async def store(server: RedisServer, commands: Iterator[Command]) -> None:
    """Send commands, some at a time."""
    async with linked(server.url) as link:
        chunk: list[Command] = []
        for command in commands:
            chunk.append(command)
            if len(chunk) == 200:
                await link.ask(chunk, 60)
                chunk = []
        await link.ask(chunk, 60)


def layouts(counts: Sequence[int]) -> Iterator[str]:
    """Bytes of a value by server, layout and number of values."""
    yield "| server | values | layout | bytes/value |"
    yield "|---|---:|---|---:|"
    for count in counts:
        part = texts(count)
        for name, binary in binaries().items():
            for layout, commands in LAYOUTS.items():
                with RedisServer(binary) as server:
                    before = used_memory(server)
                    asyncio.run(store(server, commands(part)))
                    each = (used_memory(server) - before) / len(part.rows)
                version = subprocess.run([binary, "--version"], capture_output=True, text=True)
                found = re.search(r"v=(\S+)", version.stdout)
                yield f"| {name} {found[1] if found else ''} | {count:,} | {layout} | {each:.1f} |"


# One large field.


def field_bundle(directory: Path, values: int) -> Path:
    """Return a bundle below ``directory`` whose users have so many values, making it once."""
    if directory.is_dir():
        return newest(directory)
    spec = FeatureSpec.parse(SPEC_TEXT)
    layout = arrange(spec, {"user": values, "item": ITEMS})
    user, item = layout.slots
    parts = {}
    for slot, count in ((user, values), (item, ITEMS)):
        part = texts(count)
        parts[slot.name] = Texts(part.blob, part.offsets, part.rows + np.int32(slot.first - 1))
    vocabulary = Vocabulary(layout, parts)
    torch.manual_seed(1)
    network = DeepFM(layout, TrainConfig(hidden=(64,), embedding_size=16), 0.2).eval()
    encoder = Encoder(spec, vocabulary)
    rows = [({"user": value(0, n)}, [{"item": value(0, n)}]) for n in range(8)]
    return write_untrained(
        directory, SPEC_TEXT, vocabulary, network,
        lambda _: [example(encoder, network, *row) for row in rows],
    )  # fmt: skip


@contextmanager
def service(bundle: Path, scratch: Path, **settings: object) -> Iterator[Service]:
    """A service that is ready."""
    started = Service(bundle, scratch / f"log{perf_counter()}", log_level="warning", **settings)
    try:
        started.wait_ready()
        yield started
    finally:
        started.stop()


def anonymous(process: int) -> int:
    """Bytes of a process that are its own: not those of files that it has mapped."""
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def field(values: int, scratch: Path, data: Path = ROOT / "data") -> Iterator[str]:
    """Publish a large field, and start services over it."""
    bundle = field_bundle(data / f"field-{values}", values)
    with RedisServer() as server:
        before, start = used_memory(server), perf_counter()
        subprocess.run(
            [sys.executable, "-m", "model", "publish", str(bundle), "--redis", server.url],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        seconds = perf_counter() - start
        each = (used_memory(server) - before) / (values + ITEMS)
        yield f"{values:,} values published in {seconds:.1f} s, {each:.1f} bytes/value in Redis"
        samples = Samples()
        for _ in range(REPEATS):
            for kind, settings in (("memory", {}), ("redis", {"redis_url": server.url})):
                start = perf_counter()
                with service(bundle, scratch, **settings) as started:
                    samples.add(f"{kind} start", perf_counter() - start)
                    samples.add(f"{kind} memory", anonymous(started.process.pid) / 2**20)
    yield "| vocabulary | from the command to ready, s | memory of its own, MiB |"
    yield "|---|---:|---:|"
    for kind in ("memory", "redis"):
        start, memory = samples.median(f"{kind} start"), samples.median(f"{kind} memory")
        yield f"| {kind} | {start:.2f} | {memory:.0f} |"


# Speed.


@contextmanager
def both(scratch: Path) -> Iterator[dict[str, Service]]:
    """A service of each kind over one bundle, and what its Redis holds is published."""
    bundle, _ = make(ROOT / "data" / "criteo-shape")
    with RedisServer() as server:
        subprocess.run(
            [sys.executable, "-m", "model", "publish", str(bundle), "--redis", server.url],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        with (
            service(bundle, scratch) as memory,
            service(bundle, scratch, redis_url=server.url) as through,
        ):
            yield {"memory": memory, "redis": through}


def predicted(service: Service) -> float:
    """The number of /predict that a service has answered."""
    return service.metrics()['ctr_requests_total{outcome="200",route="predict"}']


def warm(pairs: int, seconds: int, scratch: Path) -> Iterator[str]:
    """Redis over memory in interleaved pairs, everything cached: requests by time and by CPU time.

    A second of CPU time holds as many requests however busy the machine is, nearly.
    """
    bodies = scratch / "bodies"
    predict_bodies(bodies, predict_rows())
    by_time, by_cpu = [], []
    with both(scratch) as services:
        for each in services.values():
            wrk(bodies, CONNECTIONS, 2 * seconds, port=each.port)
        for number in range(pairs):
            order = ["memory", "redis"] if number % 2 else ["redis", "memory"]
            rate, cpu_rate = {}, {}
            for kind in order:
                each = services[kind]
                used, asked = each.cpu_seconds(), predicted(each)
                rate[kind] = wrk(bodies, CONNECTIONS, seconds, port=each.port).rate
                used, asked = each.cpu_seconds() - used, predicted(each) - asked
                cpu_rate[kind] = asked / used
            by_time.append(rate["redis"] / rate["memory"])
            by_cpu.append(cpu_rate["redis"] / cpu_rate["memory"])
        metrics = services["redis"].metrics()
    yield (
        f"warm cache, {CONNECTIONS} connections, {pairs} pairs, Redis/memory;"
        f" {metrics['ctr_redis_round_trips_total']:.0f} round trips in all"
    )
    for name, ratios in (("a second", by_time), ("a second of CPU", by_cpu)):
        yield (
            f"requests {name}: median {statistics.median(ratios):.3f},"
            f" from {min(ratios):.3f} to {max(ratios):.3f}"
        )


class Caller:
    """One kept connection to a service."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def seconds(self, body: bytes) -> float:
        """Return the seconds that a request takes."""
        start = perf_counter()
        self._connection.request("POST", "/predict", body, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        if answer.status != 200 or b"degraded" in answer.read():
            raise SystemExit(f"/predict answered {answer.status}")
        return perf_counter() - start


def with_unseen(rows: Sequence[Any], round_number: int) -> list[bytes]:
    """Bodies of rows in each of which some values are new to everybody."""
    rng = random.Random(round_number)
    bodies = []
    for number, row in enumerate(rows):
        changed = dict(row)
        for name in rng.sample(sorted(changed), MISSING_FIELDS):
            changed[name] = f"{round_number:x}-{number:x}"
        bodies.append(json.dumps({"instances": [changed]}).encode())
    return bodies


def missing(count: int, scratch: Path) -> Iterator[str]:
    """The time that values not cached add to a request, beside a round trip to the same Redis."""
    rows = predict_rows()[:count]
    bodies = [json.dumps({"instances": [row]}).encode() for row in rows]
    samples = Samples()
    with both(scratch) as services:
        callers = {kind: Caller(each.port) for kind, each in services.items()}
        # Turn and turn about, as a connection that idles for long is closed.
        for body in bodies:
            for caller in callers.values():
                caller.seconds(body)
        port = int(str(services["redis"].process.args[-1]).rpartition(":")[2])
        with redis.Redis(port=port) as client:
            client.ping()
            rng = random.Random(2)
            for known, unseen in zip(bodies, with_unseen(rows, 1), strict=True):
                asked = [
                    (kind, name, body) for kind in callers
                    for name, body in (("cached", known), ("missing", unseen))
                ]  # fmt: skip
                # The first request after one to the other service is the slower for it.
                rng.shuffle(asked)
                for kind, name, body in asked:
                    samples.add(f"{kind} {name}", callers[kind].seconds(body))
                start = perf_counter()
                client.hmget("none", "a", "b")
                samples.add("round trip", perf_counter() - start)
        metrics = services["redis"].metrics()
    p50 = {name: samples.median(name) * 1e6 for name in samples.values}
    yield "| p50 of one caller, us | all cached | 5 % of values unseen |"
    yield "|---|---:|---:|"
    for kind in ("memory", "redis"):
        yield f"| {kind} | {p50[f'{kind} cached']:.0f} | {p50[f'{kind} missing']:.0f} |"
    own = metrics["ctr_redis_seconds_sum"] / metrics["ctr_redis_seconds_count"] * 1e6
    added = p50["redis missing"] - p50["redis cached"]
    yield (
        f"added by asking Redis: {added:.0f} us; a round trip of redis-py: {p50['round trip']:.0f}"
        f" us, of the service (mean): {own:.0f} us"
    )


def main() -> None:
    """Run the parts that are asked for, or all."""
    parser = argparse.ArgumentParser(prog="scripts/bench-redis", description=__doc__)
    parts = ("layouts", "field", "warm", "missing")
    parser.add_argument("--only", choices=parts, action="append", help="may be repeated")
    parser.add_argument("--values", type=int, action="append", help="of layouts; default 1000000")
    parser.add_argument("--field-values", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=3, help="of each run of wrk")
    parser.add_argument("--requests", type=int, default=1_500, help="of missing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        for part in options.only or parts:
            lines = {
                "layouts": lambda: layouts(options.values or [1_000_000]),
                "field": lambda: field(options.field_values, scratch),
                "warm": lambda: warm(options.pairs, options.seconds, scratch),
                "missing": lambda: missing(options.requests, scratch),
            }[part]()
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
