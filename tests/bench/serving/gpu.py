"""Requests per second of the service on a GPU, beside its CPU and Triton.

One-row bodies of ``/predict`` by wrk, and whole ``/rank`` requests of 1,000 candidates by one
client, against one server after the other. What cannot be measured is a problem by name, and the
others are measured. Ends with 2 where onnxruntime cannot use CUDA. With ``--provider cpu`` the CPU
takes the GPU's place: a rehearsal of the benchmark, and no figure of a GPU.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from app.bundle.bundle import Bundle, Example
from app.scoring.engine import CUDA, cuda_problem
from app.scoring.engine import TOLERANCE as ENGINE_TOLERANCE
from app.workers.cpus import cpu_quota
from tests.bench.serving.peers import running
from tests.bench.serving.peers.peer import Peer, Triton, TritonOnGpu
from tests.bench.serving.processes import session_cpu_seconds
from tests.bench.serving.shape import make, predict_rows
from tests.support.environments import ROOT, PeerProblem
from tests.support.processes import children
from tests.support.serving import Service

CONNECTIONS = (1, 32, 128, 512)
CANDIDATES = 1_000
REFUSED = 2
"""Exit code where there is no CUDA."""
RANKS = 50
CHECKED_ROWS = 20
TOLERANCE = ENGINE_TOLERANCE[CUDA] / 4 + running.TOLERANCE
"""Largest difference of two providers' scores: a score moves a quarter as far as its logit."""
WRK = Path(__file__).with_name("wrk.lua")
Row = Mapping[str, Any]
Body = dict[str, Any]
Found = dict[str, Any]


class Run:
    """Figures of one server after the other over the same rows, and what went wrong."""

    def __init__(
        self, bundle: Path, rows: Sequence[Row], scratch: Path, seconds: int,
        tell: Callable[[str], None], connections: Sequence[int] = CONNECTIONS,
    ) -> None:  # fmt: skip
        """``rows`` are bodies' rows, context and candidate together."""
        self.servers: dict[str, Found] = {}
        self.problems: list[str] = []
        self._bundle = bundle
        self._rows = rows
        self._scratch = scratch
        self._seconds = seconds
        self._tell = tell
        self._connections = connections
        self._scores: list[float] = []
        self._rank = json.dumps(rank_body(Bundle.open(bundle), rows)).encode()

    def service(self, name: str, provider: str, workers: int = 1) -> None:
        """Measure the service on a provider, with so many processes."""
        settings = {"provider": provider, "workers": workers, "log_level": "warning"}
        service = Service(self._bundle, self._scratch / f"{name}.log", **settings)
        try:
            ready = service.wait_ready()
            found: Found = {"provider": ready["provider"], "workers": workers}
            self._scores = self._scores or service.predict(self._rows[:CHECKED_ROWS])
            bodies = self._bodies(name, [{"instances": [row]} for row in self._rows])
            found["predict"] = self._driven(
                name, service.port, "/predict", bodies, lambda: cpu_seconds(service.process.pid)
            )
            found["rank1000_ms"] = self._ranked(service.port)
            self.servers[name] = found
        except (AssertionError, OSError, RuntimeError, http.client.HTTPException) as error:
            self._fail(name, error)
        finally:
            service.stop()

    def peer(self, peer: Peer, plain: Path) -> None:
        """Measure another server over the plain graph, if it scores as the service did."""
        try:
            with running.serving(peer, self._bundle, plain, self._rows[0]) as server:
                rows = self._rows[: len(self._scores)]
                running.check(peer, server.port, rows, self._scores, TOLERANCE)
                bodies = self._bodies(peer.name, [peer.body(row) for row in self._rows])
                driven = self._driven(
                    peer.name, server.port, peer.target, bodies,
                    lambda: session_cpu_seconds(server.process),
                )  # fmt: skip
                self.servers[peer.name] = {"predict": driven}
        except (PeerProblem, OSError, RuntimeError) as error:
            self._fail(peer.name, error)

    def _fail(self, name: str, error: Exception) -> None:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # The log of a service that did not start stands below the first line; its last one tells.
        told = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
        self.problems.append(f"{name}: {told[:500]}")
        self._tell(f"left out: {self.problems[-1]}")

    def _bodies(self, name: str, bodies: Sequence[Body]) -> Path:
        path = self._scratch / f"bodies-{name}"
        with path.open("w") as file:
            file.writelines(json.dumps(body) + "\n" for body in bodies)
        return path

    def _driven(
        self, name: str, port: int, target: str, bodies: Path, cpu_seconds: Callable[[], float]
    ) -> Found:
        """Return requests per second, latencies and CPU time, by connections."""
        wrk(port, target, bodies, 8, 1)
        found: Found = {}
        for connections in self._connections:
            before = cpu_seconds()
            figures = wrk(port, target, bodies, connections, self._seconds)
            used = cpu_seconds() - before
            figures["cpu_us"] = used / figures["requests"] * 1e6
            found[str(connections)] = figures
            self._tell(
                f"{name}, {connections} connections: {figures['rate']:,.0f} requests/s,"
                f" p99 {figures['p99_us'] / 1e3:.2f} ms"
            )
        return found

    def _ranked(self, port: int) -> float:
        """Return the median milliseconds of a whole /rank request on one kept connection."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        times = []
        try:
            for _ in range(RANKS + RANKS // 5):
                begun = perf_counter()
                connection.request(
                    "POST", "/rank", self._rank, {"content-type": "application/json"}
                )
                answer = connection.getresponse()
                text = answer.read()
                times.append(perf_counter() - begun)
                if answer.status != 200:
                    raise RuntimeError(f"/rank answered {answer.status}: {text[:200]!r}")
        finally:
            connection.close()
        return 1e3 * statistics.median(times[RANKS // 5 :])


def measure(
    bundle: Path, plain: Path | None, rows: Sequence[Row], scratch: Path, seconds: int,
    provider: str, tell: Callable[[str], None], connections: Sequence[int] = CONNECTIONS,
) -> Found:  # fmt: skip
    """Return the figures of every server; ``plain`` is the graph of the peers, None without them.

    ``provider`` is that of the device, ``cpu`` in a rehearsal.
    """
    run = Run(bundle, rows, scratch, seconds, tell, connections)
    run.service("product_on_device", provider)
    run.service("product_on_cpu", "cpu")
    if cpu_quota() > 1:
        run.service("product_on_cpu_workers", "cpu", cpu_quota())
    if plain is not None:
        run.peer(Triton(), plain)
        if provider != "cpu":
            run.peer(TritonOnGpu(), plain)
    return {
        "connections": list(connections), "seconds": seconds, "cores": cpu_quota(),
        "servers": run.servers, "problems": run.problems,
    }  # fmt: skip


def wrk(port: int, target: str, bodies: Path, connections: int, seconds: int) -> Found:
    """Drive a server for some seconds; return requests per second, latencies and requests.

    Raises:
        RuntimeError: requests failed, or wrk did.
    """
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
         "-s", str(WRK), f"http://127.0.0.1:{port}"],
        env={**os.environ, "BODIES": str(bodies), "TARGET": target},
        capture_output=True, text=True, timeout=seconds + 60, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIGURES")]
    if not lines:
        raise RuntimeError(f"wrk: {(done.stderr or done.stdout).strip()[:200]}")
    rate, p50, p99, errors, requests = map(float, lines[0].split()[1:])
    if errors or not requests:
        raise RuntimeError(f"{errors:.0f} requests failed at {connections} connections")
    return {"rate": rate, "p50_us": p50, "p99_us": p99, "requests": requests}


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a service's process and its workers, in the kernel's ticks."""
    ticks = 0
    for each in (process, *children(process)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def example_rows(bundle: Bundle) -> list[Row]:
    """Return the rows of a bundle's golden requests, context and candidate together."""
    return [row for example in bundle.examples for row in _rows_of(example)]


def _rows_of(example: Example) -> list[Row]:
    return [{**example.context, **candidate} for candidate in example.candidates]


def rank_body(bundle: Bundle, rows: Sequence[Row]) -> Body:
    """Return a columnar /rank body of 1,000 candidates with the values of some rows."""
    sides = {field.name: field.side for field in bundle.spec.fields}
    context = {name: value for name, value in rows[0].items() if sides[name] == "context"}
    names = [name for name, side in sides.items() if side == "candidate"]
    chosen = [rows[number % len(rows)] for number in range(CANDIDATES)]
    return {
        "context": context,
        "candidates": {
            "id": list(range(CANDIDATES)),
            "features": {name: [row.get(name) for row in chosen] for name in names},
        },
        "top_k": 20,
    }


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench --gpu", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=int, default=4, help="of each wrk run; whole ones")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--bundle", type=Path, help="another bundle, and its golden requests")
    parser.add_argument("--no-peers", action="store_true", help="only the service")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Measure and print the figures; 2 where there is no CUDA, 1 where the service fails."""
    options = arguments(words)
    rehearsal = options.provider == "cpu"
    problem = None if rehearsal else cuda_problem()
    if problem is not None:
        print(f"bench: refused: CUDA cannot be used here: {problem}", file=sys.stderr)
        return REFUSED
    with tempfile.TemporaryDirectory() as name:
        plain = None
        if options.bundle:
            bundle = options.bundle
            rows = example_rows(Bundle.open(bundle))
        else:
            bundle, plain = make(ROOT / "data" / "criteo-shape")
            rows = predict_rows()
        figures = measure(
            bundle, None if options.no_peers else plain, rows, Path(name), options.seconds,
            options.provider, lambda line: print(f"bench: {line}", file=sys.stderr),
            options.connections,
        )  # fmt: skip
    text = json.dumps({"rehearsal": rehearsal, **figures}, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0 if "product_on_device" in figures["servers"] else 1
