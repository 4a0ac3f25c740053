"""Child processes that end with the process that started them, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_LAUNCH = """
import ctypes, os, sys
parent, *words = sys.argv[1:]
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: survives exec, needs no cooperation
if os.getppid() == int(parent):
    os.execvp(words[0], words)
"""


def ending_with_us(words: Sequence[str]) -> list[str]:
    """Return a command line that runs ``words`` and is killed when this process is gone.

    The process id stays the same: the launcher replaces itself by the program. On systems other
    than Linux the program runs as it is.
    """
    return [sys.executable, "-S", "-c", _LAUNCH, str(os.getpid()), *words]
