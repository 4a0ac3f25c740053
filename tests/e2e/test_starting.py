"""Programs that tests start: forked ones are processes like others, and none outlives its test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import starting
from tests.support.processes import children, runs
from tests.support.serving import ROOT, Service, environment, wait_until

pytestmark = pytest.mark.e2e

TEST = """\
from pathlib import Path
from threading import Event

from tests.support.redis_server import RedisServer
from tests.support.serving import APP, Service


def test_never_ends() -> None:
    bundle, found = Path({bundle!r}), Path({found!r})
    programs = [APP, ("env", *APP)]
    services = [Service(bundle, found.parent / "log", program=each, workers=2) for each in programs]
    for service in services:
        service.wait_ready()
    with RedisServer() as redis:
        numbers = [redis.pid, *(service.process.pid for service in services)]
        found.with_suffix(".new").write_text(" ".join(map(str, numbers)))
        found.with_suffix(".new").rename(found)
        Event().wait()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_a_killed_pytest_leaves_nothing_behind(tiny_bundle: Path, tmp_path: Path) -> None:
    """After SIGKILL of pytest its services end with their workers, forked or not; so does Redis."""
    file, found = tmp_path / "test_once.py", tmp_path / "found"
    file.write_text(TEST.format(bundle=str(tiny_bundle), found=str(found)))
    plain = ("-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}")
    words = [sys.executable, "-m", "pytest", *plain, "-o", f"pythonpath={ROOT}", str(file)]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(words, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_until(lambda: found.exists() or process.poll() is not None, "all are started", 240)
        assert process.poll() is None, (tmp_path / "output").read_text()
        started = [int(word) for word in found.read_text().split()]
        left = [*started, *(each for pid in started for each in children(pid))]
        assert len(left) == 3 + 2 * 2
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(runs, left)), "all have ended", 30)


def test_a_forked_program_is_a_process_like_others(tmp_path: Path) -> None:
    """It has its arguments, environment, streams, limit and exit code, and ends by its signals."""
    done = starting.run("app", "--version", env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    other = subprocess.run(
        [sys.executable, "-m", "app", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == other.stdout
    done = starting.run("app", "--nothing")
    assert done.returncode == 2
    assert "--nothing" in done.stderr
    done = starting.run("app", env=environment({"CTR_PORT": "none"}))
    assert done.returncode != 0
    assert "port" in done.stderr.lower()

    program = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with (tmp_path / "out").open("wb") as out:
        process = starting.start(program, os.environ, out, out)
    assert isinstance(process, starting.Forked)
    wait_until(lambda: b"Traceback" not in (tmp_path / "out").read_bytes(), "it runs")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.poll() is None
    assert os.getsid(process.pid) == os.getsid(0)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == process.poll() == -signal.SIGKILL
    process.kill()


def test_a_script_s_python_forks_and_is_a_process_like_others(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """Output, input, directory and exit codes are its own; signals reach the program, which ends
    with it."""
    variables = starting.interpreter_that_forks(tmp_path / "python")
    env = environment(variables)
    python = str(tmp_path / "python")

    def done(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *words], cwd=tmp_path, env=env, pass_fds=starting.passed(env),
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    assert done("-c", "import sys; print(sys.prefix)").stdout.strip() == sys.prefix
    wrong = done("-m", "app", "--port", "none")
    assert wrong.returncode == 2
    assert "port" in wrong.stderr.lower()
    (tmp_path / "bundle").symlink_to(tiny_bundle)
    assert done("-m", "app", "--check", "bundle").returncode == 0

    for number, code in ((signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)):
        service = Service(tiny_bundle, tmp_path / "log", env, (python, "-m", "app"))
        service.wait_ready()
        service.process.send_signal(number)
        assert service.process.wait(60) == code
        wait_until(lambda port=service.port: not listens(port), "the program has ended", 30)
        service.client.close()


def listens(port: int) -> bool:
    """Return whether a program of this machine takes connections at a port."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_bytecode_is_kept_where_the_environment_says_to_write_none(tmp_path: Path) -> None:
    """Nothing is written beside the source; a process that is started then finds what is kept."""
    (tmp_path / "compiled.py").write_text("found = __cached__\n")
    program = """\
import subprocess, sys
from pathlib import Path
from tests.support import bytecode

bytecode.PLACE = Path(sys.argv[1]) / "kept"
bytecode.keep_bytecode()
import compiled

print(compiled.found)
subprocess.run([sys.executable, "-v", "-c", "import compiled"], check=True)
"""
    env = environment({"PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"})
    env.pop("PYTHONPYCACHEPREFIX", None)
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = Path(done.stdout.strip())
    assert kept.is_relative_to(tmp_path / "kept")
    assert kept.is_file()
    assert f"matches {tmp_path / 'compiled.py'}" in done.stderr
    assert not (tmp_path / "__pycache__").exists()
