"""Resources of the service: memory for large bodies and many sizes, threads under a CPU quota."""

from __future__ import annotations

import json
import os
import random
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

from app.serving.engines import engine_threads
from tests.drills.faults.drive import Request, ask_in_turn, run
from tests.drills.faults.figures import Figure, Skipped
from tests.drills.faults.stage import Stage, rank
from tests.support.samples import CANDIDATE, candidate_of, context_of
from tests.support.serving import APP, Service

MIB = 2**20
BODY_LIMIT = 8 * MIB
BLOCK = 65_536
DROPPED_MIB = 16 + 64
"""Read and dropped of a refused body, so that its client sees the answer: docs/http.md."""
PARTS, PART = 10, 3_000
MOST_CANDIDATES, LARGEST_LIST = 500, 5_000


def bodies(stage: Stage) -> Iterator[Figure]:
    """Bodies over the limit are refused unread; none takes more memory than twice the limit."""
    fitting = padded_body(stage, BODY_LIMIT)
    chunk = f"{BLOCK:x}\r\n".encode() + b" " * BLOCK + b"\r\n"
    sent: dict[str, tuple[str, Iterable[bytes], int]] = {
        "a declared gigabyte": (f"content-length: {2**30}", (), 413),
        "200 MB in chunks": ("transfer-encoding: chunked", [chunk] * (200 * MIB // BLOCK), 413),
        "one byte over": (f"content-length: {BODY_LIMIT + 1}", (fitting, b" "), 413),
        "exactly the limit": (f"content-length: {BODY_LIMIT}", (fitting,), 200),
    }
    with stage.service() as service:
        for name, (framing, parts, status) in sent.items():
            outcome = f'ctr_requests_total{{outcome="{status}",route="rank"}}'
            counted, before = service.metrics()[outcome], service.resident_bytes()
            service.forget_peak()
            start = perf_counter()
            taken = send(service.port, framing, parts)
            seconds = perf_counter() - start
            rise = service.peak_bytes() - before
            missing = counted + 1 - service.metrics()[outcome]
            yield Figure(f"{name}: answers other than {status}", abs(missing), 0, exact=True)
            yield Figure(f"{name}: time", seconds * 1e3, unit="ms")
            if status == 413:
                most = DROPPED_MIB + 3 * BODY_LIMIT / MIB
                yield Figure(f"{name}: sent", taken / MIB, most, "MiB", exact=True)
                yield Figure(f"{name}: memory", rise / MIB, 2 * BODY_LIMIT / MIB, "MiB")
            else:
                yield Figure(f"{name}: memory", rise / MIB, unit="MiB")


def padded_body(stage: Stage, size: int) -> bytes:
    """A /rank body of 2,000 candidates that an unknown field fills to a size."""
    context, features = context_of(stage.rows[0]), candidate_of(stage.rows[0])

    def body(note: str) -> bytes:
        candidates = [{"features": {**features, "note": note}}] * 2_000
        return json.dumps({"context": context, "candidates": candidates}).encode()

    filled = body("n" * ((size - len(body(""))) // 2_000))
    return filled + b" " * (size - len(filled))


def send(port: int, framing: str, parts: Iterable[bytes]) -> int:
    """Send a /rank body until it is over or refused, wait for the end, tell how much was sent."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), 20) as connection, suppress(ConnectionError):
        head = "POST /rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        connection.sendall(f"{head}connection: close\r\n{framing}\r\n\r\n".encode())
        for part in parts:
            connection.sendall(part)
            sent += len(part)
        while connection.recv(BLOCK):
            pass
    return sent


def memory(stage: Stage) -> Iterator[Figure]:
    """30,000 lists of 1 to 500 candidates do not make the service grow; nor does a longest one."""
    rows = [stage.rows[number % len(stage.rows)] for number in range(LARGEST_LIST)]
    calls = lists(stage)
    failed = 0
    with stage.service(deadline_ms=60_000) as service:

        def ask(requests: Iterable[Request], connections: int = 16) -> int:
            nonlocal failed
            answers = run(ask_in_turn(service.port, requests, connections))
            failed += sum(answer.status != 200 for answer in answers)
            return service.resident_bytes()

        marked = ask(islice(calls, PART))
        start = perf_counter()
        for _ in range(PARTS - 1):
            end = ask(islice(calls, PART))
        seconds = perf_counter() - start
        service.forget_peak()
        ask([rank(rows[0], rows)], 1)
        peak = service.peak_bytes()
        left = ask(islice(calls, PART))
    yield Figure("answers other than 200", failed, 0, exact=True)
    yield Figure("rate", (PARTS - 1) * PART / seconds, unit="calls/s")
    yield Figure("memory after 3,000 calls", marked / MIB, unit="MiB")
    yield Figure("growth from there to 30,000 calls", (end / marked - 1) * 100, 10, "%")
    yield Figure("a list of 5,000: peak above that", (peak - end) / MIB, unit="MiB")
    yield Figure("a list of 5,000: what it leaves", (left - end) / MIB, 8, "MiB")


def lists(stage: Stage) -> Iterator[Request]:
    """Endless /rank calls of 1 to 500 candidates, by turns as rows and as columns."""
    rng = random.Random(4)
    rows = stage.rows
    shown = [json.dumps({"features": candidate_of(row)}) for row in rows]
    columns = {name: [json.dumps(row.get(name)) for row in rows] for name in CANDIDATE}
    contexts = [json.dumps(context_of(row)) for row in rows]
    for as_rows in cycle((True, False)):
        size = rng.randint(1, MOST_CANDIDATES)
        start = rng.randrange(len(rows) - size)
        part = slice(start, start + size)
        if as_rows:
            candidates = f"[{','.join(shown[part])}]"
        else:
            features = ",".join(
                f'"{name}":[{",".join(column[part])}]' for name, column in columns.items()
            )
            candidates = f'{{"features":{{{features}}}}}'
        context = rng.choice(contexts)
        yield Request("/rank", f'{{"context":{context},"candidates":{candidates}}}'.encode())


def threads(stage: Stage) -> Iterator[Figure | Skipped]:
    """Threads follow the CPU quota of a container, not the CPUs of the machine."""
    cpus = max(1, len(os.sched_getaffinity(0)) // 2)
    wanted = engine_threads(cpus)
    with stage.service(engine_threads=wanted) as service:
        fixed = service.threads()
    with ExitStack() as stack:
        try:
            join = stack.enter_context(cpu_group(cpus))
        except OSError as error:
            yield Skipped(f"no cgroup with a CPU quota can be made here: {error}")
            return
        service = stack.enter_context(stage.service([*join, *APP]))
        yield Figure(f"under a quota of {cpus}: CPUs seen", logged(service, "CPUs"), cpus, "", True)
        told = logged(service, "engine threads")
        yield Figure("engine threads chosen, as logged", told, wanted, exact=True)
        more = service.threads() - fixed
        yield Figure("threads more than where they are set", more, 0, exact=True)


@contextmanager
def cpu_group(cpus: int) -> Iterator[list[str]]:
    """Make a cgroup of a CPU quota for a while; yields the words that start a program in it.

    Raises:
        OSError: this process may not.
    """
    root = Path("/sys/fs/cgroup")
    files = {"cpu.max": f"{cpus * 100_000} 100000"}
    if not (root / "cgroup.controllers").exists():
        root /= "cpu"
        files = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": str(cpus * 100_000)}
    group = root / f"ctr-faults-{os.getpid()}"
    group.mkdir()
    try:
        for name, text in files.items():
            (group / name).write_text(text)
        yield ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]
    finally:
        group.rmdir()


def logged(service: Service, what: str) -> int:
    """The number of something that the service told when it became ready."""
    (line,) = (e["message"] for e in service.events() if e["message"].startswith("ready:"))
    found = re.search(rf"(\d+) {what}", line)
    assert found, line
    return int(found[1])
