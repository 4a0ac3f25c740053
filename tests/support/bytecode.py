"""Compiled modules, kept for all processes of the tests and for the next run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PLACE = Path(__file__).resolve().parents[2] / ".pytest_cache" / "bytecode"


def keep_bytecode() -> None:
    """Keep bytecode below ``.pytest_cache`` where the environment says to write none.

    Python then compiles what a process imports each time: ten seconds of a test process, most of
    them torch's. Processes that tests start follow.
    """
    if sys.dont_write_bytecode and sys.pycache_prefix is None:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = str(PLACE)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
