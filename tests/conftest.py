"""What tests share: a really trained bundle, and services that run in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.redis_server import RedisServer, binaries
from tests.support.samples import Sample, train_other, train_tiny
from tests.support.serving import APP, Service


class StartService(Protocol):
    """Starts a service and waits until it is ready."""

    def __call__(
        self,
        bundle: Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = APP,
        **settings: object,
    ) -> Service: ...


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The click log that ``tiny_bundle`` is trained on."""
    return Sample.make(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def tiny_bundle(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained on ``sample``, once for all tests; it has an int8 graph."""
    return train_tiny(sample, tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def other_bundle(
    sample: Sample, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A later version than ``tiny_bundle``: other rows for the same values, and fewer users."""
    return train_other(sample, tmp_path_factory.mktemp("later") / "other")


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


@pytest.fixture(scope="session")
def start_service(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartService]:
    """Start services with settings of the test's own; all end with 0 after SIGTERM."""
    started: list[Service] = []

    def start(
        bundle: Path | None = None,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = APP,
        **settings: object,
    ) -> Service:
        log = tmp_path_factory.mktemp("service") / "log"
        service = Service(bundle or tiny_bundle, log, env or {}, program, **settings)
        started.append(service)
        service.wait_ready()
        return service

    yield start
    codes = [service.stop() for service in started]
    for service, code in zip(started, codes, strict=True):
        assert code == 0, f"exit code {code}:\n{service.log()}"


@pytest.fixture(scope="session")
def service(start_service: StartService) -> Service:
    """A service with default settings over ``tiny_bundle``."""
    return start_service()
