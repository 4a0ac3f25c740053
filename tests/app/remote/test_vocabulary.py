"""Rows out of Redis are those of the bundle, or their absence is told; never another row."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.errors import VocabularyUnavailable
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, settle
from app.remote.redis_layout import REGISTER, Entry
from app.remote.vocabulary import RemoteVocabulary
from tests.support.encoding import encoded_columns
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.samples import KNOWN_USER, Sample, candidate_of, context_of
from tests.support.serving import wait_until
from tests.support.vocabularies import (
    linked,
    place_of,
    publish_to,
    remote_vocabulary,
    rows_of,
    slots_of,
)

pytestmark = pytest.mark.anyio
LATER = 30.0
UNSEEN = 987_654_321_987


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, mapped=True)


@pytest.fixture
async def published(redis_server: RedisServer, tiny_bundle: Path) -> RedisServer:
    """A Redis that holds the bundle's vocabulary."""
    await publish_to(redis_server.url, tiny_bundle)
    return redis_server


async def fetch(
    remote: RemoteVocabulary, slot: str, *keys: int | str, seconds: float = LATER
) -> tuple[list[int], bool]:
    """The rows of keys of one slot, and whether some are degraded."""
    misses: Misses = {(slot, key): place for place, key in enumerate(keys)}
    rows, degraded = await remote.fetch(misses, asyncio.get_running_loop().time() + seconds)
    return rows.tolist(), degraded


async def test_every_value_has_its_row(published: RedisServer, bundle: Bundle) -> None:
    """Through Redis each known value has the bundle's row, an unknown one that of OOV."""
    async with remote_vocabulary(bundle, published.url) as remote:
        for name, keys in slots_of(bundle).items():
            rows = rows_of(bundle, name)
            unseen = UNSEEN if name.endswith("_id") else "odd"
            found, degraded = await fetch(remote, name, *rows, unseen)
            assert found == [*rows.values(), keys.slot.oov]
            assert not degraded
        assert remote.metrics.fallbacks.totals() == {"snapshot": 0, "oov": 0, "reject": 0}


async def test_nothing_of_it_is_kept_once_it_is_closed(
    published: RedisServer, tiny_bundle: Path
) -> None:
    """A service takes up bundle after bundle, and its collector looks at nothing that was loaded:
    references must be enough to free a vocabulary, its cache and the files that it maps.
    """
    bundle = Bundle.open(tiny_bundle, mapped=True)
    gc.disable()
    try:
        async with remote_vocabulary(bundle, published.url) as remote:
            await fetch(remote, "user_id", KNOWN_USER, UNSEEN)
            kept = weakref.ref(remote)
        await asyncio.sleep(0)
        del remote
        assert kept() is None
    finally:
        gc.enable()


async def test_what_was_found_is_remembered(published: RedisServer, bundle: Bundle) -> None:
    """Rows and absences are asked for once: afterwards the encoder's tables hold them."""
    async with remote_vocabulary(bundle, published.url) as remote:
        found, _ = await fetch(remote, "user_id", KNOWN_USER, UNSEEN)
        table = remote.cache.tables["user_id"]
        assert [table[KNOWN_USER], table[UNSEEN]] == found
        trips = remote.metrics.counts["round_trips"]
        assert (await fetch(remote, "user_id", KNOWN_USER, UNSEEN))[0] == found
        assert remote.metrics.counts["round_trips"] == trips == 1
        assert remote.metrics.counts["absences"] == 1


async def test_the_cache_keeps_its_limit(published: RedisServer, bundle: Bundle) -> None:
    """However many values are fetched, and wherever they come from, no more are remembered."""
    users = [*rows_of(bundle, "user_id"), *range(10**12, 10**12 + 300)]
    async with remote_vocabulary(bundle, published.url, "snapshot", cache_entries=50) as remote:
        for start in range(0, len(users), 60):
            await fetch(remote, "user_id", *users[start : start + 60])
            assert remote.cache.entries <= 50
        published.stop()
        for start in range(0, len(users), 60):
            await fetch(remote, "user_id", *users[start : start + 60])
            assert remote.cache.entries <= 50
        assert remote.metrics.counts["evicted"] == remote.cache.evicted > 0


@pytest.mark.parametrize("entries", [1, 5, 100_000])
async def test_rows_encoded_through_redis_are_those_of_memory(
    published: RedisServer, bundle: Bundle, sample: Sample, entries: int
) -> None:
    """Every line of the log, by row and by column, however little the cache may hold."""
    memory = Encoder(bundle.spec, bundle.vocabulary)
    async with remote_vocabulary(bundle, published.url, cache_entries=entries) as remote:
        through = Encoder(bundle.spec, bundle.vocabulary, remote.cache.tables)
        for start in range(0, 400, 20):
            rows = sample.rows[start : start + 20]
            misses: Misses = {}
            contexts = [through.context.row(context_of(row), misses) for row in rows]
            packed = [through.candidate.row(candidate_of(row), misses) for row in rows]
            columns = {name: [row.get(name) for row in rows] for name in through.candidate.fields}
            matrix = encoded_columns(through.candidate, columns, len(rows), misses)
            deadline = asyncio.get_running_loop().time() + LATER
            found, degraded = await remote.fetch(misses, deadline)
            assert not degraded
            assert [settle(each, found, through.context.shape) for each in contexts] == [
                memory.context.row(context_of(row)) for row in rows
            ]
            expected = [memory.candidate.row(candidate_of(row)) for row in rows]
            assert [settle(each, found, through.candidate.shape) for each in packed] == expected
            assert settle(matrix.data.cast("B"), found, through.candidate.shape) == b"".join(
                expected
            )
        assert remote.cache.entries <= max(entries, 2 * len(remote.cache.tables))


async def test_concurrent_requests_share_round_trips(
    published: RedisServer, bundle: Bundle
) -> None:
    """A value that many want at once is asked once."""
    async with remote_vocabulary(bundle, published.url) as remote:
        users = [user for user in rows_of(bundle, "user_id") if user != KNOWN_USER]
        found = await asyncio.gather(
            *(fetch(remote, "user_id", user, KNOWN_USER) for user in users)
        )
        assert {rows[1] for rows, _ in found} == {rows_of(bundle, "user_id")[KNOWN_USER]}
        assert remote.metrics.counts["round_trips"] == 1


# Wrong answers.


@pytest.mark.parametrize(
    "content",
    ["table_size", "1000000000", "text", "-5", "", "12.0", "other", "missing", "oov", "mean"],
)
async def test_a_bad_row_is_never_used(
    published: RedisServer, bundle: Bundle, content: str
) -> None:
    """No number, no row of the table, or one of another slot: an error that counts as OOV.

    It is not remembered, so that a repaired value is right again.
    """
    layout = bundle.vocabulary.layout
    slot = slots_of(bundle)["user_id"].slot
    other = next(iter(rows_of(bundle, "item_id").values()))
    named = {
        "table_size": layout.table_rows,
        "other": other,
        "missing": slot.missing,
        "oov": slot.oov,
        "mean": slot.mean,
    }
    async with remote_vocabulary(bundle, published.url) as remote:
        good = rows_of(bundle, "user_id")
        user = next(user for user in good if user != KNOWN_USER)
        place = place_of(bundle, "user_id", user)
        published.command("HSET", *place, named.get(content, content))
        for _ in range(2):
            found, degraded = await fetch(remote, "user_id", user, KNOWN_USER)
            assert found == [slot.oov, good[KNOWN_USER]]
            assert degraded
        assert remote.metrics.errors["value"] == 2
        assert remote.breaker.closed
        published.command("HSET", *place, good[user])
        assert await fetch(remote, "user_id", user) == ([good[user]], False)


async def test_without_its_sentinel_a_bucket_knows_nothing(
    published: RedisServer, bundle: Bundle
) -> None:
    """An emptied Redis is no Redis in which nothing is known."""
    async with remote_vocabulary(bundle, published.url, "snapshot") as remote:
        published.command("FLUSHALL")
        assert await fetch(remote, "user_id", KNOWN_USER, UNSEEN) == (
            [rows_of(bundle, "user_id")[KNOWN_USER], slots_of(bundle)["user_id"].slot.oov], False,
        )  # fmt: skip
        assert remote.metrics.errors["sentinel"] == 2
        assert remote.metrics.counts["absences"] == 0
        await asyncio.to_thread(wait_until, lambda: not remote.breaker.closed, "it is noticed")
        assert "not published" in (remote.problem or "")


async def test_another_buckets_content_is_not_believed(
    published: RedisServer, bundle: Bundle
) -> None:
    """A sentinel with another name says that this answer belongs to another question."""
    async with remote_vocabulary(bundle, published.url) as remote:
        user, item = (place_of(bundle, name, next(iter(rows_of(bundle, name))))[0]
                      for name in ("user_id", "item_id"))  # fmt: skip
        published.command("RENAME", item, user)
        found, degraded = await fetch(remote, "user_id", KNOWN_USER)
        assert (found, degraded) == ([slots_of(bundle)["user_id"].slot.oov], True)
        assert remote.metrics.errors["sentinel"] == 1
        assert KNOWN_USER not in remote.cache.tables["user_id"]


async def test_a_key_of_another_type_is_not_believed(
    published: RedisServer, bundle: Bundle
) -> None:
    """Redis' refusal of one command concerns that value only."""
    async with remote_vocabulary(bundle, published.url) as remote:
        published.command("SET", place_of(bundle, "user_id", KNOWN_USER)[0], "text")
        misses: Misses = {("user_id", KNOWN_USER): 0, ("country", "DE"): 1}
        deadline = asyncio.get_running_loop().time() + LATER
        rows, degraded = await remote.fetch(misses, deadline)
        assert rows.tolist() == [
            slots_of(bundle)["user_id"].slot.oov, rows_of(bundle, "country")["DE"],
        ]  # fmt: skip
        assert degraded
        assert remote.metrics.errors["refused"] == 1


async def test_a_redis_that_says_otherwise_than_the_bundle_is_not_used(
    published: RedisServer, bundle: Bundle
) -> None:
    """Values of the golden requests must have the bundle's rows before any other is believed."""
    rows = rows_of(bundle, "placement")
    first, second = list(rows)[:2]
    published.command("HSET", *place_of(bundle, "placement", first), rows[second])
    async with remote_vocabulary(bundle, published.url, wait=False) as remote:
        await asyncio.to_thread(
            wait_until, lambda: "another row" in (remote.problem or ""), "it is noticed"
        )
        assert not remote.breaker.closed
        assert (await fetch(remote, "placement", first))[1]


async def test_what_is_too_long_to_be_known_is_not_asked(
    published: RedisServer, bundle: Bundle
) -> None:
    """A text longer than any known one is OOV without a question, and takes no room."""
    async with remote_vocabulary(bundle, published.url) as remote:
        text = "x" * 100_000
        assert await fetch(remote, "country", text) == (
            [slots_of(bundle)["country"].slot.oov],
            False,
        )
        assert remote.metrics.counts["round_trips"] == 0
        assert text not in remote.cache.tables["country"]


# No answers.


@pytest.fixture(params=["stopped", "silent", "emptied"])
async def failing(request: pytest.FixtureRequest, published: RedisServer) -> RedisServer:
    """A Redis that will be of no use in one of three ways, once a test lets it fail."""
    published.kind_of_failure = request.param  # type: ignore[attr-defined]
    return published


async def fail(server: RedisServer) -> None:
    """Let a Redis fail in its way."""
    kind: str = server.kind_of_failure  # type: ignore[attr-defined]
    if kind == "stopped":
        await asyncio.to_thread(server.stop)
    elif kind == "silent":
        server.freeze()
    else:
        server.command("FLUSHALL")


async def test_the_snapshot_stands_in(failing: RedisServer, bundle: Bundle) -> None:
    """The bundle's own copy gives the right rows, remembered like those of Redis."""
    async with remote_vocabulary(bundle, failing.url, "snapshot", seconds=0.2) as remote:
        await fail(failing)
        for name, keys in slots_of(bundle).items():
            rows = rows_of(bundle, name)
            unseen = UNSEEN if name.endswith("_id") else "odd"
            assert await fetch(remote, name, *rows, unseen) == (
                [*rows.values(), keys.slot.oov],
                False,
            )
            assert remote.cache.tables[name].items() >= rows.items()
        assert remote.metrics.fallbacks["snapshot"] > 0


async def test_oov_stands_in_and_says_so(failing: RedisServer, bundle: Bundle) -> None:
    """Without an answer a value counts as OOV, the result says so, and nothing is remembered."""
    async with remote_vocabulary(bundle, failing.url, "oov", seconds=0.2) as remote:
        await fail(failing)
        assert await fetch(remote, "user_id", KNOWN_USER) == (
            [slots_of(bundle)["user_id"].slot.oov], True,
        )  # fmt: skip
        assert remote.cache.entries == 0


async def test_a_request_may_be_rejected_instead(failing: RedisServer, bundle: Bundle) -> None:
    """Where nothing may stand in, the caller is told; what is remembered still serves."""
    async with remote_vocabulary(bundle, failing.url, "reject") as remote:
        known = await fetch(remote, "user_id", KNOWN_USER)
        await fail(failing)
        with pytest.raises(VocabularyUnavailable):
            await fetch(remote, "user_id", UNSEEN, seconds=0.2)
        assert await fetch(remote, "user_id", KNOWN_USER) == known


async def test_it_comes_back_by_itself(
    failing: RedisServer, tiny_bundle: Path, bundle: Bundle
) -> None:
    """Stopped and started, frozen and thawed, emptied and published again: it is asked again."""
    async with remote_vocabulary(bundle, failing.url, "oov", seconds=0.2) as remote:
        await fail(failing)
        await fetch(remote, "user_id", KNOWN_USER)
        await asyncio.to_thread(wait_until, lambda: not remote.breaker.closed, "it is noticed")
        if failing.kind_of_failure == "silent":  # type: ignore[attr-defined]
            failing.thaw()
        else:
            if failing.kind_of_failure == "stopped":  # type: ignore[attr-defined]
                await asyncio.to_thread(failing.start)
            await publish_to(failing.url, tiny_bundle)
        await asyncio.to_thread(wait_until, lambda: remote.breaker.closed, "it is back", 30)
        remote._seconds = LATER
        assert await fetch(remote, "user_id", KNOWN_USER, seconds=LATER) == (
            [rows_of(bundle, "user_id")[KNOWN_USER]], False,
        )  # fmt: skip


async def test_while_it_fails_it_is_not_asked(published: RedisServer, bundle: Bundle) -> None:
    """After the first failure requests wait for nothing: their values fall back at once."""
    async with remote_vocabulary(bundle, published.url, "oov", seconds=0.2) as remote:
        published.freeze()
        await fetch(remote, "user_id", KNOWN_USER)
        await asyncio.to_thread(wait_until, lambda: not remote.breaker.closed, "it is noticed")
        trips = remote.metrics.counts["round_trips"]
        for number in range(200):
            assert (await fetch(remote, "user_id", number + 10**12))[1]
        assert remote.metrics.counts["round_trips"] == trips


async def test_a_slow_redis_costs_no_more_than_allowed(
    published: RedisServer, bundle: Bundle
) -> None:
    """The time of a request for Redis is bounded by its own deadline, too."""
    with Proxy(published.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with remote_vocabulary(bundle, url, "oov", seconds=600) as remote:
            proxy.delay = 600
            async with asyncio.timeout(LATER):
                assert (await fetch(remote, "user_id", KNOWN_USER, seconds=0.05))[1]


# Being published.


async def test_an_unfinished_vocabulary_is_not_used(published: RedisServer, bundle: Bundle) -> None:
    """Until the register says complete, nothing is asked; then it is taken up by itself."""
    async with linked(published.url) as link:
        identity = bundle.manifest.vocabulary_hash
        [raw] = await link.ask([("HGET", REGISTER, identity)], LATER)
        unfinished = raw.replace(b'"complete"', b'"publishing"')
        assert Entry.decode(unfinished).state == "publishing"
        await link.ask([("HSET", REGISTER, identity, unfinished)], LATER)
        async with remote_vocabulary(bundle, published.url, wait=False) as remote:
            await asyncio.to_thread(
                wait_until,
                lambda: "still being published" in (remote.problem or ""),
                "it is seen",
            )
            assert (await fetch(remote, "user_id", KNOWN_USER))[1]
            await link.ask([("HSET", REGISTER, identity, raw)], LATER)
            async with asyncio.timeout(30):
                await remote.breaker.reached()
            assert not (await fetch(remote, "user_id", KNOWN_USER))[1]


async def test_many_misses_of_one_request(published: RedisServer, bundle: Bundle) -> None:
    """Thousands of values, each in its place."""
    async with remote_vocabulary(bundle, published.url) as remote:
        users = rows_of(bundle, "user_id")
        unseen = list(range(10**12, 10**12 + 5_000))
        keys = [*unseen[:2_500], *users, *unseen[2_500:]]
        found, degraded = await fetch(remote, "user_id", *keys)
        oov = slots_of(bundle)["user_id"].slot.oov
        assert found == [oov] * 2_500 + list(users.values()) + [oov] * 2_500
        assert not degraded
        assert np.array(found).dtype.kind == "i"
