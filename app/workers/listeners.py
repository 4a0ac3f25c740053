"""Sockets that a service listens on: one address for any number of workers."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

UNIX = "unix:"
"""Prefix of an address that is the path of a Unix socket."""
SOCKET_MODE = 0o660
FIRST_INHERITED = 3
"""The first descriptor that systemd passes; ``LISTEN_FDS`` counts them."""


class Listeners:
    """The sockets of ``workers`` processes, a list for each, which listen on the same addresses.

    - Sockets that systemd passes (``LISTEN_FDS``) take precedence over ``host`` and ``port``.
    - ``unix:/path`` is a Unix socket; a socket file that no process listens on is replaced.
    - A name listens on all addresses that it resolves to, ``::`` on all of IPv6 and of IPv4.

    Each worker has an IP socket of its own, among which the kernel distributes connections;
    other sockets are shared.

    Raises:
        OSError: an address is in use, or is not one of this machine.
    """

    def __init__(
        self,
        host: str,
        port: int,
        workers: int = 1,
        environment: MutableMapping[str, str] = os.environ,
    ) -> None:
        self._file: tuple[Path, int] | None = None
        self.of_worker: list[list[socket.socket]] = [[] for _ in range(workers)]
        if shared := inherited(environment):
            self._share(shared)
        elif host.startswith(UNIX):
            path = Path(host.removeprefix(UNIX))
            self._share([bind_unix(path)])
            self._file = path, path.stat().st_ino
        else:
            try:
                self._bind_all(host, port)
            except OSError as error:
                self.close()
                problem = (error.strerror or str(error)).lower()
                raise OSError(f"cannot listen on {host}, port {port}: {problem}") from error

    def _bind_all(self, host: str, port: int) -> None:
        for family, address in resolve(host, port):
            # Port 0 is a free one of the first address, and the same one of the others.
            taken = self.of_worker[0][0].getsockname()[1] if self.of_worker[0] else port
            sockets = bind(family, (address, taken), len(self.of_worker))
            for own, each in zip(self.of_worker, sockets, strict=True):
                own.append(each)

    def _share(self, sockets: list[socket.socket]) -> None:
        for own in self.of_worker:
            own += [each.dup() for each in sockets]
        for each in sockets:
            each.close()

    @property
    def names(self) -> str:
        """The addresses, for the log."""
        return ", ".join(name_of(each) for each in self.of_worker[0])

    def close(self) -> None:
        """Close all sockets, and remove the file of a Unix socket."""
        for own in self.of_worker:
            for each in own:
                each.close()
        if self._file is not None:
            path, number = self._file
            with suppress(OSError):
                # Another service may have put its own in this place.
                if path.stat().st_ino == number:
                    path.unlink()


def inherited(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd has passed to this process, and forget about them.

    Raises:
        OSError: one of them is not a listening stream socket.
    """
    process, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        each = socket.socket(fileno=descriptor)
        each.set_inheritable(False)
        sockets.append(each)
        listens = each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if each.type != socket.SOCK_STREAM or not listens:
            raise OSError(f"descriptor {descriptor} of LISTEN_FDS is not a listening stream socket")
    return sockets


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses of a host, each once.

    Raises:
        OSError: it has none.
    """
    # Text would have Python import its tables for names in other scripts.
    name = host.encode() if host.isascii() else host
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def bind(family: socket.AddressFamily, address: tuple[str, int], count: int) -> list[socket.socket]:
    """Bind sockets to one address; once they listen, the kernel distributes connections to them.

    Raises:
        OSError: the address is in use, or is not one of this machine.
    """
    sockets: list[socket.socket] = []
    with ExitStack() as opened:
        for _ in range(count):
            listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                only = int(address[0] != "::")
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            if len(sockets) > 1:
                # The first is bound without it: a port that another service uses is not shared.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            if len(sockets) == 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                address = listener.getsockname()
        opened.pop_all()
    return sockets


def bind_unix(path: Path) -> socket.socket:
    """Bind a Unix socket that its owner and group may connect to; replace one that is dead.

    Raises:
        OSError: a process listens there, or the path is another kind of file.
    """
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(f"{path} is in use")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
    except OSError as error:
        listener.close()
        raise OSError(f"{path}: {error.strerror or error}") from error
    return listener


def name_of(listener: socket.socket) -> str:
    """A socket's address, as a caller would write it."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{address}"
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"


def port_of(listeners: Sequence[socket.socket]) -> int | None:
    """The port of the first socket that has one; a Unix socket has none."""
    ports = (each.getsockname()[1] for each in listeners if each.family != socket.AF_UNIX)
    return next(ports, None)
