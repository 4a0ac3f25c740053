"""Modules that tests name: those of prepared processes, and those that decide what is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.starting import IMPORTS, ROOT
from tests.support.trained import TRAINER, trainer_files


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
def test_the_trainer_s_files_are_all_that_it_loads() -> None:
    """What decides a kept bundle has every module of ours that a training has loaded, and none of
    the service alone."""
    files = {str(path) for path in trainer_files()}
    code = (
        f"import sys, {', '.join(TRAINER)}\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.partition('.')[0] in ('app', 'model'): print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    loaded = set(done.stdout.split("\n")) - {"", "None"}
    assert len(loaded) > 100, done.stderr
    assert loaded <= files
    assert not [path for path in files if "/app/web/" in path or "/app/serving/" in path]
