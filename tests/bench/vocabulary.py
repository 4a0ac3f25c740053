"""A service with millions of known values: its start, its memory, its rate and its other callers.

The bundle has one text field of ``--values`` values beside one of a thousand, made up, with random
weights; it is written by the product's own code. Frequencies follow Zipf's law. Every figure is
measured with each of the checkouts in turn, this one and those named by ``--beside``, over the
same bundle, with a warm page cache; the median of the repetitions is printed.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter, sleep

import numpy as np
import torch
from numpy.typing import NDArray

from app.bundle.bundle import Example
from app.features.arrangement import arrange
from app.features.hot_values import serving_encoder
from app.features.spec import FeatureSpec
from app.features.text_index import TextIndex
from app.features.vocabulary import Texts, Vocabulary
from model.config import TrainConfig
from model.export.golden import example
from model.networks.deepfm import DeepFM
from tests.bench.serving.__main__ import wrk
from tests.bench.serving.shape import write_untrained
from tests.support.processes import children
from tests.support.serving import ROOT, free_port

USER, ITEM = "user", "item"
ITEMS = 1_000
SPEC = f"""\
label = "click"

[[fields]]
name = "{USER}"
kind = "categorical"
side = "context"
min_count = 1

[[fields]]
name = "{ITEM}"
kind = "categorical"
side = "candidate"
min_count = 1
"""
DIGITS = 16
"""Length of a value: hexadecimal digits."""
FACTOR = np.uint64(0x9E3779B97F4A7C15)
PART = 2**20
BODIES = 200_000
"""Bodies that are sent in turn: far more than a service remembers by use."""
ROWS = 200
"""Rows of a body of the caller beside whom the others are timed."""
HOT_RANKS = 1_000


def values(ranks: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the texts of values by rank, as UTF-8 [N, 16]."""
    numbers = (ranks * FACTOR).byteswap().view(np.uint8).reshape(-1, DIGITS // 2)
    nibbles = np.stack([numbers >> 4, numbers & 15], 2).reshape(-1, DIGITS)
    return np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]


def value(rank: int) -> str:
    """Return the text of one value."""
    return values(np.array([rank], np.uint64)).tobytes().decode()


def texts(count: int, first: int) -> Texts:
    """Return a slot's vocabulary, its rows from ``first`` on in the order of the ranks."""
    ranks = np.argsort(np.arange(count, dtype=np.uint64) * FACTOR).astype(np.uint64)
    blob = np.empty((count, DIGITS), np.uint8)
    for start in range(0, count, PART):
        blob[start : start + PART] = values(ranks[start : start + PART])

    def keys() -> Iterator[bytes]:
        for start in range(0, count, PART):
            yield from blob[start : start + PART].view(f"S{DIGITS}").ravel().tolist()

    offsets = np.arange(count + 1, dtype=np.int64) * DIGITS
    rows = ranks.astype(np.int32) + np.int32(first)
    return Texts(blob.ravel(), offsets, rows, TextIndex.of(keys(), count))


def make(directory: Path, count: int, embedding: int) -> Path:
    """Write the bundle below ``directory`` and return its path."""
    spec = FeatureSpec.parse(SPEC)
    layout = arrange(spec, {USER: count, ITEM: ITEMS})
    sizes = {USER: count, ITEM: ITEMS}
    vocabulary = Vocabulary(
        layout, {slot.name: texts(sizes[slot.name], slot.oov + 1) for slot in layout.slots}
    )
    torch.manual_seed(1)
    config = TrainConfig(
        hidden=(256, 128), embedding_size=embedding, init_std=0.1, batch_norm=False
    )
    network = DeepFM(layout, config, 0.2).eval()
    encoder = serving_encoder(spec, vocabulary)

    def golden(path: Path) -> list[Example]:
        return [
            example(encoder, network, {USER: value(rank)}, [{ITEM: value(rank % ITEMS)}])
            for rank in (0, 1, count // 2, count - 1)
        ]

    return write_untrained(directory, SPEC, vocabulary, network, golden)


class Draws:
    """Seeded bodies of ``/predict``."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._random = np.random.default_rng(7)

    def zipf(self, count: int) -> NDArray[np.int64]:
        """Draw ranks of which a value's frequency falls with the rank to the power 1.1."""
        return (self._random.zipf(1.1, count) - 1) % self._count

    def hot(self, count: int) -> NDArray[np.int64]:
        """Draw ranks of the most frequent values."""
        return self._random.integers(0, HOT_RANKS, count)

    def cold(self, count: int) -> NDArray[np.int64]:
        """Draw ranks of rare values."""
        return self._random.integers(self._count // 2, self._count, count)

    def write(self, path: Path, users: NDArray[np.int64], rows: int) -> Path:
        """Write bodies of so many rows, one a line."""
        shown = values(users.astype(np.uint64)).view(f"S{DIGITS}").ravel().astype(str).tolist()
        items = [value(rank) for rank in range(ITEMS)]
        with path.open("w") as file:
            for start in range(0, len(shown), rows):
                chosen = shown[start : start + rows]
                instances = [
                    {USER: user, ITEM: items[(start + place) % ITEMS]}
                    for place, user in enumerate(chosen)
                ]
                file.write(json.dumps({"instances": instances}) + "\n")
        return path


@contextmanager
def serving(
    checkout: Path, bundle: Path, workers: int = 1, env: dict[str, str] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Run a checkout's service; yield its port, its process id and the seconds to ready."""
    port = free_port()
    start = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "--bundle", str(bundle), "--port", str(port),
         "--workers", str(workers), "--log-level", "warning"],
        cwd=checkout, env={**os.environ, **(env or {})},
    )  # fmt: skip
    try:
        end = monotonic() + 600
        while not _ready(port):
            if process.poll() is not None or monotonic() > end:
                raise SystemExit(f"the service of {checkout} did not start")
            sleep(0.02)
        yield port, process.pid, perf_counter() - start
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def memory(process: int) -> tuple[float, float]:
    """Return a process' private memory and its mapped pages of files, in MiB.

    Private is what no other process shares and no file holds; pages of files are shared and can
    be dropped.
    """
    private = mapped = 0
    file_backed = False
    found: dict[str, int] = {}
    for line in [*Path(f"/proc/{process}/smaps").read_text().splitlines(), "0-0 end"]:
        first, *rest = line.split()
        if not first.endswith(":"):
            owned = found.get("Private_Clean:", 0) + found.get("Private_Dirty:", 0)
            anonymous = found.get("Anonymous:", 0)
            private += min(owned, anonymous) if file_backed else owned
            mapped += found.get("Rss:", 0) - anonymous if file_backed else 0
            file_backed = len(rest) > 4 and rest[4].startswith("/")
            found = {}
        elif rest and rest[0].isdigit():
            found[first] = int(rest[0])
    return private / 1024, mapped / 1024


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(
    checkout: Path, bundle: Path, bodies: dict[str, Path], seconds: int, note: Path
) -> dict[str, float]:
    """Measure one checkout once."""
    found = {}
    env = {"CTR_VERIFIED_FILES": str(note)}
    note.unlink(missing_ok=True)
    with serving(checkout, bundle, env=env) as (_, process, taken):
        found["ready, every file hashed, s"] = taken
        found["the same in CPU time, s"] = cpu_seconds(process)
    with serving(checkout, bundle, env=env) as (port, process, taken):
        found["ready, large files noted, s"] = taken
        found["noted, in CPU time, s"] = cpu_seconds(process)
        found["private at start, MiB"], _ = memory(process)
        wrk(bodies["zipf"], 8, 1, port=port)
        for connections in (1, 32):
            before = cpu_seconds(process)
            rate = wrk(bodies["zipf"], connections, seconds, port=port).rate
            used = (cpu_seconds(process) - before) / seconds / rate * 1e6
            found[f"requests/s, {connections} connections"] = rate
            found[f"CPU µs of a request, {connections} connections"] = used
        found["private after traffic, MiB"], found["mapped, MiB"] = memory(process)
        for caller in ("hot", "cold"):
            found[f"p99 beside a caller of {caller} values, ms"] = beside(
                port, bodies, caller, seconds
            )
    with serving(checkout, bundle, workers=2, env=env) as (port, process, _):
        wrk(bodies["zipf"], 32, seconds, port=port)
        own = [memory(worker)[0] for worker in children(process)]
        found["private of one more worker, MiB"] = max(own)
    return found


def beside(port: int, bodies: dict[str, Path], caller: str, seconds: int) -> float:
    """Return the p99 in ms of one connection's hot rows while another caller asks without pause."""
    other = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from pathlib import Path; from tests.bench.serving.__main__ import wrk;"
         "wrk(Path(sys.argv[1]), 2, int(sys.argv[2]), port=int(sys.argv[3]))",
         str(bodies[f"{caller} caller"]), str(seconds + 4), str(port)],
        cwd=ROOT,
    )  # fmt: skip
    sleep(3)
    p99 = wrk(bodies["hot"], 1, seconds, port=port).p99
    if other.wait():
        raise SystemExit("the caller beside failed")
    return p99 / 1000


def main() -> int:
    """Make the bundle and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench-vocabulary", description=__doc__)
    parser.add_argument("--values", type=int, default=10_000_000, help="of the large field")
    parser.add_argument("--embedding", type=int, default=16, help="size of an embedding")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="CHECKOUT",
                        help="another state of this repository to measure too")  # fmt: skip
    parser.add_argument("--keep", type=Path, help="directory in which the bundle is kept")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each rate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run(options, Path(scratch))
    return 0


def run(options: argparse.Namespace, scratch: Path) -> None:
    """Measure all checkouts, turn and turn about."""
    directory: Path = options.keep or scratch / "bundles"
    kept = sorted(directory.glob("*Z-*")) if directory.is_dir() else []
    bundle = kept[-1] if kept else make(directory, options.values, options.embedding)
    size = sum(path.stat().st_size for path in bundle.rglob("*")) / 2**20
    print(f"{options.values:,} values, embeddings of {options.embedding}: {size:,.0f} MiB")
    draws = Draws(options.values)
    bodies = {
        "zipf": draws.write(scratch / "zipf", draws.zipf(BODIES), 1),
        "hot": draws.write(scratch / "hot", draws.hot(BODIES // 10), 1),
        "hot caller": draws.write(scratch / "hot-caller", draws.hot(BODIES), ROWS),
        "cold caller": draws.write(scratch / "cold-caller", draws.cold(5 * BODIES), ROWS),
    }
    note = scratch / "verified.json"
    checkouts = {"this state": ROOT} | {str(path): path.resolve() for path in options.beside}
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.repeat):
        for name, checkout in checkouts.items():
            for what, figure in measure(checkout, bundle, bodies, options.seconds, note).items():
                figures[what][name].append(figure)
    print_table(figures, list(checkouts))


def print_table(figures: dict[str, dict[str, list[float]]], names: Sequence[str]) -> None:
    """Print the medians, and the range where there are several repetitions."""
    print("| | " + " | ".join(names) + " |")
    print("|---|" + "---:|" * len(names))
    for what, found in figures.items():
        shown = [
            f"{statistics.median(found[name]):,.1f} ({min(found[name]):,.1f} to"
            f" {max(found[name]):,.1f})"
            for name in names
        ]
        print(f"| {what} | {' | '.join(shown)} |")


if __name__ == "__main__":
    sys.exit(main())
