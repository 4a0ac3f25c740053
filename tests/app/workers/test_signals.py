"""Signals that come when the service has ended already."""

from __future__ import annotations

import subprocess
import sys

from tests.support.serving import ROOT

ENDED = """
import os, signal
from app.workers.signals import ignore_stops

ignore_stops()
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(os.getpid(), number)
"""


def test_another_signal_to_end_leaves_the_exit_code() -> None:
    """A supervisor that asks twice sees a clean end."""
    done = subprocess.run([sys.executable, "-c", ENDED], cwd=ROOT, check=False)
    assert done.returncode == 0
