"""What tests import before they fork a program is there, and starts no thread of onnxruntime."""

from __future__ import annotations

import subprocess
import sys

from tests.support.starting import IMPORTS, ROOT


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
