"""The service beside the usual way: the same bundle, the same bodies, turn and turn about.

``/predict`` is driven by wrk with one row a body, 10,000 distinct bodies of Zipf-distributed
values. ``/rank`` is timed by one client as a whole HTTP request, in turn with the bare run of the
plain, unfactored graph on the same rows in this process, one engine thread each. Every figure is
the median of the repetitions, with their range; nothing is cached but the vocabulary, which both
keep whole. CPU time is that of all of a server's processes, over its requests; it moves less than
rates do on a machine with other work. With ``--peers``, two model servers do the job of
``/predict`` beside them; they use every processor, and so does the service then: a worker for
each.

``--gpu`` measures only the service on a GPU beside its CPU and Triton, at up to 512 connections,
and ends with 2 where onnxruntime cannot use CUDA. With ``--provider cpu`` the CPU takes the GPU's
place: a rehearsal of the benchmark, and no figure of a GPU.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep, thread_time
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from app.features.encoder import Encoder
from app.store.sqlite import SqliteStore
from app.store.store import Item
from app.workers.cpus import cpu_quota
from tests.bench.first_cut import first_cut_figures
from tests.bench.serving import gpu
from tests.bench.serving.following import change_figures, over, seen_figures, start_figures
from tests.bench.serving.peers import running
from tests.bench.serving.peers.lineup import Lineup
from tests.bench.serving.peers.peer import Mosec, Row, Triton
from tests.bench.serving.processes import session_cpu_seconds
from tests.bench.serving.profiles import profile_figures
from tests.bench.serving.shape import Draws, make, opened, predict_rows
from tests.support.encoding import encoded_columns
from tests.support.serving import Service

ROOT = Path(__file__).resolve().parents[3]
WRK = Path(__file__).with_name("wrk.lua")
PORT = 8917
CONNECTIONS = (1, 32, 128)
CANDIDATES = (100, 1000)
RANK_TURNS = 5
"""Turns that the bare graph and the service take within one repetition."""
TOP_K = 20
CHECKED_ROWS = 100
ITEMS = 100_000
"""Items of the catalogue that is ranked by id."""
RANKS = 60
"""Requests of a kind in a turn."""
FIRST_CUT = 2_000
"""Items that the first cut of all leaves."""
WORKERS = "product_workers"


class Figures(NamedTuple):
    """The figures of wrk: requests per second, latencies in microseconds, and requests."""

    rate: float
    p50: float
    p99: float
    requests: float


@contextmanager
def serving(words: Sequence[str]) -> Iterator[int]:
    """Run a server until the block ends; give the id of its first process."""
    process = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, start_new_session=True)
    try:
        end = monotonic() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=1)
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            if process.poll() is not None or monotonic() > end:
                raise SystemExit(f"{words[0]} did not start")
            sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def wrk(
    bodies: Path, connections: int, seconds: int, target: str = "/predict", port: int = PORT
) -> Figures:
    """Drive the server; a single answer that is no 200 ends the benchmark."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
         "-s", str(WRK), f"http://127.0.0.1:{port}"],
        env={**os.environ, "BODIES": str(bodies), "TARGET": target},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("FIGURES"))
    rate, p50, p99, errors, requests = map(float, line.split()[1:])
    if errors:
        raise SystemExit(f"{errors:.0f} requests failed at {connections} connections")
    return Figures(rate, p50, p99, requests)


class Samples:
    """Figures by name, a list for each repetition."""

    def __init__(self) -> None:
        self.values: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        """Note one repetition's figure."""
        self.values[name].append(value)

    def median(self, name: str) -> float:
        """The median over the repetitions."""
        return statistics.median(self.values[name])

    def spread(self, name: str) -> tuple[float, float]:
        """The least and the largest figure."""
        return min(self.values[name]), max(self.values[name])


def predict_bodies(path: Path, rows: Sequence[Row]) -> None:
    """Write one-row bodies, one a line."""
    with path.open("w") as file:
        file.writelines(json.dumps({"instances": [row]}) + "\n" for row in rows)


def rank_bodies(path: Path, candidates: int, count: int) -> list[dict[str, Any]]:
    """Write columnar /rank bodies, one a line, and return them."""
    draws = Draws(candidates)
    bodies = [
        {
            "context": draws.side(True),
            "candidates": {
                "id": list(range(candidates)),
                "features": draws.columns(False, candidates),
            },
            "top_k": TOP_K,
        }
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    return bodies


def plain_rows(encoder: Encoder, body: dict[str, Any]) -> Any:
    """The same rows as the plain graph reads them, [N, F]."""
    features = body["candidates"]["features"]
    count = len(next(iter(features.values())))
    context = np.frombuffer(encoder.context.row(body["context"]), np.int32)
    candidate = encoded_columns(encoder.candidate, features, count)
    return np.concatenate([np.tile(context, (count, 1)), candidate], axis=1)


def timed(run: Callable[[int], object], count: int) -> float:
    """Median seconds of ``count`` calls, after a tenth of them uncounted."""
    times = []
    for number in range(count + count // 10):
        start = perf_counter()
        run(number)
        times.append(perf_counter() - start)
    return statistics.median(times[count // 10 :])


def rank_over_http(bodies: Sequence[bytes], count: int, port: int = PORT) -> float:
    """Median seconds of a whole /rank request on one kept connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.connect()

    def ask(number: int) -> None:
        connection.request(
            "POST", "/rank", bodies[number % len(bodies)], {"content-type": "application/json"}
        )
        response = connection.getresponse()
        if response.status != 200 or not response.read():
            raise SystemExit(f"/rank answered {response.status}")

    return timed(ask, count)


def product_words(bundle: Path) -> list[str]:
    """The product's command line."""
    return ["app", "--bundle", str(bundle), "--port", str(PORT), "--log-level", "warning"]


def lined_up(bundle: Path, plain: Path, rows: Sequence[Row], scratch: Path) -> Lineup:
    """The peers whose scores are the product's."""
    lineup = Lineup([Mosec(), Triton()], bundle, plain, rows, scratch)
    with serving(product_words(bundle)):
        body = {"instances": rows[:CHECKED_ROWS]}
        expected = running.ask(PORT, "/predict", body)["predictions"]
    lineup.check(expected)
    return lineup


def drive(
    samples: Samples, name: str, process: int, bodies: Path, seconds: int,
    target: str = "/predict", port: int = PORT,
) -> None:  # fmt: skip
    """One repetition of one-row bodies against a server that runs, begun by a process."""
    wrk(bodies, 8, 1, target, port)
    for connections in CONNECTIONS:
        before = session_cpu_seconds(process)
        figures = wrk(bodies, connections, seconds, target, port)
        used = session_cpu_seconds(process) - before
        for part, figure in figures._asdict().items():
            samples.add(f"{name}_c{connections}_{part}", figure)
        samples.add(f"{name}_c{connections}_cpu", used / figures.requests * 1e6)


def measure(
    samples: Samples, bundle: Path, plain: Path, scratch: Path, seconds: int,
    lineup: Lineup | None = None,
) -> None:  # fmt: skip
    """One repetition of everything, the product between the usual ways and the peers."""
    product = product_words(bundle)
    usual = ["tests.bench.serving.usual", str(bundle), str(plain), str(PORT)]
    servers = {"usual_def": [*usual, "def"], "usual_async": [*usual, "async"], "product": product}
    bodies = scratch / "predict"
    if lineup:
        servers[WORKERS] = [*product, "--workers", str(cpu_quota())]
    for name, words in servers.items():
        with serving(words) as process:
            drive(samples, name, process, bodies, seconds)
    if lineup:
        lineup.each(
            lambda peer, server: drive(
                samples, peer.name, server.process, lineup.bodies(peer), seconds, peer.target,
                server.port,
            )
        )  # fmt: skip
    _, encoder = opened(bundle)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    one_thread = [*product, "--engine-threads", "1"]
    encoded: dict[int, list[bytes]] = {}
    with serving(one_thread):
        for candidates in CANDIDATES:
            decoded = rank_bodies(scratch / f"rank{candidates}", candidates, 30)
            rows = [plain_rows(encoder, body) for body in decoded]
            encoded[candidates] = [json.dumps(body).encode() for body in decoded]
            repeats = 20_000 // candidates // RANK_TURNS

            def bare(number: int, rows: list[Any] = rows) -> None:
                session.run(None, {"index": rows[number % len(rows)]})

            for _ in range(RANK_TURNS):
                seconds_bare = timed(bare, repeats)
                taken = rank_over_http(encoded[candidates], repeats)
                samples.add(f"bare_rank{candidates}", seconds_bare)
                samples.add(f"product_rank{candidates}", taken)
                samples.add(f"rank{candidates}_over_bare", taken / seconds_bare)
        alone = wrk(bodies, 1, seconds).p99
        rank = subprocess.Popen(
            ["wrk", "-t1", "-c4", f"-d{seconds + 2}s", "-s", str(WRK),
             f"http://127.0.0.1:{PORT}"],
            env={**os.environ, "BODIES": str(scratch / "rank1000"), "TARGET": "/rank"},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        sleep(1)
        under = wrk(bodies, 1, seconds).p99
        rank.wait()
        samples.add("predict_p99_alone", alone)
        samples.add("predict_p99_under_rank", under)
    with serving([*one_thread, "--precision", "int8"]):
        for candidates in CANDIDATES:
            seconds_int8 = rank_over_http(encoded[candidates], 20_000 // candidates)
            samples.add(f"int8_rank{candidates}", seconds_int8)


def metrics_ratios(bundle: Path, scratch: Path, seconds: int, pairs: int) -> dict[str, float]:
    """The service with metrics on over the same with metrics off.

    Both run all the time and are driven turn and turn about, each first as often as the other. A
    figure is the median of the pairs' ratios: of requests per second, and of requests per second
    of the processor's time, which other work on the machine moves less.
    """
    bodies = scratch / "predict"
    services = {
        metrics: Service(bundle, scratch / f"log-{metrics}", log_level="warning", metrics=metrics)
        for metrics in ("on", "off")
    }
    figures = {}
    try:
        for service in services.values():
            service.wait_ready()
            wrk(bodies, 8, 1, port=service.port)
        for connections in CONNECTIONS:
            ratios: dict[str, list[float]] = {"rate": [], "per_cpu": []}
            for pair in range(pairs):
                found = {}
                for metrics in ("on", "off") if pair % 2 else ("off", "on"):
                    service = services[metrics]
                    before = service.cpu_seconds()
                    rate = wrk(bodies, connections, seconds, port=service.port).rate
                    used = (service.cpu_seconds() - before) / seconds
                    found[metrics] = {"rate": rate, "per_cpu": rate / used}
                for name, each in ratios.items():
                    each.append(found["on"][name] / found["off"][name])
            for name, each in ratios.items():
                shown = " ".join(f"{ratio:.3f}" for ratio in sorted(each))
                print(f"{connections} connections, {name}, on over off: {shown}")
                figures[f"metrics_c{connections}_{name}_ratio"] = statistics.median(each)
    finally:
        for service in services.values():
            service.stop()
    return figures


def catalogue_figures(
    bundle: Path, plain: Path, scratch: Path, repetitions: int
) -> dict[str, float]:
    """``/rank`` of 1,000 of 100,000 items by id, and of the best 2,000 of all by a first cut,
    beside their values and the bare plain graph.

    Milliseconds, of the clock and of the processor, medians of the repetitions, in which all take
    turns: services that hold item parts in both precisions, one that scores items from their
    indices, and the bare graph. Other work on the machine moves the processor's time less.
    """
    draws = Draws(11)
    columns = draws.columns(False, ITEMS)
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    path = scratch / "store.db"
    with closing(SqliteStore(path, create=True)) as store:
        store.put(Item(number, values) for number, values in enumerate(rows))
    by_id, by_values, by_cut, plain_of = [], [], [], []
    _, encoder = opened(bundle)
    chosen = np.random.default_rng(5)
    for _ in range(30):
        ids = chosen.integers(ITEMS, size=1000).tolist()
        features = {name: [values[each] for each in ids] for name, values in columns.items()}
        asked = {"context": draws.side(True), "top_k": TOP_K}
        listed = {**asked, "candidates": {"id": ids, "features": features}}
        by_values.append(json.dumps(listed).encode())
        by_id.append(json.dumps({**asked, "candidates": {"ids": ids}}).encode())
        cut = {"all": True, "prefilter": FIRST_CUT}
        by_cut.append(json.dumps({**asked, "candidates": cut}).encode())
        plain_of.append(plain_rows(encoder, listed))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    samples = Samples()
    served: dict[str, dict[str, object]] = {
        "": {}, "int8_": {"precision": "int8"}, "indices_": {"item_parts_bytes": 0},
    }  # fmt: skip
    with ExitStack() as stack:
        services = {}
        for name, settings in served.items():
            began = monotonic()
            services[name] = stack.enter_context(
                over(f"sqlite://{path}", bundle, scratch, **settings)
            )
            samples.add(f"{name}ready_seconds", monotonic() - began)
        for _ in range(repetitions):
            began = thread_time()
            samples.add("bare_ms", 1e3 * timed(
                lambda number: session.run(None, {"index": plain_of[number % 30]}), RANKS
            ))  # fmt: skip
            samples.add("bare_cpu_ms", 1e3 * (thread_time() - began) / (RANKS + RANKS // 10))
            for name, service in services.items():
                bodies = {"by_values": by_values, "by_id": by_id}
                if name != "indices_":
                    bodies["prefilter"] = by_cut
                for kind, each in bodies.items():
                    before = service.cpu_seconds()
                    seconds = rank_over_http(each, RANKS, service.port)
                    samples.add(f"{name}{kind}_ms", 1e3 * seconds)
                    used = (service.cpu_seconds() - before) / (RANKS + RANKS // 10)
                    samples.add(f"{name}{kind}_cpu_ms", 1e3 * used)
    found = {name: samples.median(name) for name in samples.values}
    for kind in ("cpu_ms", "ms"):
        bare = found[f"bare_{kind}"]
        times = [name for name in found if name.endswith(f"_{kind}") and "bare" not in name]
        for name in times:
            if kind == "cpu_ms" or not name.endswith("_cpu_ms"):
                found[f"{name.removesuffix('_ms')}_over_bare"] = found[name] / bare
    found["by_id_over_by_values"] = found["by_id_ms"] / found["by_values_ms"]
    return found


def following_figures(bundle: Path, scratch: Path, options: argparse.Namespace) -> dict[str, float]:
    """What many items and their changes cost."""
    columns = Draws(19).columns(False, options.items)
    bodies = scratch / "predict"

    def p99_of(port: int) -> float:
        return wrk(bodies, 1, options.seconds, port=port).p99

    return {
        **seen_figures(bundle, scratch, columns),
        **change_figures(bundle, scratch, columns, p99_of, options.repeat),
        **start_figures(bundle, scratch, columns, options.items),
        **profile_figures(bundle, scratch, options.repeat),
    }


def ratios(samples: Samples) -> dict[str, float]:
    """The figures that the project states: the product against the better of the usual ways."""
    median = samples.median
    best = {
        c: max(median(f"usual_def_c{c}_rate"), median(f"usual_async_c{c}_rate"))
        for c in CONNECTIONS
    }
    usual_p50 = min(median("usual_def_c1_p50"), median("usual_async_c1_p50"))
    batch = median("bare_rank1000") / 4 * 1e6
    return {
        "predict_c1_p50_ratio": median("product_c1_p50") / usual_p50,
        "predict_c32_ratio": median("product_c32_rate") / best[32],
        "predict_c32_p99_over_p50": median("product_c32_p99") / median("product_c32_p50"),
        "predict_c128_ratio": median("product_c128_rate") / best[128],
        "rank100_fp32_over_bare": median("rank100_over_bare"),
        "rank1000_fp32_over_bare": median("rank1000_over_bare"),
        "rank1000_int8_over_bare": median("int8_rank1000") / median("bare_rank1000"),
        "predict_p99_under_rank_ratio": (median("predict_p99_under_rank") - batch)
        / median("predict_p99_alone"),
    }


def peer_ratios(samples: Samples, peers: Sequence[str]) -> dict[str, float]:
    """The product's workers against the better peer: requests per second, and latencies."""
    figures = {}
    for name, better in {"rate": max, "p50": min, "p99": min}.items():
        for c in CONNECTIONS:
            best = better(samples.median(f"{peer}_c{c}_{name}") for peer in peers)
            key = f"predict_c{c}_{name}_over_best_peer".replace("_rate", "")
            figures[key] = samples.median(f"{WORKERS}_c{c}_{name}") / best
    return figures


def table(samples: Samples, peers: Sequence[str] = ()) -> str:
    """Medians of the repetitions as a Markdown table, with the range of the rates."""
    lines = [
        "| server | connections | requests/s | range | p50, ms | p99, ms | CPU µs a request |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    workers = (WORKERS,) if peers else ()
    for name in ("product", *workers, "usual_async", "usual_def", *peers):
        for c in CONNECTIONS:
            rate, p50, p99, cpu = (
                samples.median(f"{name}_c{c}_{part}") for part in ("rate", "p50", "p99", "cpu")
            )
            least, most = samples.spread(f"{name}_c{c}_rate")
            lines.append(
                f"| {name} | {c} | {rate:,.0f} | {least:,.0f} to {most:,.0f} | {p50 / 1e3:.2f}"
                f" | {p99 / 1e3:.2f} | {cpu:,.0f} |"
            )
    lines += [
        "",
        "| /rank candidates | bare plain graph, ms | product over HTTP, ms | in int8, ms"
        " | product over bare | range |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for n in CANDIDATES:
        times = (samples.median(f"{name}_rank{n}") * 1e3 for name in ("bare", "product", "int8"))
        ratio = f"rank{n}_over_bare"
        least, most = samples.spread(ratio)
        lines.append(
            f"| {n} | {' | '.join(f'{time:.2f}' for time in times)}"
            f" | {samples.median(ratio):.2f} | {least:.2f} to {most:.2f} |"
        )
    return "\n".join(lines)


def tell(figures: dict[str, float], file: Path | None) -> None:
    """Print figures, and write them where that is asked for."""
    for name, figure in figures.items():
        print(f"{name:30} {figure:.3f}")
    if file:
        file.write_text(json.dumps(figures, indent=1) + "\n")


def main() -> None:
    """Run the benchmark and print its tables."""
    if "--gpu" in sys.argv[1:]:
        sys.exit(gpu.main(sys.argv[1:]))
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument("--seconds", type=int, default=4, help="of each wrk run; whole ones")
    parser.add_argument("--json", type=Path, help="write the ratios here")
    parser.add_argument("--peers", action="store_true", help="mosec and Triton beside the service")
    parser.add_argument(
        "--metrics", action="store_true",
        help="only the service with metrics beside itself without; repetitions are pairs",
    )  # fmt: skip
    parser.add_argument(
        "--catalogue", action="store_true",
        help="only /rank by id, beside the same by values, and what many items and changes cost",
    )  # fmt: skip
    parser.add_argument(
        "--items", type=int, default=1_000_000, help="of the largest catalogue (default: a million)"
    )
    parser.add_argument(
        "--gpu", action="store_true",
        help="only the service on a GPU, beside its CPU and Triton: see --gpu --help",
    )  # fmt: skip
    options = parser.parse_args()
    # A benchmark that is told to end ends its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bundle, plain = make(ROOT / "data" / "criteo-shape")
    samples = Samples()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        rows = predict_rows()
        predict_bodies(scratch / "predict", rows)
        if options.metrics:
            figures = metrics_ratios(bundle, scratch, options.seconds, options.repeat)
            tell(figures, options.json)
            return
        if options.catalogue:
            figures = catalogue_figures(bundle, plain, scratch, options.repeat)
            figures |= following_figures(bundle, scratch, options)
            figures |= first_cut_figures(ROOT / "data", scratch)
            tell(figures, options.json)
            return
        lineup = lined_up(bundle, plain, rows, scratch) if options.peers else None
        for repetition in range(options.repeat):
            print(f"repetition {repetition + 1} of {options.repeat}", file=sys.stderr)
            measure(samples, bundle, plain, scratch, options.seconds, lineup)
    figures = ratios(samples)
    peers = lineup.names if lineup else []
    if peers:
        figures |= peer_ratios(samples, peers)
    print(table(samples, peers))
    print()
    tell(figures, options.json)
    if lineup and not lineup.complete:
        raise SystemExit("a peer was left out: see above")


if __name__ == "__main__":
    main()
