"""Blocks of work on the machines of a Ray cluster; the only importer of ray.

Ray places the blocks, runs them again where a worker has died, and holds back what does not fit.
Nothing of what is computed is decided here.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import app
import model
from app.errors import CtrError
from model.cluster.places import MEMORY_MIB, Block, Places, Result, ThisProcess

RETRIES = 16
"""Times that a block is run again after its worker has died. A block that kills each worker ends
the command, after these."""
HERE, FOUND = "ray", "auto"
"""Addresses without a host: a Ray of this command alone, and the one that this machine runs."""
_CLIENT = "ray://"
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^]/\s]+\]|[^]/\s[]+):(?P<port>[0-9]{1,5})")
_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_GROUP_SECONDS = 86_400
"""For a process of a group that prepares data, or writes a bundle, alone."""
_CONNECT_SECONDS = 10.0
_CONNECTIONS = 3
"""Tries of a session that Ray's client server breaks off while it begins. A busy server does so: it
takes the client's next try for a return to a session that it does not know. So do two servers of
one machine whose sessions begin in the same moment: both give them port 23000, which gRPC lets both
have, and each gets some of what is meant for the other. The next try has another port."""
_BROKEN_OFF = ("already been disconnected", "Starting Ray client server failed")
_OBJECTS_BYTES = 128 * 2**20
"""Shared memory of an own Ray: blocks and results are small."""
Argument = TypeVar("Argument")


class ClusterError(CtrError):
    """A cluster that cannot be used, or that lost its workers; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Resources:
    """CPUs and memory of all machines of a cluster."""

    machines: int
    cpus: float
    memory_mib: int
    """Of all machines, as Ray counts it."""


@contextmanager
def opened(
    address: str | None, workers: int | None = None, memory_mib: int = MEMORY_MIB
) -> Iterator[Places]:
    """Yield this process, or what :func:`connected` gives if there is an address.

    Raises:
        ClusterError: as :func:`connected` does, and if there are workers and no address.
    """
    if address is None:
        if workers is not None:
            raise ClusterError("--workers is for a cluster: give --cluster, too")
        yield ThisProcess(memory_mib)
        return
    with connected(address, workers, memory_mib) as places:
        yield places


@contextmanager
def connected(
    address: str, workers: int | None = None, memory_mib: int = MEMORY_MIB
) -> Iterator[RayPlaces]:
    """Connect to a Ray cluster, and leave it at the end.

    ``address`` is ``ray`` (a Ray on this machine that begins and ends with this call), ``auto``
    (the one that this machine runs), ``host:port`` of a cluster that this machine is part of, or
    ``ray://host:port`` of any other. ``workers`` are the blocks that run at once, by default as
    many as the cluster has CPUs; ``memory_mib`` is what each of them may take: Ray runs no more at
    once on a machine than fit. Telemetry is off, and an own Ray has no dashboard. Meanwhile what is
    printed goes to standard error, as Ray prints when a worker has died.

    Raises:
        ClusterError: the address is none, Ray is not installed or does not answer, its token cannot
            be read, or no machine has room for a block.
    """
    if address not in (HERE, FOUND):
        _place(address)
    _show_token(address)
    ray = _ray()
    told_before = signal.getsignal(signal.SIGTERM)
    mine = not ray.is_initialized()
    # Ray prints what it has to say of dead workers, until it has ended; standard output is for
    # results.
    with redirect_stdout(sys.stderr):
        if mine:
            _connect(ray, address, workers)
            # Ray's own handler ends the process with another code, and without unwinding.
            signal.signal(signal.SIGTERM, told_before)
        try:
            places = RayPlaces(ray, workers, memory_mib)
            places.require_room()
            yield places
        finally:
            if mine:
                ray.shutdown()


class RayPlaces:
    """The machines of the cluster that :func:`connected` has connected to."""

    many = True

    def __init__(self, ray: Any, workers: int | None, memory_mib: int) -> None:
        self.ray = ray
        """The module; of its API only what this module and its neighbours need."""
        self.workers = workers
        self.memory_mib = memory_mib

    def resources(self) -> Resources:
        """Return what the machines have that are there now."""
        machines = self._machines()
        return Resources(
            len(machines),
            sum(each.get("CPU", 0.0) for each in machines),
            int(sum(each.get("memory", 0) for each in machines)) // 2**20,
        )

    def require_room(self) -> None:
        """Check that a block can run at all: Ray would wait for such a machine for ever.

        Raises:
            ClusterError: no machine has a CPU and the memory.
        """
        machines = self._machines()
        most = max((each.get("memory", 0) for each in machines if each.get("CPU")), default=0)
        if most < self.memory_mib * 2**20:
            raise ClusterError(
                f"no machine of the cluster has {self.memory_mib:,} MiB for a worker: the largest"
                f" has {int(most) // 2**20:,} MiB; --worker-memory takes less"
            )

    def map(
        self,
        function: Callable[[Block], Result],
        blocks: Iterable[Block],
        cpus: float = 1.0,
    ) -> Iterator[Result]:
        """See :meth:`model.cluster.places.Places.map`; ``cpus`` is what a block takes.

        Twice as many blocks as can run at once are given to Ray at a time, so the blocks may be
        an iterator that makes them as they are needed.

        Raises:
            ClusterError: a block's worker died ``RETRIES`` times more than once, or the cluster
                is gone.
        """
        remote = self.ray.remote(function).options(
            num_cpus=cpus,
            memory=self.memory_mib * 2**20,
            max_retries=RETRIES,
            retry_exceptions=False,
            name=getattr(function, "__name__", "block"),
        )
        at_once = self.workers or max(1, int(self.resources().cpus / cpus))
        waiting: deque[Any] = deque()
        try:
            for block in blocks:
                if len(waiting) >= 2 * at_once:
                    yield self._result(waiting.popleft())
                waiting.append(remote.remote(block))
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for unwanted in waiting:
                self.ray.cancel(unwanted, force=True)

    def together(
        self, function: Callable[[Argument], None], argument: Argument, processes: int, place: Path
    ) -> None:
        """Run a function in so many processes at once, which are a group of ``torch.distributed``.

        Ray Train starts them, joined by gloo, with the variables that ``torchrun`` sets. If one of
        them dies, or raises, all are ended and begin again: what must not be done again is kept in
        files. ``place`` is an empty directory that all machines share, for Ray's own notes.

        Raises:
            ClusterError: there is no room for so many processes, or they failed ``RETRIES`` times
                more than once.
        """
        cpus = self.resources().cpus
        if cpus < processes:
            raise ClusterError(
                f"--workers {processes}: the cluster has {cpus:g} CPUs, and each process takes one"
            )
        # Read when a trainer is made: paths of the command are relative to its own directory.
        os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0"}
        try:
            from ray import train
            from ray.train.torch import TorchConfig, TorchTrainer
        except ImportError as error:
            raise ClusterError(f"--cluster needs Ray Train: {error}; see [cluster]") from error
        trainer = TorchTrainer(
            _call,
            train_loop_config={"function": function, "argument": argument},
            torch_config=TorchConfig(backend="gloo", timeout_s=_GROUP_SECONDS),
            scaling_config=train.ScalingConfig(
                num_workers=processes,
                resources_per_worker={"CPU": 1, "memory": self.memory_mib * 2**20},
            ),
            run_config=train.RunConfig(
                name="group",
                storage_path=str(place),
                failure_config=train.FailureConfig(max_failures=RETRIES),
            ),
        )
        told_before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit()
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ClusterError(
                f"the processes failed {RETRIES + 1} times: {lines[-1].strip()}"
            ) from error
        finally:
            # Ray Train sets one of its own.
            signal.signal(signal.SIGINT, told_before)

    def _result(self, reference: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            # What the function raised, without Ray's account of where.
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise ClusterError(f"a block failed: {error}") from error
        except errors.OutOfMemoryError as error:
            raise ClusterError(
                f"a worker of {self.memory_mib:,} MiB was ended, as its machine had no memory left;"
                " --worker-memory and --workers say how much is used at once"
            ) from error
        except errors.RayError as error:
            first = str(error).strip().splitlines()[0]
            raise ClusterError(
                f"the cluster lost a block {RETRIES + 1} times, or is gone: {first}"
            ) from error

    def _machines(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]


def _call(given: dict[str, Any]) -> None:
    """Run what a process of a group is there for."""
    given["function"](given["argument"])


def _show_token(address: str) -> None:
    """Let Ray ask for a token, or show it: it is decided when ray is imported.

    Raises:
        ClusterError: the token cannot be read.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    if address == HERE:
        # Nobody else uses this Ray; without a token Ray would put one into the home directory.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not (os.environ.keys() & {"RAY_AUTH_MODE", *_TOKEN} or path.exists()):
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        problem = "" if path.read_text().strip() else "it is empty"
    except (OSError, UnicodeError) as error:
        problem = str(getattr(error, "strerror", None) or error)
    if problem:
        raise ClusterError(
            f"the token of Ray cannot be read from {path}: {problem}; {_TOKEN[0]}, {_TOKEN[1]} or"
            " ~/.ray/auth_token has it"
        )


def _ray() -> Any:
    """Import ray, its telemetry switched off."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"--cluster needs Ray, and {error.name!r} is not installed: pip install"
            " 'deepfm-serving[cluster]', in the environment of this command and on each machine"
        ) from error
    return ray


def _connect(ray: Any, address: str, workers: int | None) -> None:
    given: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "error",
        "configure_logging": True,
    }
    environment: dict[str, Any] = {"env_vars": _variables()}
    if address == HERE:
        given |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _OBJECTS_BYTES,
        }
        given |= {} if workers is None else {"num_cpus": workers}
    else:
        given["address"] = address
        # The code that decides the result is this command's on every machine.
        environment["py_modules"] = [
            str(Path(package.__path__[0]).resolve()) for package in (app, model)
        ]
        if address == FOUND:
            given["address"] = _found(ray)
        _require_answer(address, given["address"])
    for tries_left in reversed(range(_CONNECTIONS)):
        try:
            ray.init(runtime_env=environment, **given)
            return
        except (
            *(ConnectionError, RuntimeError, ValueError, OSError),
            ray.exceptions.RayError,
        ) as error:
            if not tries_left or not any(words in str(error) for words in _BROKEN_OFF):
                raise ClusterError(f"--cluster {address}: {_said(address, error)}") from error


def _found(ray: Any) -> str:
    """Return the address that ``auto`` means.

    Asked for here, as Ray would try for many minutes where a Ray that was killed has left it.
    """
    from ray._private import services

    try:
        found: str = services.get_ray_address_from_environment(FOUND, None)
    except ConnectionError as error:
        raise ClusterError(f"--cluster {FOUND}: this machine runs no Ray: ray start") from error
    return found


def _said(address: str, error: Exception) -> str:
    """Return what Ray says of a connection that it could not make, in one line, and what to do."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return "no reason given"
    if lines[0].startswith("Version mismatch"):
        return " ".join(lines)
    if lines[0].endswith(":") and len(lines) > 1:
        # The server's traceback follows.
        lines[0] += f" {lines[-1]}"
    if address == HERE or not isinstance(error, ConnectionError):
        return lines[0]
    server = (
        "Ray's client server, 10001"
        if address.startswith(_CLIENT)
        else "ray start --head, 6379 by default"
    )
    return f"{lines[0]}; is it the port of {server}, and is the token that of the cluster?"


def _variables() -> dict[str, str]:
    # A block has one CPU.
    return {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def _place(address: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        ClusterError: it has none.
    """
    found = _HOST_AND_PORT.fullmatch(address.removeprefix(_CLIENT))
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise ClusterError(
            f"--cluster {address}: expected {HERE}, {FOUND}, host:port or {_CLIENT}host:port"
        )
    return found["host"].strip("[]"), int(found["port"])


def _require_answer(address: str, meant: str) -> None:
    """Ask the port: Ray itself would try for a minute, and say less.

    Raises:
        ClusterError: nothing answers there.
    """
    try:
        socket.create_connection(_place(meant), _CONNECT_SECONDS).close()
    except OSError as error:
        there = "there" if meant == address else f"at {meant}"
        raise ClusterError(
            f"--cluster {address}: nothing answers {there}: {error.strerror or error}"
        ) from error
