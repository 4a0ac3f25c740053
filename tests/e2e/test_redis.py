"""Services whose vocabulary is in Redis score like those that hold it, whatever Redis does."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.bundle.bundle import Bundle
from tests.conftest import PATIENT_MS, StartService
from tests.support import samples
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.samples import KNOWN_USER, Sample, candidate_of, context_of
from tests.support.serving import Service, Wire, free_port, run_to_end, strict, wait_until
from tests.support.vocabularies import place_of, publish_now, rows_of, slots_of

pytestmark = pytest.mark.e2e

COMPANY = 1e-6
"""Published bound of a score's difference between a row alone and the same row in a batch."""
UNSEEN = 987_654_321_987
Row = dict[str, Any]


@pytest.fixture
def published(valkey: RedisServer, tiny_bundle: Path) -> RedisServer:
    """A Redis that holds the bundle's vocabulary."""
    publish_now(valkey.url, tiny_bundle)
    return valkey


@pytest.fixture(scope="module")
def expected(service: Service, sample: Sample) -> list[float]:
    """The scores of the log's first lines by a service that holds its vocabulary in memory."""
    return service.predict(sample.rows[:200])


@pytest.fixture
def row(sample: Sample) -> Row:
    """A row whose user is known."""
    return {**sample.rows[0], "user_id": KNOWN_USER}


@contextmanager
def unready(bundle: Path, log: Path, **settings: object) -> Iterator[Service]:
    """A service that need not become ready; it ends with 0 after SIGTERM."""
    patient = {"deadline_ms": PATIENT_MS, "redis_timeout_ms": PATIENT_MS, **settings}
    service = Service(bundle, log, **patient)
    try:
        wait_until(lambda: is_live(service), "it lives", 60)
        yield service
    finally:
        code = service.stop()
    assert code == 0, service.log()


def is_live(service: Service) -> bool:
    """Return whether the process answers."""
    try:
        return service.client.get("/live").status_code == 200
    except httpx.TransportError:
        return False


def state_of(service: Service) -> dict[str, Any]:
    """Return the answer of /ready of a service that is ready."""
    answer = service.client.get("/ready")
    assert answer.status_code == 200, answer.text
    return dict(strict(answer.content))


def back_to_normal(service: Service) -> None:
    """Wait until a service asks Redis again."""
    wait_until(lambda: state_of(service)["degraded"] == [], "it is back to normal", 60)


def answer_to(service: Service, *rows: Row) -> dict[str, Any]:
    """The whole answer of a /predict."""
    answer = service.post("/predict", {"instances": rows})
    assert answer.status_code == 200, answer.text
    return dict(strict(answer.content))


def scores_of(ranking: list[dict[str, Any]]) -> list[float]:
    """The candidates' scores in the request's order; how long lists are cut depends on time."""
    return [place["score"] for place in sorted(ranking, key=lambda place: place["index"])]


def test_scores_are_those_of_memory(
    published: RedisServer, start_service: StartService, service: Service, sample: Sample
) -> None:
    """Rows, lists and columns, cold and warm: the same scores, and nothing degraded."""
    remote = start_service(redis_url=published.url)
    assert state_of(remote)["vocabulary"] == "redis"
    rows = sample.rows[:300]
    contexts = [context_of(row) for row in rows[:3]]
    listed = [{"id": n, "features": candidate_of(row)} for n, row in enumerate(rows)]
    names = {name for row in rows for name in candidate_of(row)}
    columns = {name: [row.get(name) for row in rows] for name in names}
    for _ in ("cold", "warm"):
        for start in range(0, 300, 50):
            part = rows[start : start + 50]
            assert answer_to(remote, *part) == answer_to(service, *part)
        for context in contexts:
            for candidates in (listed, {"features": columns}):
                body = {"context": context, "candidates": candidates}
                assert scores_of(remote.rank(**body)) == pytest.approx(
                    scores_of(service.rank(**body)), abs=COMPANY
                )
    metrics = remote.metrics()
    trips = metrics["ctr_redis_round_trips_total"]
    assert metrics["ctr_vocabulary_misses_total"] > 0
    assert metrics["ctr_vocabulary_hits_total"] > metrics["ctr_vocabulary_misses_total"]
    assert trips == metrics["ctr_redis_seconds_count"] > 0
    assert not any(value for name, value in metrics.items() if name.startswith("ctr_redis_errors"))
    answer_to(remote, *rows)
    assert remote.metrics()["ctr_redis_round_trips_total"] == trips, "all is remembered"


def test_unseen_values_are_asked_for_once(
    published: RedisServer, start_service: StartService, row: Row
) -> None:
    """Absences are remembered like rows: an unknown user costs one round trip, not one each."""
    remote = start_service(redis_url=published.url)
    answers = [answer_to(remote, {**row, "user_id": UNSEEN}) for _ in range(5)]
    assert all(answer == answers[0] for answer in answers)
    metrics = remote.metrics()
    assert metrics["ctr_vocabulary_absences_total"] == 1
    assert metrics["ctr_redis_round_trips_total"] == 1


@pytest.mark.parametrize("content", ["table_size", "1000000000", "text"])
def test_a_bad_row_in_redis_counts_as_oov(
    published: RedisServer,
    start_service: StartService,
    service: Service,
    tiny_bundle: Path,
    row: Row,
    content: str,
) -> None:
    """OPEN-10: an index beyond the table, or none, is a counted error and scores as OOV."""
    bundle = Bundle.open(tiny_bundle)
    if content == "table_size":
        content = str(bundle.vocabulary.layout.table_rows)
    remote = start_service(redis_url=published.url)
    user = next(
        user for user in rows_of(bundle, "user_id")
        if user not in {example.context.get("user_id") for example in bundle.examples}
    )  # fmt: skip
    place = place_of(bundle, "user_id", user)
    good = rows_of(bundle, "user_id")[user]
    published.command("HSET", *place, content)
    [oov] = service.predict([{**row, "user_id": UNSEEN}])
    answer = answer_to(remote, {**row, "user_id": user})
    assert answer["predictions"] == [oov]
    assert answer["degraded"] == ["vocabulary"]
    assert remote.metrics()['ctr_redis_errors_total{reason="value"}'] == 1
    published.command("HSET", *place, good)
    assert remote.predict([{**row, "user_id": user}]) == service.predict([{**row, "user_id": user}])


def test_departed_callers_leave_no_wrong_answer_behind(
    published: RedisServer, start_service: StartService, service: Service, row: Row,
    tiny_bundle: Path,
) -> None:  # fmt: skip
    """OPEN-19: callers who leave while Redis is asked change nobody's score, then or later."""
    users = list(rows_of(Bundle.open(tiny_bundle), "user_id"))
    others = {user: service.predict([{**row, "user_id": user}]) for user in users}
    rng = random.Random(5)
    with Proxy(published.port) as proxy:
        remote = start_service(
            redis_url=f"redis://127.0.0.1:{proxy.port}", redis_timeout_ms=5_000,
            vocabulary_cache=1, vocabulary_fallback="reject", deadline_ms=10_000,
        )  # fmt: skip
        proxy.delay = 0.1

        def body(user: int | str) -> bytes:
            return httpx.Request(
                "POST", "http://x", json={"instances": [{**row, "user_id": user}]}
            ).content

        async def leave(user: int | str) -> None:
            wire = await Wire.open(remote.port)
            wire.send("/predict", body(user))
            await asyncio.sleep(rng.uniform(0.02, 0.08))
            await wire.close()

        async def stay(user: int | str) -> None:
            wire = await Wire.open(remote.port)
            status, content = await wire.post("/predict", body(user))
            assert status == 200, content
            answer = strict(content)
            assert answer["predictions"] == pytest.approx(others[user], abs=COMPANY)
            assert "degraded" not in answer
            await wire.close()

        async def drive() -> None:
            for _ in range(8):
                leaving = [leave(users[0]) for _ in range(12)]
                staying = [stay(user) for user in rng.choices(users[1:], k=25)]
                await asyncio.gather(*leaving, *staying)
            await asyncio.gather(*(stay(user) for user in users))

        asyncio.run(drive())
    assert remote.metrics()['ctr_requests_total{outcome="gone",route="predict"}'] > 0


def stop(server: RedisServer) -> Callable[[], None]:
    """End a server; return what brings it back."""
    server.stop()
    return lambda: server.start() and None


def freeze(server: RedisServer) -> Callable[[], None]:
    """Let it accept and answer nothing."""
    server.freeze()
    return server.thaw


def pause(server: RedisServer) -> Callable[[], None]:
    """Let it hold back all answers, but those to a replica, which tells it to go on."""
    replica = socket.create_connection(("127.0.0.1", server.port))
    replica.sendall(b"SYNC\r\n")
    wait_until(lambda: server.command("CLIENT", "LIST", "TYPE", "REPLICA") != "$0", "it is one")
    server.command("CLIENT", "PAUSE", 3_600_000, "ALL")

    def go_on() -> None:
        with replica:
            replica.sendall(b"CLIENT UNPAUSE\r\n")

    return go_on


def empty(server: RedisServer) -> Callable[[], None]:
    """Let it forget everything."""
    server.command("FLUSHALL")
    return lambda: None


@pytest.mark.parametrize("harm", [stop, freeze, pause, empty])
def test_an_outage_of_redis_is_not_ours(
    published: RedisServer,
    start_service: StartService,
    tiny_bundle: Path,
    sample: Sample,
    expected: list[float],
    harm: Callable[[RedisServer], Callable[[], None]],
) -> None:
    """OPEN-20, 21: right scores throughout, and no restart is needed when Redis is back."""
    remote = start_service(redis_url=published.url, vocabulary_cache=1, redis_timeout_ms=1_000)
    rows = sample.rows[:200]
    assert remote.predict(rows[:100]) == expected[:100]
    bring_back = harm(published)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: remote.predict([row]), rows))
    assert [score for [score] in found] == pytest.approx(expected, abs=COMPANY)
    wait_until(lambda: state_of(remote)["degraded"] == ["vocabulary"], "it is noticed")
    assert state_of(remote)["redis_problem"]
    assert remote.metrics()["ctr_redis_up"] == 0
    assert remote.predict(rows) == expected
    bring_back()
    if harm in (stop, empty):
        publish_now(published.url, tiny_bundle)
    back_to_normal(remote)
    before = remote.metrics()['ctr_vocabulary_fallbacks_total{fallback="snapshot"}']
    assert remote.predict(rows) == expected
    after = remote.metrics()
    assert after['ctr_vocabulary_fallbacks_total{fallback="snapshot"}'] == before
    assert after["ctr_redis_up"] == 1
    assert len([e for e in remote.events() if e["logger"].startswith("app.remote")]) < 10


def test_without_a_snapshot_answers_are_degraded(
    published: RedisServer, start_service: StartService, service: Service, row: Row
) -> None:
    """With fallback oov, values that are not remembered count as OOV and every answer says so."""
    remote = start_service(redis_url=published.url, vocabulary_fallback="oov")
    known = answer_to(remote, row)
    assert "degraded" not in known
    published.stop()
    other = {**row, "user_id": samples.LARGEST_USER}
    answer = answer_to(remote, other)
    assert answer["degraded"] == ["vocabulary"]
    assert answer["predictions"] == service.predict([{**row, "user_id": UNSEEN}])
    ranked = remote.post(
        "/rank", {"context": context_of(other), "candidates": [{"features": candidate_of(row)}]}
    )
    assert strict(ranked.content)["degraded"] == ["vocabulary"]
    assert answer_to(remote, row) == known, "what is remembered is not degraded"


def test_without_a_stand_in_requests_are_rejected(
    published: RedisServer, start_service: StartService, row: Row
) -> None:
    """With fallback reject a value that is not remembered is 503, told to come again."""
    remote = start_service(redis_url=published.url, vocabulary_fallback="reject")
    known = answer_to(remote, row)
    published.stop()
    answer = remote.post("/predict", {"instances": [{**row, "user_id": UNSEEN}]})
    assert answer.status_code == 503
    assert strict(answer.content)["error"]["code"] == "vocabulary_unavailable"
    assert answer.headers["retry-after"] == "1"
    assert str(published.port) not in answer.text
    assert "127.0.0.1" not in answer.text
    assert answer_to(remote, row) == known
    wrong = remote.post("/predict", {"instances": [{**row, "user_id": "odd"}]})
    assert wrong.status_code == 422, "what is wrong with a request is told all the same"


# What callers are told.


@pytest.mark.parametrize("trouble", ["closed port", "login", "permission"])
def test_callers_learn_neither_address_nor_user(
    published: RedisServer, tiny_bundle: Path, tmp_path: Path, row: Row, trouble: str
) -> None:
    """Answers say what is wrong with Redis; where it is and who asks stand in the log alone."""
    published.command("ACL", "SETUSER", "henrietta", "on", ">pw", "~ctr:*", "+hmget")
    login, port, shown = {
        "closed port": ("", free_port(), "Redis cannot be reached"),
        "login": ("henrietta:wrong@", published.port, "Redis refuses the login"),
        "permission": ("henrietta:pw@", published.port, "Redis refuses a command"),
    }[trouble]
    settings = {"redis_url": f"redis://{login}127.0.0.1:{port}"}
    secrets = ("127.0.0.1", str(port), "henrietta")
    body = {"instances": [row]}
    with unready(
        tiny_bundle, tmp_path / "waiting", vocabulary_fallback="reject", **settings
    ) as waiting:
        wait_until(lambda: shown in waiting.client.get("/ready").text, "it says what is wrong", 60)
        told = [
            waiting.client.get("/ready"), waiting.client.get("/model"),
            waiting.post("/predict", body), waiting.post("/rank", {}),
        ]  # fmt: skip
        assert {answer.status_code for answer in told} == {503}
    assert all(shown in answer.text for answer in told)
    with unready(tiny_bundle, tmp_path / "serving", **settings) as serving:
        serving.wait_ready()
        told.append(serving.client.get("/ready"))
        assert state_of(serving)["redis_problem"] == shown
        log = serving.log()
    for answer in told:
        assert not [secret for secret in secrets if secret in answer.text], answer.text
    detail = {"closed port": str(port), "login": "password", "permission": "henrietta"}[trouble]
    lines = [line for line in log.splitlines() if "not asking Redis" in line]
    assert any(detail in line for line in lines), "whoever runs it needs the detail"


# Versions.


def test_two_versions_share_a_redis(
    published: RedisServer,
    start_service: StartService,
    tiny_bundle: Path,
    other_bundle: Path,
    sample: Sample,
    expected: list[float],
) -> None:
    """OPEN-22: side by side each has the scores of its own version; going back needs no flush."""
    first, second = Bundle.open(tiny_bundle), Bundle.open(other_bundle)
    sizes = [slots_of(bundle)["user_id"].slot.size for bundle in (first, second)]
    assert sizes[1] < sizes[0]
    items = [rows_of(bundle, "item_id") for bundle in (first, second)]
    assert any(items[0][item] != items[1][item] for item in items[0].keys() & items[1].keys())
    rows = sample.rows[:200]
    old = start_service(redis_url=published.url, vocabulary_cache=50)
    assert old.predict(rows) == expected
    publish_now(published.url, other_bundle)
    new = start_service(other_bundle, redis_url=published.url, vocabulary_cache=50)
    new_expected = start_service(other_bundle).predict(rows)
    assert new_expected != expected
    with ThreadPoolExecutor(8) as threads:
        sides = [(old, expected), (new, new_expected)] * 200
        found = threads.map(lambda each: each[1][0].predict([rows[each[0] // 2]]),
                            enumerate(sides[:400]))  # fmt: skip
        for number, [score] in enumerate(found):
            assert score == pytest.approx(sides[number][1][number // 2], abs=COMPANY)
    assert new.stop() == 0
    again = start_service(redis_url=published.url)
    assert again.predict(rows) == expected == old.predict(rows)


# Starting.


@pytest.mark.parametrize("fallback", ["oov", "reject"])
def test_it_waits_for_redis_and_for_the_vocabulary(
    tiny_bundle: Path, tmp_path: Path, row: Row, service: Service, fallback: str
) -> None:
    """OPEN-26: alive and not ready until Redis and the vocabulary are there; then it serves."""
    server = RedisServer()
    settings = {"redis_url": server.url, "vocabulary_fallback": fallback}
    try:
        with unready(tiny_bundle, tmp_path / "log", **settings) as waiting:

            def says(problem: str) -> bool:
                answer = waiting.client.get("/ready")
                assert answer.status_code == 503
                return problem in strict(answer.content)["error"]["message"]

            wait_until(lambda: says("cannot be reached"), "it says what it waits for", 60)
            assert waiting.post("/predict", {"instances": [row]}).status_code == 503
            assert waiting.client.get("/model").status_code == 503
            server.start()
            wait_until(lambda: says("is not published"), "it sees Redis", 60)
            assert is_live(waiting)
            publish_now(server.url, tiny_bundle)
            assert waiting.wait_ready()["degraded"] == []
            assert waiting.predict([row]) == service.predict([row])
    finally:
        server.close()


def test_with_a_snapshot_it_does_not_wait(
    tiny_bundle: Path, start_service: StartService, sample: Sample, expected: list[float]
) -> None:
    """OPEN-26: with the bundle's copy in reserve it serves at once, says so, and takes Redis up."""
    server = RedisServer()
    try:
        remote = start_service(redis_url=server.url, vocabulary_cache=1)
        assert state_of(remote)["degraded"] == ["vocabulary"]
        assert remote.predict(sample.rows[:200]) == expected
        server.start()
        publish_now(server.url, tiny_bundle)
        back_to_normal(remote)
        assert remote.predict(sample.rows[:200]) == expected
        assert remote.metrics()["ctr_redis_round_trips_total"] > 0
    finally:
        server.close()


def test_it_stops_while_it_waits(tiny_bundle: Path, tmp_path: Path) -> None:
    """SIGTERM ends with 0 a service that has never seen its Redis."""
    url = f"redis://127.0.0.1:{free_port()}"
    with unready(tiny_bundle, tmp_path / "log", redis_url=url, vocabulary_fallback="reject"):
        pass


def test_it_stops_while_redis_is_silent(
    published: RedisServer, start_service: StartService, row: Row
) -> None:
    """SIGTERM during a question to Redis that is never answered still ends in time, with 0."""
    patience = {"redis_timeout_ms": 60_000, "deadline_ms": 60_000, "drain_seconds": 3}
    remote = start_service(redis_url=published.url, **patience)
    published.freeze()
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(
            lambda: remote.post("/predict", {"instances": [{**row, "user_id": UNSEEN}]})
        )
        wait_until(
            lambda: remote.metrics()["ctr_redis_round_trips_total"] > 0, "the question is asked"
        )
        remote.process.send_signal(signal.SIGTERM)
        assert asked.exception() is None or isinstance(asked.exception(), httpx.TransportError)
    assert remote.process.wait(30) == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"redis_url": "cache:6379"}, "setting redis_url: it must begin with"),
        ({"redis_url": "redis://u:secret@a,b"}, "several hosts"),
        ({"redis_url": "redis://cache", "redis_password_file": "/none"}, "password file"),
    ],
)
def test_an_address_of_no_use_is_refused(
    tiny_bundle: Path, settings: dict[str, str], problem: str
) -> None:
    """One clear line, without the password, and a failing exit code."""
    ended = run_to_end(tiny_bundle, **settings)
    assert ended.returncode == 1
    assert problem in ended.stderr
    assert "secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refused_mark_is_seen_in_ready_and_metrics(
    published: RedisServer, start_service: StartService, row: Row, workers: int
) -> None:
    """While Redis refuses to mark the vocabulary, the service scores and says what is at stake.

    Every probe tries again; here an outage makes it probe at once.
    """
    remote = start_service(redis_url=published.url, workers=workers, redis_timeout_ms=50)
    assert remote.metrics()["ctr_redis_marked"] == 1
    unseen = iter(range(UNSEEN, UNSEEN + 10_000))

    def probed() -> None:
        """Let requests find Redis away, and wait until it is asked again."""
        published.freeze()
        wait_until(
            lambda: (
                bool(answer_to(remote, {**row, "user_id": next(unseen)}))
                and remote.metrics()["ctr_redis_up"] == 0
            ),
            "it is noticed",
            60,
        )
        published.thaw()
        wait_until(lambda: remote.metrics()["ctr_redis_up"] == 1, "Redis is asked again", 60)

    published.command("CONFIG", "SET", "min-replicas-to-write", 1)
    probed()
    wait_until(lambda: remote.metrics()["ctr_redis_marked"] == 0, "the refusal is shown", 60)
    wait_until(
        lambda: "prune may remove it" in (state_of(remote)["redis_problem"] or ""), "it is told", 60
    )
    assert remote.metrics()['ctr_redis_errors_total{reason="mark"}'] >= 1
    assert state_of(remote)["degraded"] == []
    assert answer_to(remote, row)["predictions"]
    published.command("CONFIG", "SET", "min-replicas-to-write", 0)

    def marked() -> bool:
        probed()
        return remote.metrics()["ctr_redis_marked"] == 1

    wait_until(marked, "it is marked again", 90)
    wait_until(lambda: state_of(remote)["redis_problem"] is None, "the problem is over", 60)
