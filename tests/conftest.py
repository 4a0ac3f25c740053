"""Fixtures of all tests: a really trained bundle, and services in processes of their own."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import hypothesis
import pytest

from tests.support.bytecode import keep_bytecode

# Before all that is imported here, and by the processes of a run.
keep_bytecode()

from app.workers.cpus import cpu_quota
from model.threads import bound_spinning
from tests.support.redis_server import RedisServer, binaries
from tests.support.samples import Sample, train_other, train_tiny
from tests.support.serving import APP, Service

# All before a test imports torch or polars. Tests run beside each other: each trains and reads on
# one thread, whatever number the trainer asks for. A second one would spin where the CPUs have
# other tests to run.
bound_spinning()
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    # Until all tests are collected: what is imported stays, and would be looked at in vain.
    gc.disable()

# Examples have the time that a busy machine takes to find and to run them.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

pytest_plugins = ["tests.support.selection", "tests.support.skips", "tests.support.compiling"]

PATIENT_MS = 10_000
"""Deadline of services unless a test sets another, and time for Redis: a busy machine must not
refuse requests, nor score them without their profiles or vocabulary."""
TESTS = Path(__file__).resolve().parent
HEAVY = (
    *("model", "e2e", "docs", "fuzz", "load", "bench", "client", "observe"),
    *("app/web", "app/remote"),
)
"""Folders whose files take longest, or wait longest for time limits: begun first, they leave no
long one for the end."""

LONGEST = (
    Path("drills", "loop", "test_circle.py"),
    Path("app", "scoring", "test_engine_cuda.py"),
    Path("model", "training", "test_sampling.py"),
    Path("extras", "test_ray_scoring.py"),
    Path("extras", "test_pages_by_network.py"),
    Path("extras", "test_shap.py"),
    Path("extras", "test_ray.py"),
)
"""Files with minutes of ``long`` tests and of ``extras``, the longest first: beside one that is
begun late, the others' CPUs would be idle."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: two processes more than CPUs may be used, as tests also wait."""
    return int(cpu_quota()) + 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files for processes beside each other."""
    if hasattr(config, "workerinput"):
        places = places_of(dict.fromkeys(item.path for item in items))
        items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    """Have the collector of garbage look at what tests make, not at the tests and all modules."""
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()


def places_of(files: Iterable[Path]) -> dict[Path, float]:
    """Return the place of each file: the longest, then the heavy folders, evenly mixed, as some
    compute and some wait."""
    folders: dict[str, list[Path]] = {}
    for file in files:
        first, *rest = file.relative_to(TESTS).parts
        inner = f"{first}/{rest[0]}"
        folders.setdefault(inner if inner in HEAVY else first, []).append(file)
    places = {}
    for name, found in folders.items():
        for number, file in enumerate(found):
            places[file] = number / len(found) if name in HEAVY else 1.0
    begun = [TESTS / file for file in LONGEST if TESTS / file in places]
    places.update({file: number - len(begun) for number, file in enumerate(begun)})
    return places


class StartService(Protocol):
    """Starts a service, usually over ``tiny_bundle``, and waits until it is ready."""

    def __call__(
        self,
        bundle: Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = APP,
        **settings: object,
    ) -> Service: ...


@pytest.fixture(autouse=True)
def hangup_by_default() -> None:
    """Services of tests inherit what this process does at SIGHUP; ``nohup``, or the service's own
    set-up in a test before, has it ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The click log that ``tiny_bundle`` is trained on."""
    return Sample.make(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def tiny_bundle(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained on ``sample``, which no test changes; it has an int8 graph."""
    return train_tiny(sample, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def other_bundle(
    sample: Sample, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A later version than ``tiny_bundle``: other rows for the same values, and fewer users."""
    return train_other(sample, tiny_bundle, tmp_path_factory.mktemp("later") / "other")


@pytest.fixture(params=sorted(binaries()))
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """An empty Redis of the test's own: Valkey's, and once more whatever is installed."""
    with RedisServer(binaries()[request.param]) as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    """An empty Valkey, where it does not matter which Redis it is."""
    with RedisServer() as server:
        yield server


@contextmanager
def services(default: Path, directory: Callable[[str], Path]) -> Iterator[StartService]:
    """Start services that end together; each must end with 0 after SIGTERM."""
    started: list[Service] = []

    def start(
        bundle: Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = APP,
        **settings: object,
    ) -> Service:
        log = directory("service") / "log"
        patient = {"deadline_ms": PATIENT_MS, **settings}
        if {"profile_key", "redis_url"} & settings.keys():
            patient.setdefault("redis_timeout_ms", PATIENT_MS)
        service = Service(bundle or default, log, env or {}, program, **patient)
        started.append(service)
        service.wait_ready()
        return service

    try:
        yield start
    finally:
        for service in started:
            service.ask_to_end()
        codes = [service.exit_code() for service in started]
    for service, code in zip(started, codes, strict=True):
        assert code == 0, f"exit code {code}:\n{service.log()}"


@pytest.fixture
def start_service(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartService]:
    """Start services with settings of the test's own; they end with the test."""
    with services(tiny_bundle, tmp_path_factory.mktemp) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_service(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartService]:
    """Start services for fixtures of a module; they end with the module."""
    with services(tiny_bundle, tmp_path_factory.mktemp) as start:
        yield start


@pytest.fixture(scope="session")
def service(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with default settings over ``tiny_bundle``, which no test stops or changes."""
    with services(tiny_bundle, tmp_path_factory.mktemp) as start:
        yield start()
