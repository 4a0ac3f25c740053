"""The Redis server that the demo and the tests start ends with whoever started it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.serving import ROOT, wait_until

pytestmark = pytest.mark.e2e


def demo_line() -> str:
    """The line of scripts/demo that starts Redis."""
    lines = (ROOT / "scripts" / "demo").read_text(encoding="utf-8").splitlines()
    [found] = [line.strip() for line in lines if "tests.support.redis_server" in line]
    return found


@contextmanager
def shell(script: str) -> Iterator[subprocess.Popen[str]]:
    """A bash of its own process group, which is killed in the end."""
    process = subprocess.Popen(
        ["bash", "-c", f"set -eu\npython={shlex.quote(sys.executable)}\n{script}"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
        # Jobs in the background, this test run perhaps, are started without an interrupt.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def members(group: int) -> list[str]:
    """The command lines of a process group's living members."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(status.with_name("cmdline").read_text().replace("\0", " "))
    return found


def servers(group: int) -> list[str]:
    """The Redis servers of a process group, and the programs that keep them."""
    return [
        each for each in members(group)
        if not each.startswith("bash")
        and ("tests.support.redis_server" in each or "valkey" in each)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_the_server_ends_with_the_demo(name: str) -> None:
    """However the shell ends that runs the demo, its Redis is gone soon after."""
    serving = f'{demo_line()}\nread -r url <&3\necho "$url"\nsleep 600 &\nwait'
    with shell(serving) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("redis://127.0.0.1:")
        assert len(servers(process.pid)) == 2, "the program and its server"
        process.send_signal(signal.Signals[name])
        process.wait(60)
        wait_until(lambda: not servers(process.pid), "the server has ended", 30)


def test_the_server_ends_though_its_start_was_not_awaited() -> None:
    """A shell that is gone before the server runs leaves none behind."""
    with shell(f"{demo_line()}\nsleep 600 &\nwait") as process:
        wait_until(lambda: servers(process.pid) != [], "it is being started", 30)
        process.kill()
        process.wait(60)
        wait_until(lambda: not servers(process.pid), "nothing is left", 60)
