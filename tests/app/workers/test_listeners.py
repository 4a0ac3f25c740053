"""One address for any number of workers: IP, Unix socket, or sockets that systemd passes."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.workers.listeners import SOCKET_MODE, Listeners, inherited


@contextmanager
def listening(host: str, port: int = 0, workers: int = 1) -> Iterator[Listeners]:
    """Listeners that listen, and are closed at the end."""
    listeners = Listeners(host, port, workers, {})
    try:
        for own in listeners.of_worker:
            for each in own:
                each.listen()
        yield listeners
    finally:
        listeners.close()


def reachable(family: socket.AddressFamily, address: object) -> bool:
    """Return whether a connection to an address is accepted."""
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(5)
        return caller.connect_ex(address) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_one_port(workers: int) -> None:
    """Port 0 is one free port for all workers and all addresses of a name."""
    with listening("localhost", 0, workers) as listeners:
        ports = {each.getsockname()[1] for own in listeners.of_worker for each in own}
        assert len(ports) == 1
        assert len(listeners.of_worker) == workers
        assert f":{ports.pop()}" in listeners.names


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_in_use_is_refused(workers: int) -> None:
    """A service shares its port with its own workers, not with another service."""
    with (
        listening("127.0.0.1", 0, workers) as other,
        pytest.raises(OSError, match=r"127\.0\.0\.1, port \d+: address already in use"),
    ):
        Listeners("127.0.0.1", other.of_worker[0][0].getsockname()[1], workers, {})


def test_a_name_without_an_address_is_refused() -> None:
    """The error names the host."""
    with pytest.raises(OSError, match=r"cannot listen on nowhere\.invalid, port 0"):
        Listeners("nowhere.invalid", 0, 1, {})


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
@pytest.mark.parametrize("workers", [1, 2])
def test_all_addresses_are_ipv4s_too(workers: int) -> None:
    """``::`` listens on both, with any number of workers; ``::1`` on IPv6 only."""
    for host, both in (("::", True), ("::1", False)):
        with listening(host, 0, workers) as listeners:
            port = listeners.of_worker[0][0].getsockname()[1]
            assert reachable(socket.AF_INET6, ("::1", port))
            assert reachable(socket.AF_INET, ("127.0.0.1", port)) == both


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_is_shared_and_removed(tmp_path: Path, workers: int) -> None:
    """Owner and group may connect; the file goes with the service."""
    path = tmp_path / "ctr.sock"
    with listening(f"unix:{path}", 0, workers) as listeners:
        assert stat.S_IMODE(path.stat().st_mode) == SOCKET_MODE
        assert listeners.names == f"unix:{path}"
        assert reachable(socket.AF_UNIX, str(path))
        with pytest.raises(OSError, match="is in use"):
            Listeners(f"unix:{path}", 0, 1, {})
    assert not path.exists()


def test_a_dead_unix_socket_is_replaced(tmp_path: Path) -> None:
    """The file of a service that was killed does not keep the next one from starting."""
    path = tmp_path / "ctr.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with listening(f"unix:{path}"):
        assert reachable(socket.AF_UNIX, str(path))


def test_the_socket_of_another_service_stays(tmp_path: Path) -> None:
    """A file that has taken the place of this service's is not removed with it."""
    path = tmp_path / "ctr.sock"
    with listening(f"unix:{path}"):
        path.unlink()
        path.write_text("another's")
    assert path.exists()


def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    """A path that is not a socket is left alone."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="exists and is not a socket"):
        Listeners(f"unix:{path}", 0, 1, {})
    assert path.read_text() == "data"


def test_a_path_that_cannot_be_is_named(tmp_path: Path) -> None:
    """Too long a path, or one without a directory, is an error that names it."""
    for path in (tmp_path / "nowhere" / "ctr.sock", tmp_path / ("x" * 200)):
        with pytest.raises(OSError, match=str(path)):
            Listeners(f"unix:{path}", 0, 1, {})


def test_sockets_of_another_process_are_not_taken() -> None:
    """``LISTEN_PID`` of a parent means its sockets; the variables are not handed on."""
    environment = {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert inherited(environment) == []
    assert environment == {}
