"""Modules that tests name: those of prepared processes, and those that decide what is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.starting import IMPORTS, ROOT, THREADLESS
from tests.support.trained import TRAINER, files_of

PREPARED = """
import os, sys
from tests.support.fork_server import prepare
prepare(sys.argv[1:])
assert hasattr(sys.modules["onnxruntime"], "InferenceSession")
threads = os.listdir("/proc/self/task")
known = 1 + ("polars" in sys.modules)
assert len(threads) == known, "a fork would lack the others"
"""


@pytest.mark.parametrize("program", ["app", pytest.param("model", marks=pytest.mark.slow)])
def test_prepared_modules_can_be_imported(program: str) -> None:
    """A module that was renamed would end every test that starts a service. Nothing of a prepared
    process is left behind by a fork, but for the thread of polars that removes files."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARED, *IMPORTS[program]], cwd=ROOT,
        env={**os.environ, **THREADLESS}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_files_that_decide_are_all_that_is_loaded() -> None:
    """What decides a kept bundle has every module of ours that a training has loaded, and none of
    the service alone."""
    files = {str(path) for path in files_of(TRAINER)}
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
