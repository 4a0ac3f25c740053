"""scripts/demo fits a screen, and says what to do where it cannot work."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from model.fetch import MOVIELENS_REQUIREMENT, DownloadFailed, fetch
from tests.support.registry import skip_without_registry
from tests.support.serving import ROOT, free_port, wait_until

pytestmark = pytest.mark.e2e

SCREEN = 24
COLUMNS = 100


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with the demo and all that it needs, whose environment is this one."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("demo", "demo_ranking.py", "demo_store.py"):
        shutil.copy(ROOT / "scripts" / name, scripts)
    environment = scripts / "environment"
    environment.write_text("#!/bin/sh\n")
    environment.chmod(0o755)
    for name in ("app", "model", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    python = programs / "python"
    # A link to it would look for its packages beside the link.
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return tmp_path


def demo(checkout: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end; both streams come as they would on a screen."""
    return subprocess.run(
        [checkout / "scripts" / "demo", *arguments],
        env=os.environ | {"PYTHONPATH": str(checkout)} | variables,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.network
@pytest.mark.timeout(300)
def test_a_run_fits_a_screen_and_explains_its_figures(checkout: Path) -> None:
    """24 lines of 100 columns, none of them from a library, lead to five titles and a curl that
    gives the same ranking.
    """
    try:
        fetch("movielens-100k", checkout / "data")
    except DownloadFailed:
        skip_without_registry(MOVIELENS_REQUIREMENT, checkout / "by-hand")
        raise
    # A tenth of the ratings is enough to learn from, and to see the output.
    ratings = checkout / "data" / "movielens-100k" / "ratings.csv"
    ratings.write_text("".join(ratings.read_text().splitlines(keepends=True)[:10_001]))
    process = subprocess.Popen(
        [checkout / "scripts" / "demo", "--port", str(free_port())],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    output = ""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            output += line
            if "serving until Ctrl-C" in line:
                break
        [by_hand] = re.findall(r"^curl --json .*", output, re.M)
        told = subprocess.run(["bash", "-c", by_hand], capture_output=True, check=True).stdout
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0, output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    scores = [f"{each['score']:.3f}" for each in json.loads(told)["ranking"]]
    assert re.findall(r"^    \d\. (0\.\d{3})  \w", output, re.M) == scores
    assert len(scores) == 5
    # On a slow machine more of them come.
    lines = [line for line in output.splitlines() if not line.startswith("training: ")]
    known = re.compile(
        r"\[ *\d+ s\] |    |read and encoded: |trained in |parity: |(train|validation|test): AUC 0"
        "|warning: no training row lacks user_id|curl --json "
    )
    assert [line for line in lines if not known.match(line)] == []
    assert len(lines) <= SCREEN - 3, "room for two lines of scripts/environment, one of progress"
    assert max(map(len, lines)) <= COLUMNS
    assert "0.5 is chance" in output
    assert "score: probability of a click" in output


def test_a_port_in_use_is_told_at_once(checkout: Path) -> None:
    """Nothing is trained for a service that could not listen; another port is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo(checkout, "--port", str(port))
    assert done.returncode == 1
    [line] = done.stdout.splitlines()
    assert line.startswith(f"demo: port {port} is in use")
    assert f"--port {port + 1}" in line


def test_without_a_network_it_says_what_to_do(checkout: Path, tmp_path: Path) -> None:
    """Where nothing can be downloaded, one line says so, with the command to try."""
    done = demo(checkout, "--port", str(free_port()), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    *steps, line = done.stdout.splitlines()
    assert all(re.match(r"\[ *\d+ s\] ", step) for step in steps), done.stdout
    assert line.startswith("error: pip could not download")
    assert "network" in line


@pytest.mark.parametrize("argument", ["--help", "--port", "--port=8001"])
def test_usage(checkout: Path, argument: str) -> None:
    """An unknown argument is answered with the known ones."""
    done = demo(checkout, argument)
    assert (done.returncode, done.stdout) == (
        2,
        "usage: scripts/demo [--once] [--redis] [--port PORT]\n",
    )


def test_ctrl_c_ends_it_with_a_line(checkout: Path) -> None:
    """Interrupted in any step, it says how to go on, and leaves no process behind."""
    (checkout / "scripts" / "environment").write_text("#!/bin/sh\ntouch begun\nexec sleep 60\n")
    process = subprocess.Popen(
        [checkout / "scripts" / "demo", "--port", str(free_port())],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: (checkout / "begun").exists(), "the first step has begun")
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert output.splitlines()[-1] == "demo: interrupted; scripts/demo continues with what is there"
