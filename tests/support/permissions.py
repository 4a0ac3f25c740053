"""A service that permissions hold for: root's processes may read everything otherwise."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.serving import APP

_BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Runs a program that, even as root, may read only what the permissions let its user read."""

if os.geteuid() == 0 and shutil.which("setpriv") is None:
    pytest.skip("root needs setpriv (util-linux) to be refused a file", allow_module_level=True)
BOUND_APP = (*_BOUND, *APP) if os.geteuid() == 0 else tuple(APP)
