"""A pytest plugin: the tests of a new checkout are compiled once, not by each process of a run.

All processes import the same modules in one order: side by side each of them would rewrite the
assertions of all tests and compile all libraries. Here each begins with other libraries and takes
the tests in an order of its own, and finds most of them compiled by the others.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

# Nothing public rewrites a file without running it; a test has pytest read what is written here.
from _pytest.assertion import rewrite

from tests.support.selection import left_out

LIBRARIES = (
    ("torch",),
    ("matplotlib.figure", "polars", "optuna"),
    ("fastapi", "redis.asyncio", "onnx", "hypothesis", "httpx", "pyarrow.parquet"),
)
"""What takes longest to compile, in parts of about one length."""
MANY = 100
"""Files without bytecode from which on a checkout counts as new."""


def pytest_collection(session: pytest.Session) -> None:
    """Compile a share of the tests, as one of several processes of a run."""
    config = session.config
    if hasattr(config, "workerinput") and not sys.dont_write_bytecode:
        found = (file for place in config.args for file in sorted(Path(place).rglob("test_*.py")))
        files = [file.resolve() for file in found]
        compile_a_share(config, files, int(config.workerinput["workerid"].removeprefix("gw")))


def compile_a_share(config: pytest.Config, files: Sequence[Path], worker: int) -> None:
    """Compile libraries and files of tests until all files are compiled, here or elsewhere."""
    missing = [file for file in files if not compiled(file).exists()]
    missing = [file for file in missing if not left_out(file, config)]
    if len(missing) < MANY:
        return
    for library in LIBRARIES[worker % len(LIBRARIES)]:
        importlib.import_module(library)
    random.Random(worker).shuffle(missing)
    for file in missing:
        if not compiled(file).exists():
            rewrite_assertions(config, file)


def compiled(file: Path) -> Path:
    """Return where pytest keeps the bytecode of a file whose assertions it has rewritten."""
    return rewrite.get_cache_dir(file) / (file.stem + rewrite.PYC_TAIL)


def rewrite_assertions(config: pytest.Config, file: Path) -> None:
    """Write the bytecode that pytest writes as it imports a file of tests.

    A file that cannot be compiled is left to the import, which tells of it.
    """
    try:
        source_hash, code = rewrite._rewrite_test(file, config)
    except SyntaxError:
        return
    if rewrite.try_makedirs(compiled(file).parent):
        state = config.stash[rewrite.assertstate_key]
        rewrite._write_pyc(state, code, source_hash, compiled(file))
