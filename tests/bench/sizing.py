"""CPU time of a request, by network and number of candidates: what to size a fleet by.

Each network has random weights and Criteo's shape: 39 fields, a million table rows. A service of
its own scores one request after the other on one connection. The figure is the CPU time that the
process used (user and system) over the number of requests, so it holds what HTTP, JSON,
validation and encoding cost. It does not depend on how long the process waits for a busy
processor, but caches and hyper-threads shared with other work raise it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from app.bundle.bundle import Example
from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from model.config import NETWORKS, SHALLOW, TrainConfig
from model.export.golden import example
from model.networks import build
from tests.bench.serving.shape import Draws, spec_text, vocabulary_of, write_untrained
from tests.support.serving import Service

CANDIDATES = (10, 100, 1_000)
LAYERS = ((256, 128), (400, 400, 400))
EMBEDDING = {"ffm": 4}
"""Sizes other than 16, as in ``tests.bench.networks``."""
BODIES = 200
GOLDEN = 4


def configs(names: Sequence[str]) -> list[TrainConfig]:
    """Return the settings to measure: a deep network once for each choice of layers."""
    return [
        TrainConfig(
            network=name, hidden=hidden, embedding_size=EMBEDDING.get(name, 16),
            init_std=0.1, batch_norm=False,
        )
        for name in names
        for hidden in (LAYERS[:1] if name in SHALLOW else LAYERS)
    ]  # fmt: skip


def make(config: TrainConfig, directory: Path) -> Path:
    """Write a bundle of a network with random weights."""
    spec = FeatureSpec.parse(spec_text())
    vocabulary = vocabulary_of(spec)
    torch.manual_seed(1)
    network = build(vocabulary.layout, config, 0.2).eval()
    encoder = Encoder(spec, vocabulary)

    def golden(path: Path) -> list[Example]:
        draws = Draws(1)
        return [
            example(encoder, network, draws.side(True), [draws.side(False)]) for _ in range(GOLDEN)
        ]

    return write_untrained(directory, spec_text(), vocabulary, network, golden, config.network)


def predict_bodies() -> list[bytes]:
    """Return bodies of ``/predict`` with one row each."""
    draws = Draws(7)
    rows = [draws.side(True) | draws.side(False) for _ in range(BODIES)]
    return [json.dumps({"instances": [row]}).encode() for row in rows]


def rank_bodies(candidates: int, bodies: int) -> list[bytes]:
    """Return bodies of ``/rank`` with columns."""
    draws = Draws(candidates)
    made: list[dict[str, Any]] = [
        {"context": draws.side(True), "top_k": 20,
         "candidates": {"features": draws.columns(False, candidates)}}
        for _ in range(bodies)
    ]  # fmt: skip
    return [json.dumps(body).encode() for body in made]


def cpu_ms(service: Service, path: str, bodies: Sequence[bytes], seconds: float) -> float:
    """Return the CPU time of a request in milliseconds, over ``seconds`` of CPU time."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)

    def ask(count: int) -> None:
        for number in range(count):
            body = bodies[number % len(bodies)]
            connection.request("POST", path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            if response.status != 200 or not response.read():
                raise SystemExit(f"{path} answered {response.status}")

    ask(len(bodies))
    asked, start = 0, service.cpu_seconds()
    while (used := service.cpu_seconds() - start) < seconds:
        ask(10)
        asked += 10
    connection.close()
    return used / asked * 1e3


def main() -> int:
    """Measure the networks that are named, all by default; print a Markdown table."""
    parser = argparse.ArgumentParser(prog="scripts/bench-sizing", description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all of them by default")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU time of each figure")
    options = parser.parse_args()
    names = options.networks or NETWORKS
    for name in names:
        if name not in NETWORKS:
            parser.error(f"{name!r} is not a network; there are {', '.join(NETWORKS)}")
    heads = ["`/predict`, 1 row", *(f"`/rank` of {count:,}" for count in CANDIDATES)]
    print("| network | layers | " + " | ".join(heads) + " |")
    print("|---|---|" + "---:|" * len(heads))
    for config in configs(names):
        with tempfile.TemporaryDirectory() as scratch:
            bundle = make(config, Path(scratch))
            service = Service(
                bundle, Path(scratch) / "log", log_level="warning", deadline_ms=60_000
            )
            try:
                service.wait_ready()
                figures = [cpu_ms(service, "/predict", predict_bodies(), options.seconds)]
                for count in CANDIDATES:
                    bodies = rank_bodies(count, max(5, BODIES // count))
                    figures.append(cpu_ms(service, "/rank", bodies, options.seconds))
            finally:
                service.stop()
        layers = "–" if config.network in SHALLOW else "-".join(map(str, config.hidden))
        shown = " | ".join(f"{figure:.2f}" for figure in figures)
        print(f"| {config.network} | {layers} | {shown} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
