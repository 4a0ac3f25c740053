"""Whole runs of the command against real servers, judged by exit code and report.

Own delays are allowed for where a test is not about them: it may run on a busy machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Sample, StartService
from tests.load.__main__ import main
from tests.support import starting
from tests.support.serving import ROOT, Service, free_port, wait_until
from tests.support.starting import Process

pytestmark = pytest.mark.e2e

PATIENT = ("--allowed-delay-ms", "1e6")


@contextmanager
def stub(*words: object) -> Iterator[tuple[str, Process]]:
    """A stub server and its address."""
    port = free_port()
    command = [sys.executable, "-m", "tests.load.tests.stub", str(port), *map(str, words)]
    process = starting.start(command, os.environ, None, None)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, "the stub ended"
        try:
            return posts(url) == 0
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, "the stub answers", 30.0)
        yield url, process
    finally:
        process.kill()
        process.wait()


def posts(url: str) -> int:
    """The number of requests that a stub has seen."""
    return int(httpx.get(url, trust_env=False, verify=False, timeout=60).json()["posts"])


class Command:
    """The command while it runs, and what it writes to files of a directory."""

    def __init__(self, directory: Path, url: str, *words: object) -> None:
        command = [sys.executable, "-m", "tests.load", "--url", url, *map(str, words)]
        self._written = directory / "out", directory / "err"
        with self._written[0].open("wb") as out, self._written[1].open("wb") as err:
            self.process = starting.start(command, os.environ, out, err)

    def ended(self, seconds: float = 60) -> tuple[int, str, str]:
        """Wait for its end; return exit code, output and errors."""
        try:
            code = self.process.wait(seconds)
        finally:
            self.process.kill()
        out, err = (file.read_text() for file in self._written)
        return code, out, err


def run(url: str, tmp_path: Path, *words: object) -> tuple[int, str, dict[str, Any]]:
    """Run the command to its end: exit code, text and figures."""
    file = tmp_path / "figures.json"
    code, out, err = Command(tmp_path, url, "--json", file, *words).ended(100)
    assert file.is_file(), err
    return code, out, json.loads(file.read_text())


def judged(url: str, tmp_path: Path, *words: object) -> tuple[int, str, dict[str, Any]]:
    """Run the command until a busy machine does not distort it: such a run is not judged."""
    for _ in range(4):
        code, out, found = run(url, tmp_path, *words)
        if not found["distorted"]:
            break
    return code, out, found


@pytest.fixture
def one_row(tmp_path: Path) -> Path:
    """A file with one body of one row."""
    file = tmp_path / "bodies.jsonl"
    file.write_text('{"instances": [{"a": 1}]}\n')
    return file


def test_a_service_that_meets_its_objectives(
    service: Service, sample: Sample, tmp_path: Path
) -> None:
    """Exit code 0; every file is written; rows of a file, both endpoints, both forms."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in sample.rows[:500]))
    code, out, found = judged(
        service.url, tmp_path, *PATIENT, "--rate", 30, "--poisson", "--burst", 5, "--duration", 2,
        "--warmup", 0.5, "--mix", "predict:1=0.6,predict:7=0.2,rank:30=0.2", "--columnar", 0.5,
        "--data", rows, "--processes", 2, "--objective", "p99<=9s", "--objective", "errors<=0%",
        "--objective", "rank:30.max<=9s", "--png", tmp_path / "a.png",
        "--hgrm", tmp_path / "a.hgrm",
    )  # fmt: skip
    assert (code, found["distorted"]) == (0, [])
    assert found["answers"] == {"200": found["total"]["requests"]}
    assert set(found["kinds"]) == {"predict:1", "predict:7", "rank:30"}
    assert found["total"]["right"] == sum(kind["right"] for kind in found["kinds"].values())
    assert found["total"]["right"] == sum(second["right"] for second in found["by_second"].values())
    assert found["setup"]["version"] == service.client.get("/ready").json()["version"]
    assert [verdict["met"] for verdict in found["objectives"]] == [True] * 3
    assert len(found["own"]["cpu_cores"]) == 2
    assert out.count("objective     ") == 3
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert f"Total count    = {found['total']['right']:12d}" in (tmp_path / "a.hgrm").read_text()


def test_made_up_values_fit_any_service_and_a_missed_objective_is_said(
    service: Service, tmp_path: Path
) -> None:
    """Nothing but the address is needed; exit code 1 where one of two objectives is not met."""
    code, out, found = judged(
        service.url, tmp_path, *PATIENT, "--rate", 20, "--duration", 1, "--warmup", 0,
        "--mix", "predict:2,rank:5", "--objective", "p50<=1us", "--objective", "errors<=0%",
    )  # fmt: skip
    assert (code, found["distorted"], found["total"]["right"]) == (1, [], 20)
    assert [verdict["met"] for verdict in found["objectives"]] == [False, True]
    assert "p50<=1us: NOT MET" in out


def test_refusals_are_told_from_failures(start_service: StartService, tmp_path: Path) -> None:
    """Bursts that a short queue cannot hold: some 429, judged apart, exit code 1."""
    short = start_service(max_queue_rows=400)
    code, out, found = judged(
        short.url, tmp_path, *PATIENT, "--burst", 30, "--every", 0.5, "--duration", 2,
        "--warmup", 0, "--mix", "rank:400", "--objective", "refused<=0%",
        "--objective", "refused.p99<=9s", "--objective", "answered.p99<=9s",
        "--objective", "p99<=9s",
    )  # fmt: skip
    total = found["total"]
    assert code == 1, out
    assert total["refused"] == found["answers"]["429"] == total["refused_ms"]["count"] > 0
    assert total["requests"] == total["right"] + total["refused"] + total["failed"] == 120
    assert [verdict["met"] for verdict in found["objectives"]] == [False, True, True, False]
    assert "overloaded" in found["samples"]["429"]


def test_a_service_that_takes_other_bodies_is_not_driven(service: Service, tmp_path: Path) -> None:
    """One body of each kind is tried first; exit code 2 and the service's own words."""
    file = tmp_path / "bodies.jsonl"
    file.write_text('{"instances": [{"user_id": 1}]}')
    code, out, err = Command(tmp_path, service.url, "--bodies", file, "--rate", 5).ended()
    assert (code, out) == (2, "")
    assert "does not take a predict body: 422" in err
    assert "placement" in err


def test_callers_of_a_slow_service_are_counted_right(one_row: Path, tmp_path: Path) -> None:
    """200 callers of a service that takes 500 ms are 200 requests in flight, and about 400/s.

    Nothing here waits for a connection, so that no latency is a multiple of the service's. A
    machine too busy for the load makes it slower, but then the report says so, and the rate is
    still what callers and latency make it. The time is that of many answers, as those that it
    cuts off at its ends are of no rate.
    """
    with stub(0.5) as (url, _):
        code, out, found = run(
            url, tmp_path, "--bodies", one_row, "--concurrency", 200, "--duration", 10,
            "--processes", 2,
        )  # fmt: skip
    total, reached, answered = found["total"], found["reached"], found["rate"]["answered"]
    assert (reached["in_flight"], reached["connections"]) == (200, 200)
    assert reached["waiting_for_a_connection"] == 0
    assert reached["connections_opened"] >= 200
    assert "200 requests in flight, 200 connections in use" in out
    assert total["outcomes"] == {"200": total["right"]}
    assert total["service_ms"]["p50"] >= 499
    assert answered == pytest.approx(200 / (total["latency_ms"]["mean"] / 1000), rel=0.2)
    assert code == (3 if found["distorted"] else 0), out
    if code == 0:
        assert total["latency_ms"]["p99"] <= total["service_ms"]["p99"] * 1.25


def test_too_few_connections_are_no_fault_of_the_service(one_row: Path, tmp_path: Path) -> None:
    """200 callers on ten connections: waits and timeouts on the client's side, exit code 3."""
    with stub(0.5) as (url, _):
        code, out, found = run(
            url, tmp_path, "--bodies", one_row, "--concurrency", 200, "--max-connections", 10,
            "--duration", 3, "--warmup", 1, "--patience", 2,
        )  # fmt: skip
    assert code == 3
    assert found["reached"]["connections"] == 10
    assert found["reached"]["waiting_for_a_connection"] == 190
    assert found["client_side"]["pool timeout"] > 0
    assert found["unanswered"] == {}
    assert set(found["answers"]) == {"200"}
    assert found["own"]["connection_wait_ms"]["p99"] > 1000
    assert any("for one of 10 connections" in reason for reason in found["distorted"])
    assert "pool timeout × " in out


def test_a_stall_is_counted_for_all_who_were_due_in_it(one_row: Path, tmp_path: Path) -> None:
    """One connection, one answer of a second: one slow exchange, but a hundred late answers.

    A generator that waits for the answer before it counts the next request sees one.
    """
    with stub(0.0, 150, 1.0) as (url, _):
        code, _, found = run(
            url, tmp_path, "--bodies", one_row, "--rate", 100, "--duration", 4, "--warmup", 0.5,
            "--max-connections", 1, "--patience", 60,
        )  # fmt: skip
    assert found["total"]["requests"] == found["total"]["right"] == 400
    assert found["total"]["service_ms"]["max"] >= 999
    assert found["total"]["latency_ms"]["p90"] >= 500
    assert found["total"]["service_ms"]["p90"] < 500
    assert code == 3
    assert any("for one of 1 connections" in reason for reason in found["distorted"])


def test_a_service_that_dies_is_counted_to_the_end(one_row: Path, tmp_path: Path) -> None:
    """Requests are due, answered or not: the run ends in time, with exit code 1."""
    file = tmp_path / "figures.json"
    with stub(0.0) as (url, server):
        command = Command(
            tmp_path, url, *PATIENT, "--bodies", one_row, "--rate", 50, "--duration", 10,
            "--warmup", 0, "--objective", "errors<=5%", "--json", file,
        )  # fmt: skip
        wait_until(lambda: posts(url) > 50, "the load goes on", 60.0)
        server.kill()
        code, out, _ = command.ended()
    found = json.loads(file.read_text())
    assert code == 1, out
    assert found["total"]["requests"] == 500
    assert found["unanswered"]["connect failed"] > 25
    assert found["client_side"] == {"pool timeout": 0, "own sockets exhausted": 0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_shows_what_was_seen_so_far(
    number: signal.Signals, one_row: Path, tmp_path: Path
) -> None:
    """Exit code 130, soon, with a summary and files."""
    file = tmp_path / "figures.json"
    with stub(0.01) as (url, _):
        command = Command(
            tmp_path, url, *PATIENT, "--bodies", one_row, "--rate", 50, "--duration", 600,
            "--warmup", 0, "--processes", 2, "--json", file,
        )  # fmt: skip
        wait_until(lambda: posts(url) > 50, "the load goes on", 60.0)
        command.process.send_signal(number)
        code, out, err = command.ended()
    assert code == 130, err
    assert "Traceback" not in err
    found = json.loads(file.read_text())
    assert found["interrupted"]
    assert found["seconds"] < 60
    assert "interrupted   " in out
    assert found["total"]["right"] == found["total"]["requests"] > 0


def test_no_load_goes_on_without_the_command(one_row: Path) -> None:
    """Where the command is killed, its processes end at once and by themselves."""
    with stub(0.01) as (url, _):
        # From nothing, as users start it.
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.load", "--url", url, "--bodies", one_row,
             "--rate", "50", "--duration", "600", "--processes", "2"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until(lambda: posts(url) > 50, "the load goes on", 60.0)
        process.kill()
        # The processes hold its standard error open for as long as they live.
        process.communicate(timeout=30)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--rate", "5"], "cannot be reached"),
        ([], "one of --rate, --burst and --concurrency"),
        (["--rate", "5", "--concurrency", "5"], "takes no --rate"),
        (["--burst", "5", "--poisson"], "--poisson goes with --rate"),
        (["--rate", "5", "--every", "2"], "--every goes with --burst"),
        (["--rate", "5", "--objective", "p99<20ms"], "'p99<20ms': expected"),
        (["--rate", "5", "--mix", "predict"], "'predict': expected"),
        (["--rate", "5", "--bodies", "b.jsonl", "--zipf", "1"], "take no --zipf"),
        (["--rate", "5", "--bodies", "none.jsonl"], "none.jsonl: No such file"),
        (["--rate", "5", "--data", "d", "--bundle", "b"], "not from both"),
        (["--rate", "5", "--processes", "4", "--max-connections", "3"], "as many connections"),
        (["--rate", "5", "--json", "/nowhere/f.json"], "--json: /nowhere/f.json cannot be written"),
        (["--rate", "5", "--url", "localhost:8000"], "--url: expected http://HOST:PORT"),
        (["--rate", "5", "--max-connections", "100000000"], "open files"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_sent(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and one line that names the argument or the service."""
    assert main(["--url", f"http://127.0.0.1:{free_port()}", *words]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert problem in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["--rate", "0"], ["--rate", "nan"], ["--rate", "inf"], ["--burst", "1.5"],
     ["--duration", "-1"], ["--columnar", "2", "--rate", "1"], ["--rat", "5"]],
)  # fmt: skip
def test_a_wrong_number_is_refused_by_the_command_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, naming the flag."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """All five of them."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for code in ("0    every objective", "1    an objective", "2    usage", "3    the generator's",
                 "130  interrupted"):  # fmt: skip
        assert code in told
