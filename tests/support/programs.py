"""Programs that tests run where they are installed: proxies, clients, other servers."""

from __future__ import annotations

import os
import shutil

import pytest

SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
"""Folders of servers, which are not on the path of every user."""


def installed(name: str) -> str | None:
    """Return the path of a program, or None without it."""
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *SYSTEM_FOLDERS]))


def program(name: str) -> str:
    """Return the path of an installed program; skip the test, by the program's name, without it.

    ``.ci/run`` installs what tests ask for; ``scripts/test`` installs nothing.
    """
    found = installed(name)
    if found is None:
        pytest.skip(f"program not installed: {name}")
    return found
