"""Imports point down: which folder may import which, and who alone may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# One line a folder (or a module beside the folders), from the edge down to the floor: the folders,
# and single modules of others, that it may import. Inside a folder the modules may import each
# other, but not in a circle.
FLOOR = {"app", "app.backoff", "app.errors", "app.files", "app.logs", "app.off_loop"}
FEATURES = FLOOR | {"app.features"}
BUNDLE = FEATURES | {"app.bundle"}
ENGINE = BUNDLE | {"app.scoring"}
EXPLAIN = ENGINE | {"app.explain"}
CATALOGUE = ENGINE | {"app.store", "app.catalogue"}
SERVICE = CATALOGUE | {
    "app.explain", "app.workers", "app.metrics", "app.remote", "app.profiles", "app.rollout",
    "app.feedback",
    "app.serving", "app.settings",
}  # fmt: skip
PAGES = SERVICE - {"app.settings", "app.remote"}
DATA = {
    "model.array_files",
    "model.cluster",
    "model.config",
    "model.data",
    "model.fingerprint",
    "model.group",
    "model.networks",
    "model.progress",
    "model.remote",
    "model.result_places",
}
TRAINER = DATA | {
    "model.training", "model.export", "model.quality", "model.report", "model.score_files",
    "model.score_table", "model.pipeline", "model.sharding", "model.train_network",
}  # fmt: skip

MAY_IMPORT: dict[str, set[str]] = {
    "app": set(),
    "app.backoff": set(),
    "app.missing_packages": set(),
    "app.errors": set(),
    "app.files": set(),
    "app.logs": set(),
    "app.off_loop": set(),
    "app.settings": set(),
    "app.command_line": {"app.logs", "app.settings"},
    "app.workers": FLOOR,
    "app.features": FLOOR,
    "app.bundle": FEATURES,
    "app.scoring": BUNDLE,
    "app.explain": ENGINE,
    "app.store": FLOOR | {"app.remote.address", "app.remote.link"},
    "app.catalogue": CATALOGUE - {"app.catalogue"},
    "app.metrics": ENGINE | {"app.workers", "app.rollout"},
    "app.remote": ENGINE | {"app.metrics"},
    "app.profiles": CATALOGUE - {"app.catalogue"} | {"app.metrics", "app.remote"},
    "app.rollout": ENGINE,
    "app.feedback": CATALOGUE - {"app.catalogue"} | {"app.metrics", "app.settings", "app.workers"},
    "app.serving": SERVICE - {"app.serving"},
    "app.pages": PAGES,
    "app.web": PAGES | {"app.pages"},
    "app.check": SERVICE,
    "app.main": SERVICE | {"app.web", "app.command_line"},
    "app.__main__": SERVICE
    | {"app.missing_packages"}
    | {"app.check", "app.web", "app.main", "app.command_line"},
    # The trainer takes from the service what turns values into indices and what runs a graph, so
    # that training and serving share both.
    "model": {"model.threads"},
    "model.threads": {"app.workers.cpus"},
    "model.array_files": FEATURES,
    "model.cluster": {"app", "app.errors", "model"},
    "model.config": {"app.errors", "app.features", "model.threads"},
    "model.fingerprint": set(),
    "model.group": set(),
    "model.options": {
        "app.features",
        "model.config",
        "model.data.stored_files",
        "model.remote",
    },
    "model.progress": set(),
    "model.remote": BUNDLE,
    "model.result_places": BUNDLE | {"model.remote"},
    "model.histories": set(),
    "model.fetch": {"app.errors", "app.files", "model.histories", "model.result_places"},
    "model.networks": FEATURES | {"model.config"},
    "model.data": BUNDLE | DATA,
    "model.quality": ENGINE | DATA | {"app.workers.cpus"},
    "model.text_table": set(),
    "model.train_group": FLOOR
    | {"model.cluster", "model.group", "model.must_beat", "model.result_places"},
    "model.draft": FEATURES | DATA | {"model.quality", "model.text_table"},
    # PSI has one definition, the service's.
    "model.check": ENGINE | TRAINER | {"app.metrics", "model.text_table"},
    "model.export": EXPLAIN | DATA | {"model.quality"},
    "model.sharding": {"app.errors", "model.group"},
    "model.training": BUNDLE | DATA | {"model.quality", "model.export", "model.sharding"},
    "model.report": BUNDLE | DATA | {"model.quality", "model.training"},
    "model.score_files": ENGINE | DATA | {"model.quality", "model.score_table"},
    "model.score_blocks": ENGINE | DATA | {"model.score_files", "model.score_table"},
    "model.explain_files": EXPLAIN | DATA | {"model.quality"},
    "model.explain_page": FLOOR
    | {"app.explain", "app.files", "model.compare_report", "model.explain_files"},
    "model.api": EXPLAIN | TRAINER | {"model.explain_files"},
    "model.score_table": {"app.files", "model.result_places"},
    "model.must_beat": ENGINE | DATA | {"app.rollout", "model.quality"},
    "model.feedback": ENGINE
    | DATA
    | {"app.feedback.event_format", "app.feedback.log_format"}
    | {"model.quality", "model.score_files", "model.score_table"},
    "model.train_network": BUNDLE | DATA | {"model.training", "model.sharding"},
    "model.pipeline": EXPLAIN | TRAINER - {"model.pipeline"} | {"model.must_beat"},
    "model.tune": BUNDLE | TRAINER,
    "model.compare": ENGINE | TRAINER,
    "model.compare_report": FEATURES | TRAINER | {"model.compare"},
    "model.publish": BUNDLE | {"app.remote", "model.progress"},
    "model.put_stored": FEATURES | DATA | {"app.store"},
    "model.commands": BUNDLE
    | {"model.must_beat"}
    | TRAINER
    | {
        "app.remote",
        "model.check",
        "model.cluster",
        "model.compare",
        "model.score_blocks",
        "model.train_group",
        "model.compare_report",
        "model.draft",
        "model.fetch",
    }
    | {"model.publish"}
    | {"model.feedback"}
    | {"app.explain", "model.explain_files", "model.explain_page"}
    | {"model.options", "model.put_stored", "model.threads", "model.tune"},
    "model.__main__": {
        "app.errors",
        "app.missing_packages",
        "model.commands",
        "model.progress",
        "model.result_places",
    },
}

# A library that these modules hide from all others. The trainer asks onnxruntime for its tool to
# quantise a graph; whatever runs one is app.scoring.engine.
ONLY_IMPORTERS = {
    "onnxruntime": {"app.scoring.engine", "app.scoring.engine_device", "model.export.quantize"},
    "redis": {"app.remote.link"},
    "hiredis": {"app.remote.link"},
    "optuna": {"model.tune"},
    "pyarrow": {"model.remote.file_systems"},
    "ray": {"model.cluster.ray_engine"},
    "torchrec": {"model.sharding.row_exchange"},
    "fbgemm_gpu": {"model.sharding.row_exchange"},
    "sqlite3": {"app.store.sqlite_file"},
}

# Modules whose functions import what only they need: a command that trains nothing must not wait
# for torch, which takes longer to load than the command to run.
IMPORT_LATE = {
    "model.data.dataset", "model.data.prepare",
    "model.commands.data", "model.commands.explaining", "model.commands.feedback",
    "model.commands.scoring", "model.commands.stores", "model.commands.training",
}  # fmt: skip

# (module, what it imports against the rule): each entry needs a reason beside it.
ALLOWED: set[tuple[str, str]] = set()


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


MODULES = modules()


def folder(name: str) -> str:
    """Return the folder of a module, or the module where it lies beside the folders."""
    return ".".join(name.split(".")[:2])


@cache
def imports(name: str, source: str) -> tuple[Import, ...]:
    """Return the imports of a module; a name imported from a package may itself be a module."""
    found = []
    nodes: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    for node, inside in nodes:
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append(Import(inner if inner in MODULES else base, node.lineno, inside))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        nodes += [(child, inside) for child in ast.iter_child_nodes(node)]
    return tuple(sorted(found, key=lambda each: each.line))


def problems(name: str, source: str) -> list[str]:
    """Say everything that a module's imports do and may not."""
    if folder(name) not in MAY_IMPORT:
        return [f"{name} has no layer: add its folder to MAY_IMPORT in {Path(__file__).name}"]
    found = []
    for each in imports(name, source):
        where = f"{name}:{each.line} imports {each.target}"
        top = each.target.partition(".")[0]
        if name not in ONLY_IMPORTERS.get(top, {name}):
            found.append(f"{where}, which only {' and '.join(sorted(ONLY_IMPORTERS[top]))} may")
        if top == "torch" and name.startswith("app"):
            found.append(f"{where}: the service runs without torch")
        if top not in ("app", "model") or (name, each.target) in ALLOWED:
            continue
        may = MAY_IMPORT[folder(name)] | {folder(name)}
        if not {folder(each.target), each.target} & may:
            found.append(f"{where}, which is not below it")
        if each.inside_function and name not in IMPORT_LATE:
            found.append(f"{where} inside a function: import it at the top")
    return found


def circle(below: dict[str, set[str]]) -> list[str]:
    """Return the names that import each other in a circle; none is as it should be."""
    done: set[str] = set()
    while remaining := [name for name in below if name not in done]:
        free = [name for name in remaining if below[name] <= done]
        if not free:
            return remaining
        done.update(free)
    return []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_stands_below_it(name: str) -> None:
    """Every module has a layer, and imports what that layer may."""
    assert problems(name, MODULES[name].read_text()) == []


def test_folders_do_not_import_each_other_in_a_circle() -> None:
    """The table itself points down: following it never leads back."""
    below = {name: {folder(each) for each in may} - {name} for name, may in MAY_IMPORT.items()}
    assert circle(below) == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Inside the folders too."""
    found = {
        name: {each.target for each in imports(name, path.read_text())} & MODULES.keys() - {name}
        for name, path in MODULES.items()
    }
    assert circle(found) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("app.features.spec", "from app.scoring.scorer import Scorer", "not below it"),
        ("app.features.spec", "from app.scoring import scorer", "not below it"),
        ("app.features.spec", "from ..scoring.scorer import Scorer", "not below it"),
        ("app.features.spec", "from ..scoring import scorer", "not below it"),
        ("app.features.spec", "import app.scoring.scorer", "not below it"),
        ("app.features.spec", "from app import main", "not below it"),
        ("model.config", "from app.workers.supervisor import supervise", "not below it"),
        ("app.main", "from model.data.reader import Reader", "not below it"),
        ("app.scoring.scorer", "from app.metrics.registry import Metrics", "not below it"),
        ("app.scoring.batcher", "import onnxruntime as ort", "only app.scoring.engine"),
        ("model.export.graph", "from onnxruntime import InferenceSession", "quantize may"),
        ("app.main", "from redis.asyncio import Redis", "only app.remote.link may"),
        ("app.scoring.engine", "import torch", "without torch"),
        ("model.training.fit", "from torchrec.distributed import x", "only model.sharding"),
        ("app.main", "def main():\n    from app.web import asgi", "inside a function"),
        ("app.elsewhere.module", "", "has no layer"),
    ],
)
def test_a_wrong_import_is_found(name: str, source: str, complaint: str) -> None:
    """Each rule sees the import that breaks it, however it is written."""
    [problem] = problems(name, source)
    assert complaint in problem


def test_right_imports_pass() -> None:
    """Imports that the table allows are not complained about, nor are other libraries."""
    source = (
        "import numpy\nimport onnxruntime\nfrom app.bundle.bundle import Bundle\n"
        "from app import errors"
    )
    assert problems("app.scoring.engine", source) == []


def test_a_circle_is_found() -> None:
    """Two modules that import each other are both named, and what imports them."""
    assert circle({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]


def test_the_service_loads_neither_torch_nor_the_trainer() -> None:
    """A fresh interpreter that imports all of app/ has loaded no torch and nothing of model/."""
    names = [name for name in MODULES if name.startswith("app") and name != "app.__main__"]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'model'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
