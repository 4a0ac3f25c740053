"""Modules that tests name: those of prepared processes, and those that decide what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.starting import ROOT, server_of
from tests.support.trained import TRAINER, files_of


@pytest.mark.parametrize("program", ["app", pytest.param("model", marks=pytest.mark.slow)])
def test_prepared_modules_can_be_imported(program: str, tmp_path: Path) -> None:
    """A module that was renamed would end every test that starts a service. Nothing of a prepared
    process is left behind by a fork, but for the thread of polars that removes files."""
    with Path(os.devnull).open("rb") as nothing, (tmp_path / "told").open("wb") as told:
        streams = [nothing.fileno(), told.fileno(), told.fileno()]
        forked = server_of(program).fork(["tests.contract.prepared_process"], os.environ, streams)
    assert forked.wait(60) == 0, (tmp_path / "told").read_text()


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
