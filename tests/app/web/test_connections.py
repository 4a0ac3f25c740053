"""The bound of connections, the choice of the one that ends, and the time that one is kept."""

from __future__ import annotations

import json
import resource
import selectors
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from app.web.connections import SPARE_DESCRIPTORS, Connections, most_connections
from tests.conftest import Sample, StartService
from tests.support.clients import connected, framed, head, read_all, read_answer, run
from tests.support.programs import program
from tests.support.proxies import nginx
from tests.support.serving import wait_until

BOUND = 2
"""Seconds of keep-alive in these tests."""
CALLERS = 200
NODE_AGENTS = """
const http = require("http");
const [url, bound, callers] = process.argv.slice(1);
const asked = agent => new Promise((right, wrong) => {
  const request = http.request(url, {method: "POST", agent,
    headers: {"content-type": "application/json"}}, answer => {
      answer.resume(); answer.on("end", () => right(answer.statusCode)); });
  request.on("error", wrong);
  request.end('{"instances": []}');
});
const wait = ms => new Promise(done => setTimeout(done, ms));
let late = 0, last = Date.now();
setInterval(() => { late = Math.max(late, Date.now() - last); last = Date.now(); }, 20).unref();
const caller = async number => {
  // Without a timeout of its own, Node 20 does not go by the one that the service tells.
  const agent = new http.Agent({keepAlive: true, maxSockets: 1, timeout: 60000});
  await asked(agent);
  await wait(bound * 1000 - 1500 + number * 3000 / callers);
  const status = await asked(agent);
  agent.destroy();
  return status;
};
Promise.allSettled([...Array(+callers).keys()].map(caller)).then(found =>
  console.log(JSON.stringify([found.map(each => each.value ?? each.reason.code), late])));
"""
LATE_MS = 500
"""Time for which Node may be held up: half of what the service keeps a connection for beyond what
it tells. A client that is held up for longer sees an answer, or an end, too late to go by it."""
TRIES = 5


def answers_of_agents(node: str, url: str, bound: int) -> list[object]:
    """What callers get who use their kept connections again around a bound, in seconds.

    Where the machine has held up Node itself, those who lost something ask again.
    """
    found: list[object] = [None] * CALLERS
    for _ in range(TRIES):
        statuses, late = json.loads(run(node, "-e", NODE_AGENTS, url, str(bound), str(CALLERS)))
        if late <= LATE_MS:
            return list(statuses)
        found = [
            before if before == 200 else now for before, now in zip(found, statuses, strict=True)
        ]
        if found == [200] * CALLERS:
            break
    return found


class Held:
    """A connection that keeps whether it was closed."""

    closed = False

    def close_idle(self) -> None:
        self.closed = True


def test_at_the_bound_the_longest_idle_connection_is_closed() -> None:
    """One that has a request never is."""
    connections = Connections(3, 75)
    first, second, third, fourth, fifth = (Held() for _ in range(5))
    for each in (first, second, third):
        assert connections.opened(each)
    connections.busy(first)
    connections.idle(first)
    connections.busy(second)
    assert connections.opened(fourth)
    assert [each.closed for each in (first, second, third, fourth)] == [False, False, True, False]
    assert connections.opened(fifth), "the closed one may not have ended yet"
    assert first.closed
    assert not second.closed


def test_where_none_is_idle_there_is_no_room() -> None:
    """It is for the new one to come again."""
    connections = Connections(1, 75)
    busy, other = Held(), Held()
    assert connections.opened(busy)
    connections.busy(busy)
    assert not connections.opened(other)
    connections.closed(other)
    connections.closed(busy)
    assert connections.opened(Held())


def test_the_bound_follows_the_descriptors() -> None:
    """Some are left for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 100_000:
        assert most_connections() == max(1, soft - SPARE_DESCRIPTORS)
    assert most_connections() >= 1


@pytest.mark.e2e
def test_a_service_at_its_bound_serves_new_connections(
    start_service: StartService, sample: Sample
) -> None:
    """Idle ones end, the oldest first; where all are busy the new one is told so."""
    service = start_service(max_connections=10)
    service.client.close()
    request = b"".join(framed("/predict", {"instances": sample.rows[:1]}))
    with ExitStack() as stack:
        kept = [stack.enter_context(connected(service.port)) for _ in range(10)]
        for connection in kept:
            connection.sendall(request)
            assert read_answer(connection)[0] == 200
        new = stack.enter_context(connected(service.port))
        new.sendall(request)
        assert read_answer(new)[0] == 200
        assert read_all(kept[0]) == b""
        busy = [*kept[1:], new]
        for connection in busy:
            connection.sendall(head("/predict", "content-length: 5"))
        stack.enter_context(connected(service.port)).sendall(b"")
        wait_until(lambda: refused(service.port), "there is no room")
        for connection in busy:
            connection.sendall(b"{}   ")
            assert read_answer(connection)[0] == 422


def refused(port: int) -> bool:
    """Return whether a connection is told that there are too many."""
    with connected(port) as connection:
        connection.settimeout(0.2)
        try:
            answer = read_all(connection)
        except TimeoutError:
            return False
    if not answer.startswith(b"HTTP/1.1 503 "):
        return False
    assert b"too many connections" in answer
    return True


@pytest.mark.e2e
def test_answers_tell_how_long_a_connection_is_kept(start_service: StartService) -> None:
    """And it is kept a little longer, so that a request just before is not lost."""
    service = start_service(keep_alive_seconds=BOUND)
    ways = (("/predict", "POST"), ("/v1/models/x:predict", "POST"), ("/live", "GET"))
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for path, method in ways:
            connection = stack.enter_context(connected(service.port))
            start, body = framed(path, {"instances": []})
            sent = head(path, method="GET") if method == "GET" else start + body
            before = time.monotonic()
            connection.sendall(sent)
            assert read_answer(connection)[1]["keep-alive"] == f"timeout={BOUND}"
            selector.register(connection, selectors.EVENT_READ, before + BOUND + 0.5)
        # On a busy machine an end may be seen late, but not too early.
        for _ in ways:
            ((key, _), *_) = selector.select(20)
            assert time.monotonic() >= key.data, "it is kept as long as it was told"
            assert cast(socket.socket, key.fileobj).recv(1) == b""
            selector.unregister(key.fileobj)


@pytest.mark.e2e
def test_a_refused_request_leaves_a_connection_that_is_closed_when_idle(
    start_service: StartService,
) -> None:
    """Its body is read to its end, and idleness begins there."""
    service = start_service(keep_alive_seconds=1)
    for path in ("/predict", "/nothing"):
        with connected(service.port) as connection:
            start, body = framed(path, b" " * 1_000, "x-request-timeout-ms: 0")
            connection.sendall(start)
            assert read_answer(connection)[0] in (404, 422)
            connection.sendall(body)
            connection.settimeout(20)
            assert connection.recv(1) == b""


@pytest.mark.e2e
def test_nodes_agent_loses_nothing(start_service: StartService) -> None:
    """Two hundred kept connections that are used again around the bound."""
    node = program("node")
    service = start_service(keep_alive_seconds=BOUND, deadline_ms=30_000)
    assert answers_of_agents(node, f"{service.url}/predict", BOUND) == [200] * CALLERS


@pytest.mark.e2e
def test_nginx_with_a_pool_loses_nothing(start_service: StartService, tmp_path: Path) -> None:
    """nginx keeps its connections for less time than the service does, as its default of 60 s is
    less than ours of 75 s."""
    node = program("node")
    service = start_service(keep_alive_seconds=BOUND, deadline_ms=30_000)
    with nginx(tmp_path, [service.port], pooled=True, pool_seconds=BOUND - 1) as port:
        url = f"http://127.0.0.1:{port}/predict"
        assert answers_of_agents(node, url, BOUND - 1) == [200] * CALLERS
