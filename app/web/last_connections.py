"""The end of a listener at which no connection is lost."""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

TURNS = 1_000
"""Most turns of the event loop, of one connection each, in which connections are still accepted."""
SETTLING_TURNS = 3
"""Turns after which asyncio's own loop, unlike uvloop, has made what it accepted a connection; one
that is not made when the listener closes is lost."""
HANDSHAKE_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Times between two looks at whether the handshakes that had begun are over. A client farther away
than their sum, or one that never ends its handshake, is not waited for."""
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_SYN_RECEIVED = "03"
# Linux' sock_diag(7): a header (struct nlmsghdr), and a question for the sockets of a family and
# of some states (struct inet_diag_req_v2); the sockets come as messages of the question's type.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_HEADER, _QUESTION = struct.Struct("=IHHII"), struct.Struct("=BBBBI48x")
_REQUEST_DUMP, _DONE, _ERROR = 0x301, 3, 2
_BEGUN_STATES = 1 << 3 | 1 << 12
"""The states of a socket whose handshake has begun: of the kernel's two, one is shown for both."""
_LOCAL_PORT, _PORT_OFFSET = struct.Struct(">H"), 4
_DIAG_SECONDS = 1.0
# A packet filter (classic BPF) over the TCP header, each instruction a code, the jumps if true and
# if false, and a number: load the byte with the flags; if it has SYN, return 0 bytes, else all.
_WITHOUT_SYN = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),
        (0x45, 0, 1, 0x02),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0xFFFFFFFF),
    )
)
_INSTRUCTION_BYTES = 8


async def take_last_connections(listeners: Sequence[socket.socket]) -> None:
    """Have the event loop accept what the system holds for listeners, and let it hold no more.

    When a listener closes, the connections that wait to be accepted are reset, and with them the
    requests that their clients have sent; so are those whose handshake lacks its last packet,
    which their clients take for open. After this it can be closed: a client that comes meanwhile
    hears nothing, tries again after a second, and is refused.
    """
    for listener in listeners:
        _take_no_more(listener)
    await _accept_held(listeners)
    for seconds in HANDSHAKE_SECONDS:
        if not _handshakes(listeners):
            break
        await asyncio.sleep(seconds)
    await _accept_held(listeners)


def take_connections_again(listeners: Sequence[socket.socket]) -> None:
    """Undo :func:`take_last_connections` for the process that inherits the listeners.

    A worker shares its listener with its successor: without this the successor, too, would hear
    of no new connection. Listening again gives the queue its length back.
    """
    for listener in listeners:
        if _has_filters(listener):
            # Without a filter there is nothing to detach, which is an error.
            with suppress(OSError):
                listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


async def _accept_held(listeners: Sequence[socket.socket]) -> None:
    held = select.poll()
    for listener in listeners:
        held.register(listener, select.POLLIN)
    for _ in range(TURNS):
        if not held.poll(0):
            break
        await asyncio.sleep(0)
    for _ in range(SETTLING_TURNS):
        await asyncio.sleep(0)


def _take_no_more(listener: socket.socket) -> None:
    """Have the system drop the packets that open a connection.

    Where it cannot, the queue of connections is as short as can be. It is not the first choice:
    a handshake that ends while the queue is full loses its connection.
    """
    if _has_filters(listener):
        program = ctypes.create_string_buffer(_WITHOUT_SYN, len(_WITHOUT_SYN))
        length = len(_WITHOUT_SYN) // _INSTRUCTION_BYTES
        told = struct.pack("HP", length, ctypes.addressof(program))
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
            return
    listener.listen(0)


def _has_filters(listener: socket.socket) -> bool:
    return sys.platform == "linux" and listener.family in (socket.AF_INET, socket.AF_INET6)


def _handshakes(listeners: Sequence[socket.socket]) -> bool:
    """True if a handshake with one of the listeners' ports has begun and is not complete."""
    tables = {socket.AF_INET: "tcp", socket.AF_INET6: "tcp6"}
    for family, name in tables.items():
        ports = {each.getsockname()[1] for each in listeners if each.family == family}
        if not ports:
            continue
        try:
            found = not ports.isdisjoint(begun_ports(family))
        except OSError:
            # Some containers and older kernels do not answer.
            found = _begun(Path("/proc/net", name), ports)
        if found:
            return True
    return False


def begun_ports(family: socket.AddressFamily) -> set[int]:
    """Return the local ports of handshakes that have begun and are not complete.

    The system finds them in a twentieth of the time that its table of all sockets takes.

    Raises:
        OSError: the system does not tell.
    """
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _BEGUN_STATES)
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 0, 0)
    ports: set[int] = set()
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("this system has no sock_diag")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(_DIAG_SECONDS)
        asked.send(header + question)
        while True:
            answer, place = asked.recv(2**16), 0
            while place < len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, place)
                if kind == _DONE:
                    return ports
                if kind == _ERROR:
                    raise OSError("the system does not tell of its sockets")
                ports.add(*_LOCAL_PORT.unpack_from(answer, place + _HEADER.size + _PORT_OFFSET))
                # Messages begin at multiples of four bytes.
                place += -(-length // 4) * 4


def _begun(table: Path, ports: set[int]) -> bool:
    """True if a table of sockets has one of the local ports that waits for a handshake's end."""
    try:
        with table.open() as lines:
            next(lines)
            for line in lines:
                _, local, _, state, *_ = line.split(maxsplit=4)
                if state == _SYN_RECEIVED and int(local.rpartition(":")[2], 16) in ports:
                    return True
    except (OSError, StopIteration):
        # Other systems have no such table, and some containers hide it.
        pass
    return False
