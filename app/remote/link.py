"""The connection to Redis: many commands in, their replies out, in one round trip.

redis-py finds the server, connects, encrypts and logs in; its retries are off, because ten of
them are its default and cost seconds. The round trip itself is written here, as its pipelines
cost several times more for each command. The rule that makes it safe: a connection whose
replies were not all read is closed, whatever the reason, so that no reply can ever reach the
wrong question.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import hiredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import (
    AskError,
    AuthenticationError,
    MovedError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.errors import AddressError, LinkError, Problem
from app.files import read_regular
from app.off_loop import run_off_loop
from app.remote.address import Address

Command = tuple[bytes | str | int, ...]
Reply = Any
"""A reply as redis-py decodes it: bytes, int, list or None; or an :class:`ErrorReply`."""


class ErrorReply(Exception):
    """Redis answered a command with an error; its code is the error's first word."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]

    @property
    def problem(self) -> Problem:
        """The refusal as a problem: what Redis says may name a user."""
        return Problem("Redis refuses a command", str(self))


class Link(Protocol):
    """A connection to Redis, of any kind."""

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Reply]:
        """Send commands together and return their replies, connecting first where needed.

        Raises:
            LinkError: not all replies were there after so many seconds.
        """
        ...

    async def ask_all(self, command: Command, seconds: float) -> list[Reply]:
        """Ask every primary server the same, and return their replies.

        Raises:
            LinkError: a reply was not there after so many seconds.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


def open_link(address: Address, connections: int, password_file: Path | None = None) -> Link:
    """Return a link that holds at most so many connections (to each node of a cluster).

    Nothing is connected yet. ``password_file`` (default: the address's) holds a password, or a user
    and a password on two lines, and is read at each connecting, so that a password may change.

    Raises:
        AddressError: the password file cannot be read, or a login is given twice.
    """
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    password_file = password_file or address.password_file
    if password_file is not None:
        if address.password is not None:
            raise AddressError("the password is given in the URL and in a file")
        file = _PasswordFile(address.username, password_file)
        file.get_credentials()
        login = {"credential_provider": file}
    kwargs = {**_common(), **login}
    tls = dict(address.tls_files)
    if address.kind == "cluster":
        return _ClusterLink(address, connections, {**kwargs, **tls})
    kwargs["db"] = address.database
    if address.kind == "sentinel":
        sentinels = Sentinel(
            address.nodes,
            sentinel_kwargs={
                **_common(),
                **tls,
                "ssl": address.tls,
                "username": address.sentinel_username,
                "password": address.sentinel_password,
                "socket_timeout": SENTINEL_SECONDS,
            },
        )
        if address.tls:
            kwargs |= {"ssl": True, **tls}
        pool: ConnectionPool = SentinelConnectionPool(address.service, sentinels, **kwargs)
        return _ServerLink(pool, connections, sentinels)
    connection_class: type[AbstractConnection] = Connection
    if address.socket is not None:
        connection_class, kwargs["path"] = UnixDomainSocketConnection, address.socket
    else:
        [(kwargs["host"], kwargs["port"])] = address.nodes
        if address.tls:
            connection_class = SSLConnection
            kwargs |= tls
    return _ServerLink(ConnectionPool(connection_class, **kwargs), connections)


SENTINEL_SECONDS = 0.5
"""Time limit of one sentinel; after it the next is asked."""


def _common() -> dict[str, Any]:
    # Every round trip stands under one time limit of its own, connecting included, so
    # redis-py needs none; a limit of its own would cost a task for each write.
    return {
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }


PASSWORD_BYTES = 2**16


class _PasswordFile(CredentialProvider):
    """The login that a file holds now."""

    def __init__(self, username: str | None, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            lines = read_regular(self._path, PASSWORD_BYTES).decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AddressError(f"the password file cannot be read: {error}") from error
        match lines:
            case [password] if password:
                return (self._username, password) if self._username else (password,)
            case [username, password] if username and password and not self._username:
                return username, password
        raise AddressError(
            "the password file must hold a password, or a user (unless the URL has one) and a"
            " password on two lines"
        )

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        # The file may lie on a disk that hangs.
        return await run_off_loop(self.get_credentials)


async def _converse(connection: AbstractConnection, commands: Sequence[Command]) -> list[Reply]:
    """Send commands and read as many replies; after any error the connection is closed."""
    try:
        # Something to read before anything was asked: the server has closed the connection.
        if connection.is_connected and await connection.can_read():
            await connection.disconnect(nowait=True)
        if not connection.is_connected:
            await connection.connect()
        packed = b"".join([hiredis.pack_command(cast(Any, command)) for command in commands])
        await connection.send_packed_command(packed, check_health=False)
        replies = [await _read(connection) for _ in commands]
        if any(isinstance(reply, ErrorReply) and reply.code == "READONLY" for reply in replies):
            # After a failover this may be the old primary. A new connection finds the new one.
            await connection.disconnect(nowait=True)
        return replies
    except BaseException:
        await connection.disconnect(nowait=True)
        raise


async def _read(connection: AbstractConnection) -> Reply:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        # redis-py keeps the error's code where it knows it apart from the message.
        code = getattr(error, "status_code", None)
        return ErrorReply(f"{code} {error}" if code else str(error)).with_traceback(None)


class _ServerLink:
    """One server, given by its address or by sentinels."""

    def __init__(
        self, pool: ConnectionPool, connections: int, sentinels: Sentinel | None = None
    ) -> None:
        self._pool = pool
        self._sentinels = sentinels
        self._free = asyncio.Semaphore(connections)
        self._idle: list[AbstractConnection] = []

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Reply]:
        try:
            async with asyncio.timeout(seconds), self._free:
                connection = self._idle.pop() if self._idle else self._pool.make_connection()
                try:
                    return await _converse(connection, commands)
                finally:
                    self._idle.append(connection)
        except Exception as error:
            raise _link_error(error) from error

    async def ask_all(self, command: Command, seconds: float) -> list[Reply]:
        return await self.ask([command], seconds)

    async def close(self) -> None:
        for connection in self._idle:
            await connection.disconnect(nowait=True)
        if self._sentinels is not None:
            await self._sentinels.aclose()
        await self._pool.aclose()


class _ClusterLink:
    """A cluster: the nodes that hold the commands' keys are asked side by side."""

    def __init__(self, address: Address, connections: int, kwargs: dict[str, Any]) -> None:
        self._cluster = RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in address.nodes],
            max_connections=connections,
            ssl=address.tls,
            **kwargs,
        )

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Reply]:
        return await self._bounded(lambda: self._ask_nodes(commands), seconds)

    async def ask_all(self, command: Command, seconds: float) -> list[Reply]:
        async def ask_primaries() -> list[Reply]:
            primaries = self._cluster.get_primaries()
            return [reply for node in primaries for reply in await _ask_node(node, [command])]

        return await self._bounded(ask_primaries, seconds)

    async def _bounded(
        self, ask: Callable[[], Awaitable[list[Reply]]], seconds: float
    ) -> list[Reply]:
        try:
            async with asyncio.timeout(seconds):
                await self._cluster.initialize()
                return await ask()
        except Exception as error:
            # Its map of the cluster may be the reason; the next question draws a new one.
            await self._cluster.aclose()
            raise _link_error(error) from error

    async def _ask_nodes(self, commands: Sequence[Command]) -> list[Reply]:
        parts: dict[str, tuple[ClusterNode, list[int]]] = {}
        for place, command in enumerate(commands):
            # A script's first key comes after its text and the number of its keys.
            key = command[3] if command[0] == "EVAL" else command[1]
            node = self._cluster.get_node_from_key(cast(str, key))
            assert node is not None
            parts.setdefault(node.name, (node, []))[1].append(place)
        replies: list[Reply] = [None] * len(commands)

        async def ask_node(node: ClusterNode, places: list[int]) -> None:
            found = await _ask_node(node, [commands[place] for place in places])
            for place, reply in zip(places, found, strict=True):
                if isinstance(reply, ErrorReply) and reply.code in ("MOVED", "ASK", "TRYAGAIN"):
                    reply = await self._follow(commands[place])
                replies[place] = reply

        async with asyncio.TaskGroup() as group:
            for node, places in parts.values():
                group.create_task(ask_node(node, places))
        return replies

    async def _follow(self, command: Command) -> Reply:
        """Ask again where the cluster says the key is now; redis-py learns the new place."""
        try:
            return await self._cluster.execute_command(*command)
        except (MovedError, AskError, TryAgainError) as error:
            raise LinkError("connection", "a key is being moved", str(error)) from error
        except ResponseError as error:
            return ErrorReply(str(error))

    async def close(self) -> None:
        await self._cluster.aclose()


async def _ask_node(node: ClusterNode, commands: Sequence[Command]) -> list[Reply]:
    connection = node.acquire_connection()
    try:
        return await _converse(connection, commands)
    finally:
        node.release(connection)


def _link_error(error: Exception) -> LinkError:
    """Return a failure with its reason, one word of a small set: a metric's label."""
    if isinstance(error, ExceptionGroup):
        # Nodes of a cluster that failed together; one of them is enough to tell.
        return _link_error(error.exceptions[0])
    if isinstance(error, LinkError):
        return error
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return LinkError("timeout", "Redis did not answer in time")
    if isinstance(error, AuthenticationError | AddressError):
        return LinkError("login", "Redis refuses the login", str(error))
    # redis-py raises more than its own errors, AttributeError among them, while a cluster
    # settles; to the caller they are all the same.
    return LinkError("connection", "Redis cannot be reached", f"{type(error).__name__}: {error}")
