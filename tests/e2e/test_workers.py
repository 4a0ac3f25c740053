"""Several workers on one port are one service: one score, one set of metrics, one end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import StartService
from tests.support.processes import runs
from tests.support.samples import Sample
from tests.support.serving import APP, Service, Wire, run_to_end, strict, wait_until, workers_of

pytestmark = pytest.mark.e2e

WORKERS = 4
NO_DEVICE = {"CUDA_VISIBLE_DEVICES": "-1"}


def requests_in(metrics: dict[str, float]) -> float:
    return sum(
        value for name, value in metrics.items()
        if name.startswith("ctr_requests_total") and 'route="predict"' in name
    )  # fmt: skip


def scrape(service: Service) -> dict[str, float]:
    """The metrics over a connection of their own: any worker may be the one to answer."""
    service.client.headers["connection"] = "close"
    return service.metrics()


async def ask(port: int, bodies: list[bytes], connections: int) -> list[tuple[int, bytes]]:
    """Ask over many connections, each of which a worker was given; answers in their order."""
    answers: list[tuple[int, bytes]] = [(0, b"")] * len(bodies)

    async def one(first: int) -> None:
        wire = await Wire.open(port)
        for number in range(first, len(bodies), connections):
            answers[number] = await wire.post("/predict", bodies[number])
        await wire.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return answers


@pytest.fixture
def several(start_service: StartService) -> Iterator[Service]:
    """A service of four workers."""
    service = start_service(workers=WORKERS)
    assert len(workers_of(service)) == WORKERS
    yield service
    assert service.stop() == 0


def body(row: dict[str, Any]) -> bytes:
    return json.dumps({"instances": [row]}).encode()


def test_metrics_are_those_of_all_workers(several: Service, sample: Sample) -> None:
    """OPEN-25: every scrape counts every request, before and after a worker is replaced."""
    bodies = [body(sample.rows[number % 100]) for number in range(1000)]
    answers = asyncio.run(ask(several.port, bodies, 40))
    assert {status for status, _ in answers} == {200}
    shown = [scrape(several) for _ in range(40)]
    assert {requests_in(each) for each in shown} == {1000}
    for each in shown:
        assert each['ctr_request_seconds_count{route="predict",status="2xx"}'] == 1000
        assert each["ctr_batch_rows_sum"] == 1000
    wait_until(lambda: scrape(several)["ctr_rows_total"] == 1000, "gauges and values catch up")

    killed = workers_of(several)[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not runs(killed), "it is dead")
    wait_until(lambda: len(set(workers_of(several)) - {killed}) == WORKERS, "it is replaced", 30)
    assert {requests_in(scrape(several)) for _ in range(20)} == {1000}
    assert {status for status, _ in asyncio.run(ask(several.port, bodies, 40))} == {200}
    assert {requests_in(scrape(several)) for _ in range(20)} == {2000}


def test_every_worker_gives_the_same_scores(
    several: Service, service: Service, sample: Sample
) -> None:
    """Whichever worker answers, the score is that of a service of one process."""
    rows = sample.rows[:200]
    expected = [service.predict([row])[0] for row in rows]
    answers = asyncio.run(ask(several.port, [body(row) for row in rows], 20))
    found = [strict(content)["predictions"][0] for _, content in answers]
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_dead_worker_takes_only_its_own_requests(several: Service, sample: Sample) -> None:
    """Connections to other workers never notice; new ones are served."""
    content = body(sample.rows[0])
    failed, answered = [0] * 40, [0] * 40
    over = asyncio.Event()

    async def client(number: int) -> None:
        wire = await Wire.open(several.port)
        while not over.is_set():
            try:
                status, _ = await wire.post("/predict", content)
                assert status == 200
                answered[number] += 1
            except (ConnectionError, asyncio.IncompleteReadError):
                failed[number] += 1
                await wire.close()
                wire = await Wire.open(several.port)
            await asyncio.sleep(0.005)
        await wire.close()

    async def scene() -> None:
        clients = [asyncio.create_task(client(number)) for number in range(len(failed))]
        await all_answered()
        killed = workers_of(several)[1]
        os.kill(killed, signal.SIGKILL)
        await asyncio.to_thread(
            wait_until, lambda: len(set(workers_of(several)) - {killed}) == WORKERS,
            "it is replaced", 30,
        )  # fmt: skip
        await all_answered()
        over.set()
        await asyncio.gather(*clients)

    async def all_answered() -> None:
        """Wait until each client has had some more answers."""
        before = list(answered)
        await asyncio.to_thread(
            wait_until, lambda: all(n >= b + 10 for n, b in zip(answered, before, strict=True)),
            "all are answered", 60,
        )  # fmt: skip

    asyncio.run(scene())
    assert max(failed) <= 1
    assert 0 < sum(failed) < len(failed), "the dead worker's connections, and no others"
    assert len(workers_of(several)) == WORKERS


def test_the_successor_of_a_drained_worker_is_reached(several: Service) -> None:
    """A worker that ends by SIGTERM closes its listener to new connections; its successor opens it.

    Every worker is replaced in turn: afterwards no new connection waits for ever.
    """
    for worker in workers_of(several):
        os.kill(worker, signal.SIGTERM)
        wait_until(lambda worker=worker: worker not in workers_of(several), "it has ended", 60)
    wait_until(lambda: len(workers_of(several)) == WORKERS, "each has a successor", 60)
    for _ in range(40):
        with httpx.Client(
            base_url=several.url, trust_env=False, verify=False, timeout=30
        ) as caller:
            assert caller.get("/live").status_code == 200


@pytest.mark.parametrize("how", ["supervisor", "group"])
def test_stopping_loses_nothing_that_was_accepted(
    start_service: StartService, sample: Sample, how: str
) -> None:
    """SIGTERM to the supervisor, or Ctrl-C to the group: every request sent is answered."""
    service = start_service(workers=2, program=["setsid", *APP])
    content = body(sample.rows[0])
    busy = asyncio.Barrier(9)

    async def client() -> int:
        answered = 0
        wire = await Wire.open(service.port)
        try:
            while wire.usable:
                status, _ = await wire.post("/predict", content)
                assert status in (200, 503)
                answered += status == 200
                if answered == 20:
                    await busy.wait()
        except ConnectionError:
            pass
        except asyncio.IncompleteReadError as error:
            answered = -1 if error.partial else answered
        await wire.close()
        return answered

    async def scene() -> list[int]:
        clients = [asyncio.create_task(client()) for _ in range(8)]
        await busy.wait()
        if how == "group":
            os.killpg(service.process.pid, signal.SIGINT)
        else:
            service.process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*clients)

    assert min(asyncio.run(scene())) > 0
    assert service.process.wait(30) == 0
    assert not [event for event in service.events() if event["level"] == "error"]


def test_workers_end_with_their_supervisor(tiny_bundle: Path, tmp_path: Path) -> None:
    """Nobody is left behind on the port, even if the supervisor is killed."""
    service = Service(tiny_bundle, tmp_path / "log", workers=2)
    service.wait_ready()
    pids = workers_of(service)
    service.process.kill()
    service.process.wait()
    service.client.close()
    wait_until(lambda: not any(map(runs, pids)), "the workers have ended", 30)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", service.port)) != 0


def test_what_no_worker_can_do_ends_the_service(tiny_bundle: Path, tmp_path: Path) -> None:
    """A bundle that is not there, or a provider: one failing exit code and no endless restarts."""
    ended = run_to_end(tmp_path, workers=2)
    assert ended.returncode == 1
    assert str(tmp_path) in ended.stderr
    ended = run_to_end(tiny_bundle, env=NO_DEVICE, workers=2, provider="cuda")
    assert ended.returncode == 1
    assert "CUDA was asked for and cannot be used" in ended.stderr
    assert "successor" not in ended.stderr


def test_a_port_in_use_is_refused(service: Service, several: Service, tiny_bundle: Path) -> None:
    """Workers share their port with each other, and with no other service."""
    for taken in (service.port, several.port):
        for workers in (1, 2):
            ended = run_to_end(tiny_bundle, port=taken, workers=workers)
            assert ended.returncode > 0
            assert "address already in use" in ended.stderr.lower()


def test_a_worker_that_keeps_dying_comes_back_more_slowly(several: Service) -> None:
    """The first successor starts at once; after that the pauses grow."""
    for deaths in range(1, 4):
        wait_until(lambda: len(workers_of(several)) == WORKERS, "all are there", 30)
        os.kill(max(workers_of(several)), signal.SIGKILL)
        wait_until(lambda: len(_pauses(several)) == deaths, "it is told", 30)  # noqa: B023
    assert _pauses(several) == ["0.0", "0.5", "1.0"]
    assert several.wait_ready()


def _pauses(service: Service) -> list[str]:
    lines = [event["message"] for event in service.events() if "successor" in event["message"]]
    return [line.split(" in ")[1].split()[0] for line in lines]
