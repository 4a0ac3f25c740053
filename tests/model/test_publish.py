"""A vocabulary is in Redis whole and checked, or not to be seen; and it goes without a trace."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from app.bundle.bundle import Bundle
from app.errors import LinkError
from app.remote.link import Command, Link, Reply
from app.remote.redis_layout import REGISTER, SENTINEL, Entry, in_use, text_of
from model import publish as module
from model.publish import PublishError, listed, prune, publish, unpublish
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.serving import wait_until
from tests.support.starting import run, start
from tests.support.vocabularies import linked, place_of, publish_now, publish_to, rows_of, slots_of

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SECONDS = 30.0


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, mapped=True)


async def entry_in(link: Link, bundle: Bundle) -> Entry | None:
    """Return the register's entry of a bundle's vocabulary."""
    [raw] = await link.ask([("HGET", REGISTER, bundle.manifest.vocabulary_hash)], SECONDS)
    return None if raw is None else Entry.decode(raw)


async def keys_in(link: Link) -> int:
    """The number of keys that a server holds."""
    [count] = await link.ask([("DBSIZE",)], SECONDS)
    assert isinstance(count, int)
    return count


async def stored(link: Link, bundle: Bundle) -> None:
    """Check that every value of every published slot has its row and its sentinel, and no more."""
    for name, keys in slots_of(bundle).items():
        expected: list[dict[bytes, bytes]] = [
            {SENTINEL: keys.sentinel(bucket)} for bucket in range(keys.buckets)
        ]
        for key, row in rows_of(bundle, name).items():
            expected[keys.of(text_of(key))][text_of(key)] = b"%d" % row
        replies = await link.ask(
            [("HGETALL", keys.name(bucket)) for bucket in range(keys.buckets)], SECONDS
        )
        assert [dict(zip(r[::2], r[1::2], strict=True)) for r in replies] == expected


async def test_everything_is_there(redis_server: RedisServer, bundle: Bundle) -> None:
    """Every value of categorical fields, nothing of the others, and the register says so."""
    assert set(slots_of(bundle)) == {"user_id", "country", "placement", "item_id", "tags"}
    async with linked(redis_server.url) as link:
        done = await publish(link, bundle, progress=False)
        await stored(link, bundle)
        entry = await entry_in(link, bundle)
        assert entry == done.entry
        assert (entry.state, entry.bundle) == ("complete", bundle.version)
        assert entry.values == sum(len(rows_of(bundle, name)) for name in slots_of(bundle))
        assert done.written == await keys_in(link) - 1 == len(list(entry.names()))
        assert done.warnings == ()


async def test_repeating_it_changes_nothing(redis_server: RedisServer, bundle: Bundle) -> None:
    """A second time nothing is written and the entry stays as it was."""
    async with linked(redis_server.url) as link:
        first = await publish(link, bundle, progress=False)
        second = await publish(link, bundle, progress=False)
        assert (second.written, second.entry) == (0, first.entry)
        await stored(link, bundle)


async def test_it_mends_what_is_damaged(redis_server: RedisServer, bundle: Bundle) -> None:
    """A changed value, one too many, a lost bucket and a key of another type are put right."""
    async with linked(redis_server.url) as link:
        await publish(link, bundle, progress=False)
        damaged = [place_of(bundle, name, next(iter(rows_of(bundle, name)))) for name in
                   ("user_id", "country", "item_id", "tags")]  # fmt: skip
        await link.ask(
            [
                ("HSET", *damaged[0], "999999"),
                ("HSET", damaged[1][0], "odd", "5"),
                ("DEL", damaged[2][0]),
                ("SET", damaged[3][0], "text"),
            ],
            SECONDS,
        )
        done = await publish(link, bundle, progress=False)
        assert done.written == 4
        await stored(link, bundle)


@dataclass
class Failing:
    """A link that fails from its n-th question on, and may lose what it is told to write."""

    link: Link
    questions: int = 10**9
    loses: bool = False

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Reply]:
        self.questions -= 1
        if self.questions < 0:
            raise LinkError("connection", "the cable was pulled")
        if self.loses and commands[0][0] == "HSET" and commands[0][1] != REGISTER:
            return [0] * len(commands)
        return await self.link.ask(commands, seconds)

    async def ask_all(self, command: Command, seconds: float) -> list[Reply]:
        return await self.link.ask_all(command, seconds)

    async def close(self) -> None:
        await self.link.close()


async def test_broken_off_anywhere_it_is_not_seen(
    redis_server: RedisServer, bundle: Bundle
) -> None:
    """Wherever it ends, the register does not say complete, and going on completes it."""
    async with linked(redis_server.url) as link:
        questions = 0
        while True:
            try:
                await publish(Failing(link, questions), bundle, progress=False)
                break
            except LinkError:
                found = await entry_in(link, bundle)
                assert found is None or found.state == "publishing"
                questions += 1
        assert questions > 5, "it was broken off at many places"
        await stored(link, bundle)


async def test_going_on_writes_only_the_rest(
    redis_server: RedisServer, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets that an earlier attempt has written are checked and kept."""
    monkeypatch.setattr(module, "CHUNK_BUCKETS", 1)
    async with linked(redis_server.url) as link:
        with pytest.raises(LinkError):
            await publish(Failing(link, 8), bundle, progress=False)
        there = await keys_in(link) - 1
        done = await publish(link, bundle, progress=False)
        assert 0 < there < len(list(done.entry.names()))
        assert done.written == len(list(done.entry.names())) - there


async def test_what_does_not_come_back_is_not_seen(
    redis_server: RedisServer, bundle: Bundle
) -> None:
    """A server that loses what was written gets no complete entry."""
    async with linked(redis_server.url) as link:
        with pytest.raises(PublishError, match="does not return what was written"):
            await publish(Failing(link, loses=True), bundle, progress=False)
        found = await entry_in(link, bundle)
        assert found is not None
        assert found.state == "publishing"


async def test_removed_meanwhile_it_is_not_seen(
    redis_server: RedisServer, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes a vocabulary while it is being published has the last word."""
    converge = module._converge

    async def removed(link: Link, *others: object) -> int:
        written: int = await converge(link, *others)  # type: ignore[arg-type]
        await link.ask([("HDEL", REGISTER, bundle.manifest.vocabulary_hash)], SECONDS)
        return written

    monkeypatch.setattr(module, "_converge", removed)
    async with linked(redis_server.url) as link:
        with pytest.raises(PublishError, match="by somebody else"):
            await publish(link, bundle, progress=False)
        assert await entry_in(link, bundle) is None


async def test_begun_by_another_meanwhile_it_is_not_complete(
    redis_server: RedisServer, bundle: Bundle
) -> None:
    """A publishing that another one has taken over does not call it complete, the other's does."""
    identity = bundle.manifest.vocabulary_hash
    async with linked(redis_server.url) as link:
        foreign = msgspec.structs.replace(
            (await publish(link, bundle, progress=False)).entry, state="publishing", writer="other"
        )
        await unpublish(link, identity)
        # The second look at the register, which follows the writing.
        taken_over = Interrupted(
            link, ("HGET", REGISTER, identity), 2, [("HSET", REGISTER, identity, foreign.encode())]
        )
        with pytest.raises(PublishError, match="by somebody else"):
            await publish(taken_over, bundle, progress=False)
        assert await entry_in(link, bundle) == foreign


@dataclass
class Interrupted:
    """A link that lets another actor's commands in, before a command comes for the n-th time."""

    link: Link
    command: Command
    times: int
    commands: Sequence[Command]

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Reply]:
        if self.command in commands:
            self.times -= 1
            if self.times == 0:
                await self.link.ask(self.commands, seconds)
        return await self.link.ask(commands, seconds)

    async def ask_all(self, command: Command, seconds: float) -> list[Reply]:
        return await self.link.ask_all(command, seconds)

    async def close(self) -> None:
        await self.link.close()


async def test_eviction_is_warned_of(redis_server: RedisServer, bundle: Bundle) -> None:
    """A server that may throw keys away is named as one."""
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with linked(redis_server.url) as link:
        [warning] = (await publish(link, bundle, progress=False)).warnings
    assert "allkeys-lru" in warning


async def test_a_full_server_is_told(redis_server: RedisServer, bundle: Bundle) -> None:
    """A write that Redis refuses is an error in Redis' words, and nothing is seen."""
    async with linked(redis_server.url) as link:
        redis_server.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(PublishError, match="OOM"):
            await publish(link, bundle, progress=False)
        redis_server.command("CONFIG", "SET", "maxmemory", 0)
        assert await entry_in(link, bundle) is None


async def test_two_at_once_end_complete(redis_server: RedisServer, bundle: Bundle) -> None:
    """Two publishings of one vocabulary: at least one succeeds, and it is there."""
    async with linked(redis_server.url) as first, linked(redis_server.url) as second:
        found = await asyncio.gather(
            publish(first, bundle, progress=False),
            publish(second, bundle, progress=False),
            return_exceptions=True,
        )
        assert any(not isinstance(each, BaseException) for each in found)
        entry = await entry_in(first, bundle)
        assert entry is not None
        assert entry.state == "complete"
        await stored(first, bundle)


# Removing.


async def test_unpublishing_leaves_nothing(redis_server: RedisServer, tiny_bundle: Path) -> None:
    """All keys are gone, the register's entry first of all."""
    done = await publish_to(redis_server.url, tiny_bundle)
    async with linked(redis_server.url) as link:
        assert await unpublish(link, done.entry.hash[:8]) == done.entry
        assert await keys_in(link) == 0


async def test_what_is_in_use_is_not_removed_lightly(
    redis_server: RedisServer, tiny_bundle: Path
) -> None:
    """A vocabulary that a service uses is refused, unless forced."""
    done = await publish_to(redis_server.url, tiny_bundle)
    async with linked(redis_server.url) as link:
        await link.ask([("SET", in_use(done.entry.hash), "x")], SECONDS)
        with pytest.raises(PublishError, match="a service uses"):
            await unpublish(link, done.entry.hash)
        assert (await listed(link))[0].in_use
        await unpublish(link, done.entry.hash, force=True)
        assert await listed(link) == []


@pytest.mark.parametrize("name", ["", "0", "zzzzzzzz", "00000000", "*"])
async def test_one_vocabulary_must_be_meant(
    redis_server: RedisServer, tiny_bundle: Path, name: str
) -> None:
    """A name that fits none, or is too short to be meant, removes nothing."""
    await publish_to(redis_server.url, tiny_bundle)
    async with linked(redis_server.url) as link:
        with pytest.raises(PublishError):
            await unpublish(link, name)
        assert len(await listed(link)) == 1


async def test_pruning(redis_server: RedisServer, bundle: Bundle) -> None:
    """The latest are kept, and those in use, and unfinished ones unless they are old."""
    async with linked(redis_server.url) as link:
        done = await publish(link, bundle, progress=False)
        now = datetime.now(UTC)

        async def put(digit: str, age: timedelta, state: str = "complete") -> str:
            entry = msgspec.structs.replace(
                done.entry, hash=digit * 64, published=(now - age).isoformat(), state=state
            )
            await link.ask([("HSET", REGISTER, entry.hash, entry.encode())], SECONDS)
            keys: list[Command] = [("HSET", key, SENTINEL, "x") for key in entry.names()]
            await link.ask(keys, SECONDS)
            return entry.hash

        hour, day = timedelta(hours=1), timedelta(days=1)
        new, used, old = await put("1", hour), await put("2", 2 * hour), await put("3", 3 * hour)
        fresh, stale = await put("4", hour, "publishing"), await put("5", 2 * day, "publishing")
        await link.ask([("SET", in_use(used), "x")], SECONDS)
        assert {each.entry.hash: each.in_use for each in await listed(link)}[used]
        gone = await prune(link, keep=2)
        assert {entry.hash for entry in gone} == {old, stale}
        kept = {each.entry.hash for each in await listed(link)}
        assert kept == {done.entry.hash, new, used, fresh}
        await link.ask([("DEL", in_use(used))], SECONDS)
        buckets = len(list(done.entry.names()))
        assert await keys_in(link) == 1 + 4 * buckets


async def test_one_that_is_taken_into_use_meanwhile_is_not_pruned(
    redis_server: RedisServer, bundle: Bundle
) -> None:
    """A service may begin to use a vocabulary after the list was made and before it is removed."""
    async with linked(redis_server.url) as link:
        done = await publish(link, bundle, progress=False)
        now = datetime.now(UTC) + timedelta(hours=1)
        newer = msgspec.structs.replace(done.entry, hash="1" * 64, published=now.isoformat())
        await link.ask([("HSET", REGISTER, newer.hash, newer.encode())], SECONDS)
        mark = in_use(done.entry.hash)
        meanwhile = Interrupted(link, ("EXISTS", mark), 2, [("SET", mark, "x")])
        assert await prune(meanwhile, keep=1) == []
        await stored(link, bundle)


# The commands.


def command(*words: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run one of the trainer's commands; Redis' address comes by the environment."""
    return run("model", *words, env={**os.environ, "CTR_REDIS_URL": url})


def test_the_commands(valkey: RedisServer, tiny_bundle: Path, bundle: Bundle) -> None:
    """Publish, list, prune and unpublish, as they are typed."""
    identity = bundle.manifest.vocabulary_hash
    published = command("publish", str(tiny_bundle), url=valkey.url)
    assert (published.returncode, published.stdout) == (0, f"{identity}\n"), published.stderr
    assert "values of" in published.stderr
    shown = command("list", url=valkey.url)
    assert shown.returncode == 0
    assert shown.stdout.split()[0] == identity[:12]
    assert {"complete", bundle.version} <= set(shown.stdout.split())
    assert command("prune", "--keep", "1", url=valkey.url).stdout == ""
    gone = command("unpublish", identity[:12], url=valkey.url)
    assert (gone.returncode, gone.stdout) == (0, f"{identity}\n")
    assert command("list", url=valkey.url).stdout == ""


@pytest.mark.parametrize(
    ("url", "problem"),
    [("nonsense", "must begin with"), ("redis://127.0.0.1:1", "cannot be reached")],
)
def test_no_redis_is_one_clear_line(tiny_bundle: Path, url: str, problem: str) -> None:
    """An address of no use ends with 1 and one line."""
    ended = command("publish", str(tiny_bundle), url=url)
    assert ended.returncode == 1
    assert problem in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_killed_half_way_it_is_not_seen(
    valkey: RedisServer, tiny_bundle: Path, bundle: Bundle, tmp_path: Path
) -> None:
    """SIGKILL in the middle leaves no complete entry; the command repeated completes it."""

    def half_way() -> bool:
        return int(valkey.command("DBSIZE")[1:]) >= 3

    with Proxy(valkey.port, holds=half_way) as proxy, (tmp_path / "out").open("wb") as out:
        url = f"redis://127.0.0.1:{proxy.port}"
        words = [sys.executable, "-m", "model", "publish", str(tiny_bundle), "--redis", url]
        process = start(words, os.environ, out, None)
        wait_until(half_way, "half-way", 60)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    assert (tmp_path / "out").read_bytes() == b""

    async def state() -> str:
        async with linked(valkey.url) as link:
            found = await entry_in(link, bundle)
            assert found is not None
            return found.state

    assert asyncio.run(state()) == "publishing"
    publish_now(valkey.url, tiny_bundle)
    assert asyncio.run(state()) == "complete"


async def test_bundles_with_one_vocabulary_share_it(
    redis_server: RedisServer, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A copy of a bundle finds its vocabulary published."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    await publish_to(redis_server.url, tiny_bundle)
    assert (await publish_to(redis_server.url, copy)).written == 0
