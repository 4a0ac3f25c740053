"""Modules that tests name: those of prepared processes, and those that decide what is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.starting import IMPORTS, ROOT
from tests.support.trained import EXPORTER, TRAINER, files_of


def test_prepared_modules_can_be_imported() -> None:
    """A module that was renamed would end every test that starts a service."""
    modules = IMPORTS["app"]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "assert not {'onnxruntime', 'polars'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("modules", "at_least"), [(TRAINER, 100), (EXPORTER, 30)])
def test_files_that_decide_are_all_that_is_loaded(modules: tuple[str, ...], at_least: int) -> None:
    """What decides a kept bundle, or a graph's template, has every module of ours that a training
    or an export has loaded, and none of the service alone."""
    files = {str(path) for path in files_of(modules)}
    code = (
        f"import sys, {', '.join(modules)}\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.partition('.')[0] in ('app', 'model'): print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split("\n")) - {"", "None"}
    assert len(loaded) > at_least, done.stderr
    assert loaded <= files
    assert not [path for path in files if "/app/web/" in path or "/app/serving/" in path]


def test_a_template_does_not_depend_on_how_data_are_read() -> None:
    """A change of the reader or of the loop leaves the graphs that the exporter has made."""
    others = ("/model/data/reader", "/model/training/", "/model/pipeline")
    files = [str(path) for path in files_of(EXPORTER)]
    assert not [path for path in files if any(other in path for other in others)]
