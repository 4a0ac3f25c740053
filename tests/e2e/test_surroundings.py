"""A service as shells, containers and log collectors run it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from app.metrics.processes import CPU, GAUGES
from tests.conftest import PATIENT_MS, StartService
from tests.support.processes import children
from tests.support.programs import program
from tests.support.samples import Sample
from tests.support.serving import APP, ROOT, environment, free_port, wait_until, workers_of
from tests.support.starting import start
from tests.support.surrounded_service import surrounded

pytestmark = pytest.mark.e2e
SHELL = ("sh", "-c")
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
PIPE_BYTES = 4096
DESCRIPTORS = 64
MEMORY = "process_resident_memory_bytes"


def in_namespace() -> bool:
    """Return whether this machine lets a process have process ids of its own."""
    if shutil.which(NAMESPACE[0]) is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


@contextmanager
def full_pipe(directory: Path) -> Iterator[tuple[Path, Callable[[], bytes]]]:
    """A named pipe that has no room; the function returns all that could be read until now."""
    path = directory / "log"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    found = bytearray()

    def read() -> bytes:
        with suppress(BlockingIOError):
            found.extend(os.read(end, PIPE_BYTES))
        return bytes(found)

    try:
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.write(end, b"x" * PIPE_BYTES)
        yield path, read
    finally:
        os.close(end)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_is_not_read_holds_nothing_up(
    start_service: StartService, sample: Sample, tmp_path: Path, workers: int
) -> None:
    """With a full pipe as standard error it starts, scores, and answers every endpoint."""
    with full_pipe(tmp_path) as (path, read):
        service = start_service(
            program=surrounded("--errors", path), workers=workers, log_level="debug"
        )
        for _ in range(20):
            service.predict(sample.rows[:1])
            assert service.client.get("/live").status_code == 200
        assert service.metrics()["ctr_dropped_log_lines_total"] == 0, "there was room in memory"
        assert read() == b"x" * PIPE_BYTES, "nothing of the log was written"
        wait_until(lambda: b"ready: bundle" in read(), "the lines are written once they are read")


@pytest.mark.parametrize("workers", [1, 2])
def test_it_ends_though_its_log_is_not_read(
    start_service: StartService, tmp_path: Path, workers: int
) -> None:
    """SIGTERM ends it with exit code 0; the last lines are waited for a second at most."""
    with full_pipe(tmp_path) as (path, _):
        service = start_service(program=surrounded("--errors", path), workers=workers)
        assert service.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_children_of_its_shell_are_reaped(
    start_service: StartService, sample: Sample, workers: int
) -> None:
    """``sh -c 'sleep 1 & exec python -m app'``: the end of ``sleep`` is not that of the service."""
    # By a real shell's exec, as in the next test: what such a process is, all the others take over.
    program = (*SHELL, 'sleep 1 & sleep 2 & exec "$0" "$@"', *APP)
    service = start_service(program=program, workers=workers)
    expected = 0 if workers == 1 else workers
    wait_until(lambda: len(workers_of(service)) == expected, "the others are reaped", 60)
    service.predict(sample.rows[:1])
    assert service.stop() == 0


@pytest.mark.skipif(not in_namespace(), reason="unshare --pid is not there or not permitted")
@pytest.mark.parametrize("workers", [1, 2])
def test_orphans_are_reaped_by_process_1(
    start_service: StartService, sample: Sample, workers: int
) -> None:
    """As process 1 of a container it gets every orphan, and leaves no zombie; SIGTERM drains."""
    program = (*NAMESPACE, *SHELL, '(sleep 1 &); (sleep 2 &); exec "$0" "$@"', *APP)
    service = start_service(program=program, workers=workers)
    (first,) = children(service.process.pid)
    expected = 0 if workers == 1 else workers
    wait_until(lambda: len(children(first)) == expected, "orphans are reaped", 60)
    service.predict(sample.rows[:1])
    os.kill(first, signal.SIGTERM)
    assert service.exit_code() == 0


def test_a_worker_is_replaced_after_a_child_has_ended(
    start_service: StartService, sample: Sample
) -> None:
    """The supervisor passes over the child and goes on to watch its workers."""
    service = start_service(program=surrounded("--child", 0.5), workers=2)
    wait_until(lambda: len(workers_of(service)) == 2, "the other child is reaped", 60)
    gone = workers_of(service)[0]
    os.kill(gone, signal.SIGKILL)
    wait_until(
        lambda: len(workers_of(service)) == 2 and gone not in workers_of(service), "replaced", 60
    )
    service.predict(sample.rows[:1])


def curl(*words: str) -> str:
    """Return what curl prints; nothing if it cannot connect."""
    return subprocess.run([program("curl"), "-s", *words], capture_output=True, text=True).stdout


def wait_ready(log: Path, *words: str) -> None:
    """Wait until curl is told that a service is ready; only once its log says so, as a process of
    curl each time would take more than the service does."""
    wait_until(lambda: "ready: bundle" in log.read_text(), "it says that it is ready", 60)
    wait_until(lambda: '"ready"' in curl(*words), "it is ready", 60)


@contextmanager
def running(words: Sequence[str], log: Path) -> Iterator[None]:
    """A service in a process of its own, which ends with 0 after SIGTERM."""
    with log.open("wb") as file:
        process = start(words, environment({"CTR_DEADLINE_MS": str(PATIENT_MS)}), None, file)
    try:
        yield
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_serves(
    tiny_bundle: Path, sample: Sample, tmp_path: Path, workers: int
) -> None:
    """curl over a Unix socket is answered as over TCP; the file is gone at the end."""
    path = tmp_path / "ctr.sock"
    words = [*APP, "--bundle", str(tiny_bundle), "--workers", str(workers)]
    with running([*words, "--host", f"unix:{path}"], tmp_path / "log"):
        there = ("--unix-socket", str(path))
        wait_ready(tmp_path / "log", *there, "http://ctr/ready")
        body = json.dumps({"instances": sample.rows[:3]})
        json_body = ("-H", "content-type: application/json", "-d", body)
        found = json.loads(curl(*there, *json_body, "http://ctr/predict"))
        assert len(found["predictions"]) == 3
        assert "ctr_requests_total" in curl(*there, "http://ctr/metrics")
    assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_socket_that_systemd_passes_is_used(
    tiny_bundle: Path, tmp_path: Path, workers: int
) -> None:
    """It is served in place of host and port, by any number of workers."""
    port = free_port()
    words = ["--bundle", str(tiny_bundle), "--workers", str(workers), "--port", "1"]
    with running([*surrounded("--socket", port), *words], tmp_path / "log"):
        wait_ready(tmp_path / "log", f"http://127.0.0.1:{port}/ready")
        listening = f"listening on http://127.0.0.1:{port}"
        wait_until(lambda: listening in (tmp_path / "log").read_text(), "it says where it listens")


@pytest.mark.parametrize("workers", [1, 2])
def test_signals_of_tools_do_no_harm(
    start_service: StartService, sample: Sample, workers: int
) -> None:
    """Without a terminal SIGHUP, SIGUSR1 and SIGUSR2 do nothing to any process of the service."""
    service = start_service(program=surrounded("--session"), workers=workers)
    before = [service.process.pid, *workers_of(service)]
    for pid in before:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
    for _ in range(20):
        service.predict(sample.rows[:1])
    assert [service.process.pid, *workers_of(service)] == before
    assert not any("ended" in event["message"] for event in service.events())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_closed_terminal_drains(tiny_bundle: Path, tmp_path: Path, workers: int) -> None:
    """The service of a terminal that is closed ends as after SIGTERM: with exit code 0."""
    port, log = free_port(), tmp_path / "log"
    terminal, end = os.openpty()
    words = ["--bundle", str(tiny_bundle), "--workers", str(workers), "--port", str(port)]
    with log.open("wb") as file:
        program = surrounded("--terminal", os.ttyname(end))
        process = start([*program, *words], environment(), None, file)
    try:
        wait_ready(log, f"http://127.0.0.1:{port}/ready")
        os.close(end)
        os.close(terminal)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_are_measured(start_service: StartService, workers: int) -> None:
    """/metrics has memory, descriptors, start and CPU time of every process of the service."""
    service = start_service(workers=workers)
    processes = [service.process.pid, *workers_of(service)]
    found = service.metrics()
    for name in (*GAUGES, f"{CPU}_total"):
        shown = [value for sample, value in found.items() if sample.startswith(f"{name}{{")]
        assert len(shown) == len(processes), name
        assert min(shown) > 0, name
    memory = sum(value for name, value in found.items() if name.startswith(f"{MEMORY}{{"))
    assert memory > 2**20 * len(processes)


def test_the_end_of_descriptors_is_told(
    start_service: StartService, tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """One line says so, no bundle and no CURRENT is blamed, and it passes with its cause."""
    directory = tmp_path / "bundles"
    shutil.copytree(tiny_bundle, directory / tiny_bundle.name)
    # Otherwise idle connections are closed before descriptors run out.
    service = start_service(
        directory, program=surrounded("--descriptors", DESCRIPTORS), bundle_poll_seconds=0.1,
        max_connections=10 * DESCRIPTORS,
    )  # fmt: skip
    callers = []
    try:
        while "out of file descriptors" not in service.log():
            callers.append(socket.create_connection(("127.0.0.1", service.port), 30))
            assert len(callers) < 10 * DESCRIPTORS
            time.sleep(0.02)
    finally:
        for caller in callers:
            caller.close()
    wait_until(lambda: service.client.get("/live").status_code == 200, "it answers again", 30)
    service.predict(sample.rows[:1])
    told = [event for event in service.events() if event["level"] == "error"]
    assert ["out of file descriptors" in event["message"] for event in told] == [True]
    assert f"{DESCRIPTORS} are allowed" in told[0]["message"]


def test_nothing_is_written_at_home(tmp_path: Path) -> None:
    """onnxruntime has a database there, unless it is told to send no telemetry."""
    told = environment({"HOME": str(tmp_path)})
    env = {name: told[name] for name in told.keys() - {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}}
    subprocess.run(
        [sys.executable, "-c", "import app.scoring.engine"], cwd=ROOT, env=env, check=True
    )
    assert list(tmp_path.iterdir()) == []
