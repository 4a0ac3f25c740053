"""The address of Redis and the login there, read from one URL.

redis://[user:password@]host[:6379][/db]                        one server (rediss:// with TLS)
unix://[user:password@]/path/of/socket[?db=0]                   one server of this machine
redis+sentinel://[user:password@]host[:26379],.../service[/db]  the master that sentinels name
redis+cluster://[user:password@]host[:6379],...                 a cluster, from any of its nodes

Each may end in ?password_file=/path, in place of the password.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote

from app.errors import AddressError

Kind = Literal["single", "sentinel", "cluster"]

_KINDS: dict[str, tuple[Kind, bool, int]] = {
    "redis": ("single", False, 6379),
    "rediss": ("single", True, 6379),
    "unix": ("single", False, 0),
    "redis+sentinel": ("sentinel", False, 26379),
    "rediss+sentinel": ("sentinel", True, 26379),
    "redis+cluster": ("cluster", False, 6379),
    "rediss+cluster": ("cluster", True, 6379),
}
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SENTINEL_LOGIN = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis to talk to; its text shows neither user nor password.

    ``nodes`` are the server, the sentinels, or the first nodes of a cluster to ask; a Unix
    socket has none. ``tls_files`` holds paths by redis-py's names for them.
    """

    scheme: str
    nodes: tuple[tuple[str, int], ...]
    socket: str | None = None
    service: str | None = None
    database: int = 0
    password_file: Path | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls_files: tuple[tuple[str, str], ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of Redis: one server, sentinels that name one, or a cluster."""
        return _KINDS[self.scheme][0]

    @property
    def tls(self) -> bool:
        """True if connections are encrypted, those to sentinels too."""
        return _KINDS[self.scheme][1]

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix://{self.socket}"
        nodes = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes
        )
        service = f"/{self.service}" if self.service else ""
        return f"{self.scheme}://{nodes}{service}/{self.database}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL of one of the forms above.

        Raises:
            AddressError: it has none of them; the message repeats nothing secret.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _KINDS:
            raise AddressError(f"it must begin with one of {', '.join(f'{s}://' for s in _KINDS)}")
        kind, tls, port = _KINDS[scheme]
        rest, _, query = rest.partition("?")
        options = _options(query, scheme, kind, tls)
        authority, slash, path = rest.partition("/")
        login, at, hosts = authority.rpartition("@")
        username, colon, password = login.partition(":")
        if at and not colon:
            raise AddressError("a login is user:password, or :password")
        plain = cls(
            scheme,
            (),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_username=options.get("sentinel_username"),
            sentinel_password=options.get("sentinel_password"),
            tls_files=tuple((name, options[name]) for name in _TLS_FILES if name in options),
            password_file=Path(options["password_file"]) if "password_file" in options else None,
        )
        if scheme == "unix":
            if hosts or not path:
                raise AddressError("a Unix socket is unix:///path")
            database = _database(options.get("db", "0"))
            return replace(plain, socket="/" + unquote(path), database=database)
        nodes = tuple(_node(host, port) for host in hosts.split(","))
        if kind == "single" and len(nodes) != 1:
            raise AddressError("several hosts go with redis+sentinel:// or redis+cluster://")
        parts = [unquote(part) for part in path.split("/") if part] if slash else []
        service = None
        if kind == "sentinel":
            if not parts:
                raise AddressError("the service's name is absent: redis+sentinel://host/service")
            service, *parts = parts
        if len(parts) > 1 or (kind == "cluster" and parts):
            raise AddressError("its path has too many parts")
        database = _database(parts[0]) if parts else 0
        return replace(plain, nodes=nodes, service=service, database=database)


def _options(query: str, scheme: str, kind: Kind, tls: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    allowed = {"password_file", *(["db"] if scheme == "unix" else [])}
    allowed |= set(_TLS_FILES) if tls else set()
    allowed |= set(_SENTINEL_LOGIN) if kind == "sentinel" else set()
    for name in options:
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            raise AddressError(f"unknown option {name[:64]!r}; {scheme}:// takes {known}")
    return options


def _node(text: str, port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        number = rest.removeprefix(":")
    else:
        host, _, number = text.partition(":")
    if not host:
        raise AddressError("a host is absent")
    if number and not (number.isascii() and number.isdigit() and 0 < int(number) < 65_536):
        raise AddressError("a port is not a number from 1 to 65535")
    return host, int(number or port)


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise AddressError("the database is not a number")
    return int(text)
