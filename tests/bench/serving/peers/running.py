"""A peer's server from its start to its end, and the check that it does the product's job."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

from tests.bench.serving.peers.peer import Peer, Row
from tests.bench.serving.peers.scoring import BUNDLE, GRAPH
from tests.support.environments import ROOT, PeerProblem, last_line
from tests.support.serving import free_port

START_SECONDS = 60.0
STOP_SECONDS = 10.0
CALLERS = 16
TOLERANCE = 1e-5
"""Largest difference of a peer's score from the product's."""


class Server(NamedTuple):
    """A server that runs: its port, and the process that leads its session."""

    port: int
    process: int


@contextmanager
def serving(peer: Peer, bundle: Path, graph: Path, row: Row) -> Iterator[Server]:
    """Run a peer until the block ends; gives it once it has scored ``row``.

    Raises:
        PeerProblem: it cannot be installed, or did not start.
    """
    home = peer.install()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "files").mkdir()
        port = free_port()
        launch = peer.launch(home, port, scratch / "files")
        files = {BUNDLE: str(bundle), GRAPH: str(graph)}
        with (scratch / "log").open("wb") as log:
            try:
                process = subprocess.Popen(
                    launch.words, cwd=ROOT, env={**os.environ, **launch.variables, **files},
                    stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise PeerProblem(f"did not start: {error}") from error
        try:
            _wait(peer, process, port, row, scratch / "log")
            yield Server(port, process.pid)
        finally:
            _stop(process)


def _wait(peer: Peer, process: subprocess.Popen[bytes], port: int, row: Row, log: Path) -> None:
    end = monotonic() + START_SECONDS
    while True:
        with suppress(OSError, http.client.HTTPException, PeerProblem):
            ask(port, peer.target, peer.body(row))
            return
        if process.poll() is not None or monotonic() > end:
            said = last_line(log.read_text(errors="replace"))
            raise PeerProblem(f"did not start; its log ends with: {said}")
        sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, and what is left of its process group."""
    try:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(port: int, target: str, body: Any) -> Any:
    """Post one request to a server of this machine and return its answer.

    Raises:
        PeerProblem: it answered something else than 200.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", target, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise PeerProblem(f"answered {target} with {response.status}: {answer[:200]!r}")
    return json.loads(answer)


def check(
    peer: Peer, port: int, rows: Sequence[Row], expected: Sequence[float],
    tolerance: float = TOLERANCE,
) -> None:  # fmt: skip
    """Compare scores of rows, asked for by several callers at once, with the product's.

    Raises:
        PeerProblem: one differs by more than the tolerance.
    """

    def score(row: Row) -> float:
        (found,) = peer.scores(ask(port, peer.target, peer.body(row)))
        return found

    with ThreadPoolExecutor(CALLERS) as callers:
        found = list(callers.map(score, rows))
    differences = [abs(a - b) for a, b in zip(found, expected, strict=True)]
    if not all(difference <= tolerance for difference in differences):
        worst = max(differences)
        raise PeerProblem(f"scores otherwise than the product: {worst:.1e} apart")
