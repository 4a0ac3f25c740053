"""A supervisor replaces workers that die, and ends all of them when it is told to."""

from __future__ import annotations

import operator
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.serving import ROOT, wait_until

until = partial(wait_until, seconds=60.0)

SCRIPT = """
import logging, os, signal, stat, sys, time
from app.workers import supervisor
from app.workers.shared_numbers import SharedNumbers
from app.workers.listeners import Listeners
from app.workers.supervisor import Supervisor

def work(worker):
    # A worker takes signals as soon as it can: here the default action.
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
{work}

logging.basicConfig(level=logging.INFO, format="%(message)s")
{patches}
shared = SharedNumbers({workers})
listeners = Listeners("127.0.0.1", 0, {workers})
sys.exit(Supervisor(listeners.of_worker, shared, work, drain_seconds=0.1).run())
"""
SLEEP = """
    worker.shared.set_ready()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # In one piece: others write there, too.
    os.write(1, f"{worker.number} {os.getpid()}\\n".encode())
    # Short sleeps: Python handles a signal that comes just before one after it.
    for _ in range(600):
        time.sleep(0.1)
    return 0
"""


class Supervised:
    """A supervisor in a process of its own: its standard output and log."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self._out, self._log = directory / "out", directory / "log"

    def log(self) -> str:
        return self._log.read_text()

    def pids(self) -> dict[int, int]:
        """The process ids of the workers that have said so, by number; the latest of each."""
        found = {}
        told = self._out.read_text()
        # A worker may be about to write the last line.
        for line in told[: told.rfind("\n") + 1].splitlines():
            number, pid = map(int, line.split())
            found[number] = pid
        return found

    def pauses(self) -> list[float]:
        """The seconds before each successor, as the log tells them."""
        return [float(each) for each in re.findall(r"starts in ([0-9.]+) s", self.log())]


@contextmanager
def supervised(
    directory: Path, work: str, workers: int = 1, program: tuple[str, ...] = (), **patches: float
) -> Iterator[Supervised]:
    """Run a supervisor over workers that do this, with other constants."""
    lines = "\n".join(f"supervisor.{name} = {value!r}" for name, value in patches.items())
    script = SCRIPT.format(work=work, patches=lines, workers=workers)
    with (directory / "out").open("wb") as out, (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*program, sys.executable, "-c", script], cwd=ROOT, stdout=out, stderr=log
        )
    found = Supervised(process, directory)
    try:
        yield found
    finally:
        if process.poll() is None:
            for pid in found.pids().values():
                kill(pid)
            process.kill()
        process.wait()


def kill(pid: int) -> None:
    """Kill a worker, which may be gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_with_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to end reaches every worker; when all have ended well, so does the supervisor."""
    with supervised(tmp_path, SLEEP, workers=2) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        service.process.send_signal(number)
        assert (service.process.wait(30), service.log()) == (0, "")


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """Its successor has its number, and starts at once."""
    with supervised(tmp_path, SLEEP, workers=2) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        before = service.pids()
        os.kill(before[1], signal.SIGKILL)
        until(lambda: service.pids()[1] != before[1], "a successor runs")
        assert service.pids()[0] == before[0]
        assert service.pauses() == [0]
        assert "worker 2 ended by signal 9" in service.log()


@pytest.mark.parametrize("children", ["sleep 0.2 & sleep 0.4", "true"], ids=["later", "before"])
def test_children_that_are_no_workers_are_passed_over(tmp_path: Path, children: str) -> None:
    """Children of the shell that became the supervisor end, and leave nothing behind; those too
    that ended before it could be told."""
    shell = ("sh", "-c", f'{children} & exec "$0" "$@"')
    with supervised(tmp_path, SLEEP, workers=2, program=shell) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        parent = service.process.pid
        left = Path(f"/proc/{parent}/task/{parent}/children")
        until(lambda: len(left.read_text().split()) == 2, "only workers are left")
        before = service.pids()[0]
        os.kill(before, signal.SIGKILL)
        until(lambda: service.pids()[0] != before, "a worker is replaced as before")
        service.process.terminate()
        assert service.process.wait(30) == 0


def test_workers_that_die_again_wait_longer(tmp_path: Path) -> None:
    """Pauses double from the second failure in a row on, up to the longest."""
    dies = """
    os.write(2, f"begun {time.monotonic()}\\n".encode())
    worker.shared.set_ready()
    return 1
"""
    with supervised(tmp_path, dies, FIRST_PAUSE=0.1, LONGEST_PAUSE=0.3) as service:
        until(lambda: len(service.pauses()) >= 5, "five workers died")
        assert service.pauses()[:5] == [0.0, 0.1, 0.2, 0.3, 0.3]
        begun = [float(each) for each in re.findall(r"begun ([0-9.]+)\n", service.log())]
        waited = [later - earlier for earlier, later in pairwise(begun)]
        assert len(waited) >= 4
        assert all(map(operator.ge, waited, (0.0, 0.1, 0.2, 0.3))), "as long as they say"


@pytest.mark.slow
def test_a_steady_worker_is_forgiven(tmp_path: Path) -> None:
    """The successor of a worker that lived long starts at once, however many died before."""
    dies = "    worker.shared.set_ready()\n    time.sleep(0.3)\n    return 1\n"
    with supervised(tmp_path, dies, STEADY_SECONDS=0.2, FIRST_PAUSE=30.0) as service:
        until(lambda: len(service.pauses()) >= 4, "four workers died")
        assert set(service.pauses()) == {0}


def test_a_failure_at_the_start_ends_the_service(tmp_path: Path) -> None:
    """While not all workers have been ready, an error of one is the exit code of all."""
    first_fails = f"    if worker.number == 0:\n        return 3\n{SLEEP}"
    with supervised(tmp_path, first_fails, workers=2) as service:
        assert service.process.wait(30) == 1
        assert "worker 1 ended with exit code 3 before the service was ready" in service.log()
        assert "successor" not in service.log()


def test_a_worker_that_handles_no_signal_yet_ends_at_once(tmp_path: Path) -> None:
    """The supervisor's own handlers are not its worker's: one that still loads need not drain."""
    loads = SLEEP.replace("signal.signal(signal.SIGTERM, lambda *_: os._exit(0))", "pass")
    with supervised(tmp_path, loads, GRACE_SECONDS=60.0) as service:
        until(lambda: service.pids(), "the worker runs")
        service.process.terminate()
        assert service.process.wait(30) == 1
        assert "worker 1 ended by signal 15" in service.log()


def test_workers_that_do_not_drain_are_killed(tmp_path: Path) -> None:
    """Stopped ones cannot drain, and none of them ends: the supervisor does after the drain time
    and a grace."""
    with supervised(tmp_path, SLEEP, workers=2, GRACE_SECONDS=0.2) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        for pid in service.pids().values():
            os.kill(pid, signal.SIGSTOP)
        service.process.terminate()
        assert service.process.wait(30) == 1
        for number in (1, 2):
            assert f"worker {number} ended by signal 9" in service.log()


def test_an_error_while_it_drains_is_the_services(tmp_path: Path) -> None:
    """A worker that does not end well is told in the log, and seen in the exit code."""
    fails = SLEEP.replace("os._exit(0)", "os._exit(3)")
    with supervised(tmp_path, fails) as service:
        until(lambda: service.pids(), "the worker runs")
        service.process.terminate()
        assert service.process.wait(30) == 1
        assert service.log() == "worker 1 ended with exit code 3\n"


def test_a_worker_has_its_own_sockets_and_is_told_twice(tmp_path: Path) -> None:
    """No other worker has them, so that nothing listens once it has closed them to drain; at the
    second signal it need not drain any more."""
    drains = """
    told = []
    def tell(*_):
        told.append(worker.number)
        for each in worker.listeners:
            each.close()
        os.write(2, b"told\\n")
        if len(told) == 2:
            os._exit(0)
    signal.signal(signal.SIGTERM, tell)
    held = 0
    for number in range(100):
        try:
            held += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            pass
    port = worker.listeners[0].getsockname()[1]
    os.write(2, f"port {port}, sockets {held} of {len(worker.listeners)}\\n".encode())
    worker.listeners[0].listen()
    worker.shared.set_ready()
    os.write(1, f"{worker.number} {os.getpid()}\\n".encode())
    while True:
        time.sleep(0.1)
"""
    with supervised(tmp_path, drains, workers=2, GRACE_SECONDS=60.0) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        said = re.findall(r"port (\d+), sockets (\d+) of (\d+)", service.log())
        (port,) = {int(port) for port, _, _ in said}
        assert [(held, own) for _, held, own in said] == [("1", "1")] * 2
        socket.create_connection(("127.0.0.1", port), 10).close()
        service.process.terminate()
        until(lambda: service.log().count("told") == 2, "both drain")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)
        assert service.process.poll() is None
        service.process.terminate()
        assert service.process.wait(30) == 0
        assert service.log().count("told") == 4


def test_of_what_ends_a_worker_at_its_start_errors_alone_end_the_service(tmp_path: Path) -> None:
    """What kills it, too little memory for one, may pass, and an end without an error is none."""
    lives = tmp_path / "lives"
    lives.mkdir()
    work = f"""
    lives = len(os.listdir({str(lives)!r}))
    open(f"{lives}/{{lives}}", "x").close()
    if lives == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if lives == 1:
        return 0
    raise RuntimeError("of its own")
"""
    with supervised(tmp_path, work, FIRST_PAUSE=0.1) as service:
        assert service.process.wait(30) == 1
        log = service.log()
        assert "worker 1 ended by signal 9; its successor starts in 0.0 s" in log
        assert "worker 1 ended with exit code 0; its successor starts in 0.1 s" in log
        assert "worker 1 failed" in log
        assert "RuntimeError: of its own" in log
        assert "worker 1 ended with exit code 1 before the service was ready" in log


def test_a_worker_has_its_own_row_of_the_shared_numbers(tmp_path: Path) -> None:
    """Its successor goes on with that, and counts as a restart."""
    tells = """
    shared = worker.shared
    os.write(2, f"row {worker.number} {shared.worker} {shared.restarts}\\n".encode())
"""
    with supervised(tmp_path, tells + SLEEP, workers=2) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        before = service.pids()
        os.kill(before[1], signal.SIGKILL)
        until(lambda: service.pids()[1] != before[1], "a successor runs")
        rows = re.findall(r"row (\d) (\d) (\d)", service.log())
        assert sorted(rows) == [("0", "0", "0"), ("1", "1", "0"), ("1", "1", "1")]


def test_workers_notice_that_the_supervisor_is_gone(tmp_path: Path) -> None:
    """However it ended: no worker keeps its end of the pipe open."""
    watches = """
    import select
    worker.shared.set_ready()
    os.write(1, f"{worker.number} {os.getpid()}\\n".encode())
    noticed, _, _ = select.select([worker.alive], [], [], 120)
    os.write(2, b"alone\\n" * len(noticed))
    return 0
"""
    with supervised(tmp_path, watches, workers=2) as service:
        until(lambda: len(service.pids()) == 2, "both workers run")
        assert "alone" not in service.log()
        service.process.kill()
        until(lambda: service.log().count("alone") == 2, "both notice it")


def test_a_worker_begins_apart(tmp_path: Path) -> None:
    """Signals wait until it has handlers, those of a terminal are for the supervisor alone, and
    its collector leaves alone what was in memory before."""
    tells = """
    import gc
    waiting = " ".join(signal.Signals(number).name for number in blocked)
    os.write(2, f"{waiting} wait, {gc.get_freeze_count()} are frozen\\n".encode())
"""
    with supervised(tmp_path, tells + SLEEP) as service:
        until(lambda: service.pids(), "the worker runs")
        (pid,) = service.pids().values()
        assert os.getpgid(pid) == pid
        told = re.search(r"(.*) wait, (\d+) are frozen", service.log())
        assert told is not None
        assert {"SIGTERM", "SIGINT", "SIGHUP"} <= set(told[1].split())
        assert int(told[2]) > 0


def test_the_last_line_of_a_worker_is_written(tmp_path: Path) -> None:
    """It says why the worker ended, and is written in the background, here as late as can be."""
    work = """
    from app import logs
    logs.FLUSH_SECONDS = 60.0
    logs.set_up("info")
    sys.setswitchinterval(60.0)
    logging.getLogger("test").error("of its own")
    return 1
"""
    with supervised(tmp_path, work) as service:
        assert service.process.wait(30) == 1
        assert '"message": "of its own"' in service.log()
