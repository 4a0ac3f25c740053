"""The first hour of a user, and tensors beside JSON.

begin: seconds from ratings.csv of MovieLens-100k to the first ranking: spec, train, app.
rate: requests per second of one row at /v2/…/infer beside /predict, 32 connections.
tensors: seconds of 1,000 rows as binary tensors beside the same rows as JSON columns, both at
/v2/…/infer, one after the other on one connection, the lowest median of the turns.
quality (only if named): AUC of the drafted spec of MovieLens, and of Frappe, Criteo and Avazu where
their files are there, beside that of the shipped one, three seeds; --of names some of them.

CPU time is that of the service's process, user and system, over its requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from model.fetch import fetch
from tests.bench.drafted import compare, data_sets
from tests.support.serving import ROOT, Service, Wire, environment
from tests.support.tensors import texts

PARTS = ("begin", "rate", "tensors")
QUALITY = "quality"
CONNECTIONS, ROWS, TIMES = 32, 1_000, 100
INFER = "/v2/models/ctr/infer"


def begin(scratch: Path, quick: bool) -> tuple[dict[str, float], Path]:
    """Take the way from a CSV to a ranking; return the seconds of each step, and the bundle.

    A ``quick`` training is one epoch: its seconds say nothing.
    """
    data = fetch("movielens-100k", ROOT / "data") / "ratings.csv"
    spec, bundles = scratch / "ratings.toml", scratch / "bundles"
    found: dict[str, float] = {}
    settings = scratch / "ratings.train.toml"
    settings.write_text("epochs = 1\nhidden = [16]\nthreads = 1\n" if quick else "")
    started = time.perf_counter()
    for name, words in {
        "spec": ["spec", data, "--label", "click", "--context", "user_id", "--out", spec],
        "train": ["train", spec, data, "--out", bundles],
    }.items():
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "model", *map(str, words)], cwd=ROOT, check=True,
            capture_output=True, env=environment(),
        )  # fmt: skip
        found[name] = time.perf_counter() - begun
    begun = time.perf_counter()
    service = Service(bundles, scratch / "log")
    service.wait_ready()
    service.rank(context={"user_id": 196}, candidates=[{"features": {"item_id": 1}}])
    found["app"] = time.perf_counter() - begun
    found["all"] = time.perf_counter() - started
    service.stop()
    return found, bundles


def row(number: int) -> dict[str, Any]:
    """A row as a caller of /predict sends it."""
    return {"user_id": number % 900 + 1, "gender": "MF"[number % 2], "zip": f"{number % 800:05d}",
            "item_id": number % 1_600 + 1, "year": 1990 + number % 9}  # fmt: skip


def columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows as inputs."""
    return [
        {"name": name, "shape": [len(rows)], "data": [each[name] for each in rows],
         "datatype": "BYTES" if isinstance(rows[0][name], str) else "INT64"}
        for name in rows[0]
    ]  # fmt: skip


def request(path: str, content: bytes, **headers: Any) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "host: test", "content-type: application/json",
             f"content-length: {len(content)}"]  # fmt: skip
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def in_binary(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as a request with binary tensors, whose answer is binary too."""
    inputs, tail = columns(rows), b""
    for each in inputs:
        values = each.pop("data")
        raw = texts(values) if each["datatype"] == "BYTES" else np.array(values, "<i8").tobytes()
        each["parameters"] = {"binary_data_size": len(raw)}
        tail += raw
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return request(INFER, head + tail, inference_header_content_length=len(head))


async def rate(port: int, content: bytes, seconds: float) -> tuple[float, int]:
    """Requests per second of callers who ask again as soon as they are answered; their number."""
    wires = [await Wire.open(port) for _ in range(CONNECTIONS)]
    end = time.perf_counter() + seconds

    async def ask(wire: Wire) -> int:
        count = 0
        while time.perf_counter() < end:
            wire.write(content)
            status, body = await wire.answer()
            assert status == 200, body
            count += 1
        return count

    begun = time.perf_counter()
    counts = await asyncio.gather(*map(ask, wires))
    taken = time.perf_counter() - begun
    for wire in wires:
        await wire.close()
    return sum(counts) / taken, sum(counts)


async def seconds_of(port: int, content: bytes, times: int) -> float:
    """The median time of a request, one after the other."""
    wire = await Wire.open(port)
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        wire.write(content)
        status, body = await wire.answer()
        taken.append(time.perf_counter() - begun)
        assert status == 200, body[:200]
    await wire.close()
    return median(taken)


def rates(service: Service, seconds: float, turns: int) -> dict[str, Any]:
    """The best rate of one row by route, its CPU time, and both beside those of /predict."""
    one = [row(7)]
    bodies = {
        "/predict": request("/predict", json.dumps({"instances": one}).encode()),
        "v2, JSON": request(INFER, json.dumps({"inputs": columns(one)}).encode()),
        "v2, binary": in_binary(one),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in bodies}
    for _ in range(turns):
        for name, content in bodies.items():
            before = service.cpu_seconds()
            per_second, count = asyncio.run(rate(service.port, content, seconds))
            found[name].append((per_second, (service.cpu_seconds() - before) / count * 1e6))
    fastest = {name: max(each)[0] for name, each in found.items()}
    cpu = {name: min(used for _, used in each) for name, each in found.items()}
    return {
        name: {
            "requests/s": fastest[name],
            "beside /predict": fastest[name] / fastest["/predict"],
            "CPU, us": cpu[name],
            "CPU beside /predict": cpu[name] / cpu["/predict"],
        }
        for name in bodies
    }


def long_bodies(service: Service, turns: int) -> dict[str, Any]:
    """The lowest median of a request with ``ROWS`` rows, its CPU time, and both beside JSON's."""
    many = [row(number) for number in range(ROWS)]
    bodies = {
        "JSON columns": request(INFER, json.dumps({"inputs": columns(many)}).encode()),
        "binary columns": in_binary(many),
        "/predict": request("/predict", json.dumps({"instances": many}).encode()),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in bodies}
    for _ in range(turns):
        for name, content in bodies.items():
            before = service.cpu_seconds()
            taken = asyncio.run(seconds_of(service.port, content, TIMES))
            found[name].append((taken * 1e3, (service.cpu_seconds() - before) / TIMES * 1e3))
    least = {
        name: [min(figures) for figures in zip(*each, strict=True)] for name, each in found.items()
    }
    json_ms, json_cpu = least["JSON columns"]
    return {
        name: {
            "ms": taken,
            "beside JSON": taken / json_ms,
            "CPU, ms": cpu,
            "CPU beside JSON": cpu / json_cpu,
        }
        for name, (taken, cpu) in least.items()
    }


def measure(
    parts: Sequence[str], seconds: float, turns: int, of: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure some of the parts, and the quality of these data sets, of all if none is named."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        if {*parts} & {*PARTS}:
            seconds_of_begin, bundles = begin(scratch, "begin" not in parts)
            if "begin" in parts:
                found["begin"] = seconds_of_begin
        if {*parts} & {"rate", "tensors"}:
            service = Service(bundles, scratch / "serving", deadline_ms=10_000)
            service.wait_ready()
            if "rate" in parts:
                found["rate"] = rates(service, seconds, turns)
            if "tensors" in parts:
                found["tensors"] = long_bodies(service, turns)
            service.stop()
        if QUALITY in parts:
            known = data_sets(scratch)
            if unknown := {*of} - {*known}:
                raise SystemExit(f"no data of {min(unknown)!r}; there are {', '.join(known)}")
            for name, data in known.items():
                if of and name not in of:
                    continue
                (scratch / name).mkdir()
                found[f"quality, {name}"] = compare(data, scratch / name)
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-begin", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    names = ", ".join((*PARTS, QUALITY))
    parser.add_argument("parts", nargs="*", help=f"of {names}; the first three if none is named")
    parser.add_argument("--of", nargs="*", default=(), metavar="DATA", help="data sets of quality")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measured rate")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS, QUALITY}:
        parser.error(f"no part is called {min(unknown)!r}; the parts are {names}")
    parts = options.parts or PARTS
    print(json.dumps(measure(parts, options.seconds, options.turns, options.of), indent=1))


if __name__ == "__main__":
    main()
