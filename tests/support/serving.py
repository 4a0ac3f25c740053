"""A real service in a process of its own, as tests drive it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.own_connections import OwnConnections
from tests.support.processes import children
from tests.support.starting import run, start

ROOT = Path(__file__).resolve().parents[2]
APP = (sys.executable, "-m", "app")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
PORTS = (15_000, 32_000)


def free_port() -> int:
    """Return a port that nobody listens on and that no other test process is given.

    A port of the range that the kernel gives to outgoing connections could be taken before the
    server binds it. So these lie below that range, each under a lock until this process ends.
    """
    directory = Path(tempfile.gettempdir(), "ctr-test-ports")
    directory.mkdir(exist_ok=True)
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        lock = os.open(directory / str(port), os.O_CREAT | os.O_WRONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(lock)
        else:
            return port


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition; fail by its name when it takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


def strict(text: str | bytes) -> Any:
    """Parse JSON as strict readers do: without NaN, Infinity and duplicate keys."""

    def refuse(literal: str) -> Any:
        raise AssertionError(f"{literal} is not JSON")

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in found}) == len(found), "a key is there twice"
        return dict(found)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=pairs)


def logit(score: float) -> float:
    """The logit of a probability."""
    return math.log(score) - math.log1p(-score)


def logits(scores: Sequence[float]) -> list[float]:
    """The logits of probabilities."""
    return [logit(score) for score in scores]


def command(
    bundle: Path | None, port: int, settings: Mapping[str, object], program: Sequence[str] = APP
) -> list[str]:
    """The command line of a service."""
    words = [*program, "--port", str(port)]
    words += [] if bundle is None else ["--bundle", str(bundle)]
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def environment(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """This process' environment without settings of the service, and with ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CTR_")}
    return {**kept, **extra}


def run_to_end(
    bundle: Path | None, port: int | None = None, env: Mapping[str, str] = {}, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a service that is expected to end by itself."""
    words = command(bundle, free_port() if port is None else port, settings)
    return run(*words[2:], env=environment(env), timeout=START_SECONDS)


class Wire:
    """One keep-alive connection, with nothing between the test and the bytes.

    ``head`` is the last answer's, in lower case.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = ""

    @classmethod
    async def open(cls, port: int) -> Wire:
        """Connect to a service of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, path: str, body: bytes, kind: str = "application/json") -> None:
        """Send a request."""
        head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: {kind}\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def write(self, request: bytes) -> None:
        """Send a request's bytes as they are."""
        self._writer.write(request)

    async def answer(self) -> tuple[int, bytes]:
        """Read status and body of the next answer."""
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(self.head.split("content-length: ")[1].split("\r\n")[0])
        return int(self.head.split(" ")[1]), await self._reader.readexactly(length)

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request and read its answer."""
        self.send(path, body)
        return await self.answer()

    @property
    def usable(self) -> bool:
        """True while the other side has left it open, as far as is known here."""
        return not self._reader.at_eof()

    async def closed(self) -> bool:
        """Wait until the other side closes; whether nothing came before."""
        return await self._reader.read() == b""

    async def close(self) -> None:
        """Close this side."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Service:
    """One running service and a client with its address.

    ``program`` is what runs it: words before its flags.
    """

    def __init__(
        self,
        bundle: Path | None,
        log: Path,
        env: Mapping[str, str] = {},
        program: Sequence[str] = APP,
        port: int | None = None,
        **settings: object,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log
        with log.open("wb") as file:
            words = command(bundle, self.port, settings, program)
            self.process = start(words, environment(env), file, file)
        # Only the service's own answers count: no proxy, no wait for a pooled connection. Reading
        # certificates takes as long as twenty requests.
        connections = OwnConnections(trust_env=False, verify=False)
        self.client = httpx.Client(base_url=self.url, timeout=30.0, transport=connections)

    def log(self) -> str:
        """Return what the service has written so far."""
        return self.log_path.read_text(encoding="utf-8")

    def wait_told(self, text: str, times: int = 1) -> None:
        """Wait until the log has a text so many times: a thread of its own writes it."""
        wait_until(lambda: self.log().count(text) >= times, f"{text!r} is told")

    def events(self) -> list[dict[str, Any]]:
        """The log's lines, each of which is one JSON object; without onnxruntime's own."""
        # Texts in it may have characters at which str.splitlines cuts, too; behind the last newline
        # there may be part of a line.
        lines = self.log().split("\n")[:-1]
        return [json.loads(line) for line in lines if line and "[E:onnxruntime" not in line]

    def wait_ready(self) -> dict[str, Any]:
        """Wait until ``/ready`` answers 200, and return its answer."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the service ended with {self.process.returncode}:\n{self.log()}"
                )
            try:
                answer = self.client.get("/ready")
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == 200:
                    return dict(strict(answer.content))
            time.sleep(0.02)
        raise AssertionError(f"not ready within {START_SECONDS:g} s:\n{self.log()}")

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Post a body: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(
            path, content=content, headers={"content-type": "application/json", **names}
        )

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """The scores of rows."""
        answer = self.post("/predict", {"instances": rows})
        assert answer.status_code == 200, answer.text
        return list(strict(answer.content)["predictions"])

    def rank(self, **body: Any) -> list[dict[str, Any]]:
        """The places of candidates."""
        answer = self.post("/rank", body)
        assert answer.status_code == 200, answer.text
        return list(strict(answer.content)["ranking"])

    def metrics(self) -> dict[str, float]:
        """Every sample of ``/metrics``, by its name and labels as Prometheus writes them.

        Bounds of buckets are as short as they can be: ``le="1"``, ``le="0.5"``.
        """
        found = {}
        for family in text_string_to_metric_families(self.client.get("/metrics").text):
            for sample in family.samples:
                told = dict(sorted(sample.labels.items()))
                if "le" in told:
                    told["le"] = f"{float(told['le']):g}"
                labels = ",".join(f'{name}="{value}"' for name, value in told.items())
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def resident_bytes(self) -> int:
        """Memory that the process holds."""
        return self._memory("VmRSS")

    def peak_bytes(self) -> int:
        """The most memory that it held, from its start or the last :meth:`forget_peak` on."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Let the memory that it holds now be the most that it held."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def _memory(self, name: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{name}:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """CPU time that the process has used, in the kernel's ticks (usually of 10 ms)."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def threads(self) -> int:
        """The number of threads that the process has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def ask_to_end(self) -> None:
        """Close the client, and send SIGTERM unless the process has ended."""
        self.client.close()
        if self.process.poll() is None:
            self.terminate()

    def stop(self) -> int:
        """End the service and return its exit code."""
        self.ask_to_end()
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait until a service that was asked to end has done so, and return its exit code."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"still there {STOP_SECONDS:g} s after SIGTERM:\n{self.log()}"
            ) from None


def workers_of(service: Service) -> list[int]:
    """The processes of the workers."""
    return children(service.process.pid)
