"""A vocabulary in use stays marked, whatever Redis refuses in between."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from app.bundle.bundle import Bundle
from app.remote import breaker
from app.remote.link import Link
from app.remote.redis_layout import in_use
from app.remote.vocabulary import RemoteVocabulary
from model.publish import PublishError, unpublish
from tests.support.redis_server import RedisServer
from tests.support.samples import KNOWN_USER
from tests.support.serving import free_port, wait_until
from tests.support.vocabularies import linked, publish_to, remote_vocabulary, rows_of

pytestmark = pytest.mark.anyio
RIGHTS = "+hget", "+hmget", "+set", "+expire"


class Refusal(NamedTuple):
    """A way in which Redis refuses writes: the commands that begin and end it."""

    code: str
    begin: tuple[str | int, ...]
    end: tuple[str | int, ...]


REFUSALS = [
    Refusal("READONLY", ("REPLICAOF", "127.0.0.1", "PORT"), ("REPLICAOF", "NO", "ONE")),
    Refusal("OOM", ("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)),
    Refusal(
        "NOREPLICAS",
        ("CONFIG", "SET", "min-replicas-to-write", 1),
        ("CONFIG", "SET", "min-replicas-to-write", 0),
    ),
    Refusal(
        "NOPERM",
        ("ACL", "SETUSER", "service", "-set", "-expire"),
        ("ACL", "SETUSER", "service", "+set", "+expire"),
    ),
]
refusals = pytest.mark.parametrize("refusal", REFUSALS, ids=[each.code for each in REFUSALS])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe often, so that the next refresh comes soon."""
    monkeypatch.setattr(breaker, "REFRESH_SECONDS", 0.02)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, mapped=True)


@pytest.fixture
async def published(redis_server: RedisServer, tiny_bundle: Path) -> RedisServer:
    """A Redis that holds the bundle's vocabulary, and a user for services."""
    await publish_to(redis_server.url, tiny_bundle)
    redis_server.command("ACL", "SETUSER", "service", "on", ">pw", "~ctr:*", *RIGHTS)
    return redis_server


def url_of(server: RedisServer) -> str:
    return server.url.replace("://", "://service:pw@")


def do(server: RedisServer, command: tuple[str | int, ...]) -> None:
    """Run a command that must succeed; PORT is one where nothing listens."""
    words = [free_port() if word == "PORT" else word for word in command]
    assert server.command(*words) == "+OK"


def mark_seconds(server: RedisServer, bundle: Bundle) -> int:
    """Seconds that the mark still lasts; negative without one."""
    return int(server.command("TTL", in_use(bundle.manifest.vocabulary_hash)).removeprefix(":"))


async def connections_of(link: Link) -> int:
    """Connections that a server has accepted since its start."""
    [reply] = await link.ask([("INFO", "stats")], 30)
    found = re.search(rb"total_connections_received:(\d+)", reply)
    assert found is not None
    return int(found[1])


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, 30)


async def row_of_a_user(remote: RemoteVocabulary) -> int:
    """Ask Redis, not the cache, for a known user."""
    for table in remote.cache.tables.values():
        table.clear()
    deadline = asyncio.get_running_loop().time() + 30
    rows, degraded = await remote.fetch({("user_id", KNOWN_USER): 0}, deadline)
    assert not degraded
    return int(rows[0])


def refused(remote: RemoteVocabulary) -> float:
    """The number of times that the mark was refused."""
    return remote.metrics.errors.totals()["mark"]


async def test_it_is_marked_while_it_is_used(published: RedisServer, bundle: Bundle) -> None:
    """The mark expires by itself some minutes after the last service has ended."""
    async with remote_vocabulary(bundle, published.url) as remote:
        assert 0 < mark_seconds(published, bundle) <= 300
        assert remote.marked
        assert remote.problem is None


@refusals
async def test_a_refused_mark_is_told_and_tried_again(
    published: RedisServer, bundle: Bundle, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    """Look-ups go on; the problem shows until a later refresh succeeds, and the log tells both."""
    caplog.set_level(logging.INFO)
    do(published, refusal.begin)
    async with remote_vocabulary(bundle, url_of(published)) as remote:
        await until(lambda: not remote.marked, "the refusal is noticed")
        assert remote.breaker.closed
        assert "prune may remove it" in (remote.problem or "")
        assert await row_of_a_user(remote) == rows_of(bundle, "user_id")[KNOWN_USER]
        errors = refused(remote)
        await until(lambda: refused(remote) > errors + 2, "it is tried again")
        assert mark_seconds(published, bundle) < 0
        do(published, refusal.end)
        await until(lambda: remote.marked, "the mark is written")
        assert remote.problem is None
        assert 0 < mark_seconds(published, bundle) <= 300
        assert remote.breaker.closed
    told = [r.getMessage() for r in caplog.records if "mark" in r.getMessage()]
    assert len(told) == 2, "one line for the beginning and one for the end"
    assert refusal.code in told[0]


@refusals
async def test_a_refusal_of_one_refresh_leaves_the_vocabulary_marked(
    published: RedisServer, bundle: Bundle, refusal: Refusal
) -> None:
    """Afterwards the mark is renewed as before, and the vocabulary is not removed by mistake."""
    async with remote_vocabulary(bundle, url_of(published)) as remote:
        do(published, refusal.begin)
        await until(lambda: refused(remote) > 0, "it is refused")
        do(published, refusal.end)
        # As if it had not been renewed for long.
        published.command("EXPIRE", in_use(bundle.manifest.vocabulary_hash), 5)
        await until(lambda: mark_seconds(published, bundle) > 100, "the mark is renewed")
        async with linked(published.url) as link:
            with pytest.raises(PublishError, match="a service uses"):
                await unpublish(link, bundle.manifest.vocabulary_hash)
        await until(lambda: remote.marked, "the problem is over")


async def test_a_full_redis_keeps_the_mark(published: RedisServer, bundle: Bundle) -> None:
    """Freeing memory by ``prune`` must not remove what services use: the expiry is renewed."""
    async with remote_vocabulary(bundle, url_of(published)) as remote:
        do(published, ("CONFIG", "SET", "maxmemory", 1))
        await until(lambda: refused(remote) > 1, "it is refused")
        published.command("EXPIRE", in_use(bundle.manifest.vocabulary_hash), 5)
        await until(lambda: mark_seconds(published, bundle) > 100, "the expiry is renewed")
        assert remote.marked
        assert remote.problem is None


async def test_a_login_that_may_only_read_is_enough(published: RedisServer, bundle: Bundle) -> None:
    """Without the right to write the vocabulary is used all the same, and the problem told."""
    published.command("ACL", "SETUSER", "reader", "on", ">pw", "~ctr:*", "+hget", "+hmget")
    url = published.url.replace("://", "://reader:pw@")
    async with remote_vocabulary(bundle, url) as remote:
        assert await row_of_a_user(remote) == rows_of(bundle, "user_id")[KNOWN_USER]
        assert not remote.marked


async def test_a_demoted_primary_is_left(published: RedisServer, bundle: Bundle) -> None:
    """After a failover a connection may be to a replica: each try uses a new connection."""
    async with (
        linked(published.url) as watching,
        remote_vocabulary(bundle, url_of(published)) as remote,
    ):
        do(published, ("REPLICAOF", "127.0.0.1", "PORT"))
        await until(lambda: not remote.marked, "it is refused")
        errors, before = refused(remote), await connections_of(watching)
        await until(lambda: refused(remote) > errors + 4, "probes go on")
        assert await connections_of(watching) >= before + 4
