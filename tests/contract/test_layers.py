"""Imports point down: which module may import which, and who alone may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The layers of app/, from the floor to the edge. Only the edge reads app.settings.
FLOOR = {"app.errors", "app.logs", "app.cells"}
VALUES = {"app.layout", "app.spec", "app.canonical", "app.vocabulary", "app.encoder"}
DOMAIN = VALUES | {"app.batch", "app.bundle", "app.field_schemas"}
# Metrics stand on the domain: they count missing and unseen values slot by slot.
METRICS = {"app.tallies", "app.meter", "app.bundle_metrics", "app.metrics"}
BELOW_ADAPTERS = FLOOR | DOMAIN | METRICS
REMOTE = {
    "app.remote",
    "app.remote.keys",
    "app.remote.address",
    "app.remote.link",
    "app.remote.cache",
    "app.remote.breaker",
    "app.remote.gatherer",
    "app.remote.vocabulary",
}
ADAPTERS = {"app.engine", "app.batcher"} | REMOTE
USE_CASE = {"app.schemas", "app.decoding", "app.scorer"}
BELOW_EDGE = BELOW_ADAPTERS | ADAPTERS | USE_CASE
EDGE = {
    "app.settings",
    "app.state",
    "app.loading",
    "app.versions",
    "app.slow_requests",
    "app.head",
    "app.keys",
    "app.answers",
    "app.activation",
    "app.admin",
    "app.endpoints",
    "app.asgi",
    "app.connection",
    "app.protocol",
    "app.docs_page",
    "app.documentation",
    "app.routes",
    "app.main",
    "app.workers",
}

# What the trainer shares with the service, so that a value is encoded by the same code in both.
SHARED = VALUES | {"app.bundle", "app.errors"}
# What runs the exported graph: where it is checked and measured.
RUNNING = {"app.batch", "app.engine"}
# The trainer's own modules up to the network, and up to a trained and measured one.
READING = {
    "model.files",
    "model.progress",
    "model.logs",
    "model.data",
    "model.split",
    "model.spill",
}
DATA = READING | {
    "model.config", "model.raw", "model.vocab", "model.dataset", "model.encode",
}  # fmt: skip
# A network may stand on another, as DeepFM does on FM; the package is the registry of all.
LAYERS = {"model.networks.mlp", "model.networks.network", "model.networks.rows"}
CROSSES = LAYERS | {"model.networks.crosses"}
SHALLOW = LAYERS | {"model.networks.lr", "model.networks.fm"}
PRODUCTS = LAYERS | {"model.networks.products"}
FAMILY = SHALLOW | PRODUCTS | CROSSES | {
    f"model.networks.{name}"
    for name in ("ffm", "fnn", "ipnn", "opnn", "pnn_star", "wide_deep", "deepfm")
}  # fmt: skip
NETWORKS = FAMILY | {"model.networks"}
TRAINING = DATA | NETWORKS | {
    "model.crosses",
    "model.group",
    "model.scratch",
    "model.arrays",
    "model.checkpoint",
    "model.metrics",
    "model.memory",
    "model.calibration",
    "model.sampling",
    "model.trainer",
        "model.train",
}  # fmt: skip
OFFLINE = TRAINING | {
    "model.evaluate",
    "model.networks.serving",
    "model.export",
    "model.quantize",
    "model.report",
    "model.warm_start",
    "model.cache",
    "model.prepare",
    "model.offline",
    "model.pipeline",
    "model.fetch",
    "model.compare",
    "model.compare_report",
    "model.tune",
    "model.files",
}
COMPARING = {"model.compare", "model.compare_report", "model.tune"}

MAY_IMPORT: dict[str, set[str]] = {
    "app": set(),
    "app.errors": set(),
    "app.settings": set(),
    "app.logs": set(),
    "app.cells": set(),
    "app.workers": FLOOR,
    "app.layout": FLOOR,
    "app.spec": FLOOR | {"app.layout"},
    "app.canonical": FLOOR | {"app.layout", "app.spec"},
    "app.vocabulary": FLOOR | {"app.layout", "app.spec", "app.canonical"},
    "app.encoder": FLOOR | {"app.layout", "app.spec", "app.canonical", "app.vocabulary"},
    "app.bundle": FLOOR | VALUES,
    "app.batch": FLOOR | VALUES,
    "app.tallies": FLOOR,
    "app.meter": FLOOR | {"app.tallies"},
    "app.bundle_metrics": FLOOR | DOMAIN | {"app.tallies"},
    "app.metrics": FLOOR | DOMAIN | METRICS - {"app.metrics"},
    "app.slow_requests": FLOOR,
    "app.head": FLOOR,
    "app.keys": FLOOR,
    "app.answers": FLOOR,
    "app.activation": FLOOR | DOMAIN | {"app.state", "app.versions"},
    "app.admin": FLOOR | {"app.activation", "app.answers", "app.keys", "app.state"},
    "app.field_schemas": FLOOR | {"app.layout", "app.spec", "app.canonical"},
    "app.engine": BELOW_ADAPTERS,
    "app.batcher": BELOW_ADAPTERS,
    "app.remote": set(),
    "app.remote.keys": FLOOR | VALUES,
    "app.remote.address": FLOOR,
    "app.remote.link": FLOOR | {"app.remote.address"},
    "app.remote.cache": FLOOR,
    "app.remote.breaker": FLOOR,
    "app.remote.gatherer": FLOOR | {"app.remote.keys"},
    "app.remote.vocabulary": BELOW_ADAPTERS | REMOTE - {"app.remote.vocabulary"},
    "app.schemas": FLOOR | DOMAIN,
    "app.decoding": FLOOR | DOMAIN | {"app.schemas"},
    "app.scorer": BELOW_ADAPTERS | {"app.schemas", "app.decoding"},
    "app.endpoints": BELOW_ADAPTERS | USE_CASE | {"app.slow_requests"},
    "app.asgi": FLOOR | {"app.endpoints"},
    "app.versions": FLOOR | DOMAIN,
    "app.loading": BELOW_EDGE | {"app.settings"},
    "app.state": BELOW_EDGE | {"app.settings", "app.loading", "app.versions"},
    "app.connection": FLOOR | {"app.head"},
    "app.protocol": FLOOR | {"app.endpoints", "app.connection"},
    "app.docs_page": set(),
    "app.documentation": FLOOR | DOMAIN | {"app.schemas"},
    "app.routes": BELOW_EDGE | {"app.settings", "app.state", "app.endpoints", "app.asgi"},
    "app.main": BELOW_EDGE | EDGE - {"app.main", "app.workers"},
    "app.__main__": BELOW_EDGE | EDGE,
    "model": set(),
    "model.config": {"app.errors"},
    "model.fetch": {"app.errors"},
    "model.metrics": {"app.errors"},
    "model.memory": set(),
    "model.progress": set(),
    "model.logs": SHARED,
    "model.split": {"model.logs"},
    "model.spill": set(),
    "model.data": SHARED | {"model.files", "model.progress", "model.logs"},
    "model.raw": SHARED | READING,
    "model.vocab": SHARED | {"model.data"},
    "model.dataset": SHARED | {"model.networks.network"},
    "model.encode": SHARED | DATA - {"model.encode"},
    "model.networks.rows": set(),
    "model.networks.mlp": {"model.config", "model.networks.rows"},
    "model.networks.network": SHARED | {"model.config"} | LAYERS - {"model.networks.network"},
    "model.networks.lr": SHARED | {"model.config"} | LAYERS,
    "model.networks.fm": SHARED | {"model.config"} | SHALLOW - {"model.networks.fm"},
    "model.networks.products": SHARED | {"model.config"} | LAYERS,
    "model.networks.crosses": SHARED | {"model.config"} | LAYERS,
    **{
        name: SHARED | {"model.config"} | SHALLOW | PRODUCTS | CROSSES
        for name in FAMILY - SHALLOW - PRODUCTS - CROSSES
    },
    "model.networks": SHARED | {"model.config"} | FAMILY,
    "model.crosses": SHARED | DATA | NETWORKS,
    "model.sampling": {"model.dataset", "model.metrics"},
    "model.group": set(),
    "model.scratch": set(),
    "model.arrays": {"app.bundle", "model.files", "model.scratch"},
    "model.checkpoint": {"model.arrays", "model.scratch"},
    "model.cache": SHARED | DATA | {"model.arrays"},
    "model.prepare": SHARED | TRAINING | {"model.cache", "model.warm_start"},
    "model.offline": SHARED | TRAINING | RUNNING | {"model.evaluate"},
    "model.calibration": SHARED | {"model.dataset", "model.metrics"},
    "model.trainer": SHARED | TRAINING - {"model.trainer", "model.train"},
    "model.train": SHARED | TRAINING - {"model.train"},
    "model.networks.serving": SHARED | {"model.config"} | FAMILY,
    "model.export": SHARED | TRAINING | RUNNING | {"model.networks.serving"},
    "model.evaluate": SHARED | TRAINING | RUNNING | {"model.export"},
    "model.warm_start": SHARED | TRAINING | {"model.export"},
    "model.quantize": SHARED | TRAINING | RUNNING | {"model.export", "model.evaluate"},
    "model.report": SHARED | TRAINING | {"model.export", "model.evaluate"},
    "model.files": set(),
    "model.tune": SHARED | OFFLINE - COMPARING - {"model.fetch"},
    "model.compare": SHARED | OFFLINE - COMPARING - {"model.fetch"} | RUNNING,
    "model.compare_report": SHARED
    | OFFLINE - {"model.compare_report", "model.tune", "model.fetch"}
    | RUNNING,
    "model.pipeline": SHARED | OFFLINE - COMPARING - {"model.pipeline", "model.fetch"} | RUNNING,
    "model.publish": SHARED | {"app.remote.keys", "app.remote.link"},
    "model.__main__": SHARED
    | OFFLINE
    | RUNNING
    | {"model.publish", "app.remote.address", "app.remote.link"},
}

# A library that these modules hide from all others. The trainer asks onnxruntime for its tool to
# quantise a graph; whatever runs one is app.engine.
ONLY_IMPORTERS = {
    "onnxruntime": {"app.engine", "model.quantize"},
    "redis": {"app.remote.link"},
    "hiredis": {"app.remote.link"},
    "optuna": {"model.tune"},
}

# (module, what it imports inside a function): each entry needs a reason beside it.
ALLOWED_INSIDE_FUNCTIONS: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's target, as a module's full name."""

    target: str
    line: int
    inside_function: bool


def modules() -> dict[str, Path]:
    """Every module of app/ and model/, by its full name."""
    found = {}
    for package in ("app", "model"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, source: str, known: set[str]) -> Iterator[Import]:
    """Yield the imports of a module; a name imported from a package may itself be a module."""

    def visit(node: ast.AST, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, inside)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in known else base, node.lineno, inside)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), False)


def problems(name: str, source: str) -> list[str]:
    """Say everything that a module's imports do and may not."""
    if name not in MAY_IMPORT:
        return [f"{name} has no layer: add it to MAY_IMPORT in tests/contract/test_layers.py"]
    found = []
    for each in imports(name, source, set(MAY_IMPORT)):
        where = f"{name}:{each.line} imports {each.target}"
        top = each.target.partition(".")[0]
        if name not in ONLY_IMPORTERS.get(top, {name}):
            found.append(f"{where}, which only {' and '.join(sorted(ONLY_IMPORTERS[top]))} may")
        if top == "torch" and name.startswith("app"):
            found.append(f"{where}: the service runs without torch")
        if top not in ("app", "model"):
            continue
        if each.target not in MAY_IMPORT[name]:
            found.append(f"{where}, which is not below it")
        if each.inside_function and (name, each.target) not in ALLOWED_INSIDE_FUNCTIONS:
            found.append(f"{where} inside a function: import it at the top")
    return found


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_what_stands_below_it(name: str) -> None:
    """Every module has a layer, and imports what that layer may."""
    assert problems(name, modules()[name].read_text()) == []


def test_the_table_has_no_cycle() -> None:
    """The table itself points down: following it never leads back."""
    order = list(MAY_IMPORT)
    below: set[str] = set()
    while remaining := [name for name in order if name not in below]:
        free = [name for name in remaining if MAY_IMPORT[name] <= below]
        assert free, f"these may import each other in a circle: {remaining}"
        below.update(free)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("app.spec", "from app.encoder import encode", "not below it"),
        ("app.spec", "from app import encoder", "not below it"),
        ("app.spec", "from .encoder import encode", "not below it"),
        ("app.spec", "from . import encoder", "not below it"),
        ("app.spec", "import app.encoder", "not below it"),
        ("app.main", "from model.data import read_table", "not below it"),
        ("app.scorer", "from app.batcher import MicroBatcher", "not below it"),
        ("app.batcher", "import onnxruntime as ort", "only app.engine"),
        ("model.export", "from onnxruntime import InferenceSession", "and model.quantize may"),
        ("app.main", "from redis.asyncio import Redis", "only app.remote.link may"),
        ("app.engine", "import torch", "without torch"),
        ("app.main", "def main():\n    from app import routes", "inside a function"),
        ("app.features", "", "has no layer"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str, complaint: str) -> None:
    """Each rule sees the import that breaks it, however it is written."""
    [problem] = problems(name, source)
    assert complaint in problem


def test_right_imports_pass() -> None:
    """What the table allows is not complained about, nor are other libraries."""
    source = (
        "import numpy\nimport onnxruntime\nfrom app.bundle import Bundle\nfrom app import errors"
    )
    assert problems("app.engine", source) == []


def test_the_service_loads_neither_torch_nor_the_trainer() -> None:
    """A fresh interpreter that imports all of app/ has loaded no torch and nothing of model/."""
    names = [name for name in modules() if name.startswith("app") and name != "app.__main__"]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'model'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
