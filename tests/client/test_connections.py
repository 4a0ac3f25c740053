"""Connections that threads borrow from the synchronous client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from httpcore._backends.sync import SyncStream
from httpcore._sync.http11 import HTTP11Connection

from ctr_client import Client, connections
from ctr_client.connections import Connections
from tests.support.serving import Service

pytestmark = pytest.mark.e2e
URL = "http://127.0.0.1:9"


def late(monkeypatch: pytest.MonkeyPatch, of: type[Any], name: str, seconds: float) -> None:
    """Make a step of httpcore wait first, as a thread does that gets no processor."""
    step: Callable[..., Any] = getattr(of, name)

    def waits(*values: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return step(*values, **named)

    monkeypatch.setattr(of, name, waits)


def test_no_thread_closes_the_connection_of_another(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may look at idle connections while another one's answer is on its way."""
    with Client(service.url, timeout=60) as ctr:
        ctr.ready()
        late(monkeypatch, HTTP11Connection, "handle_request", 0.01)
        late(monkeypatch, SyncStream, "get_extra_info", 0.03)
        late(monkeypatch, SyncStream, "read", 0.06)
        with ThreadPoolExecutor(4) as threads:
            told = list(threads.map(lambda _: ctr.ready()["version"], range(40)))
    assert len(set(told)) == 1


def test_a_connection_is_lent_to_one_thread_at_a_time() -> None:
    """As many are made as are used at once, and the one used last is lent first."""
    lender = Connections(URL, None, 3)
    with lender.lend(1) as first, lender.lend(1) as second:
        assert first is not second
    with lender.lend(1) as again, lender.lend(1) as other:
        assert again is first
        assert other is second
    lender.close()


def test_what_nobody_used_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a burst, no more connections are kept than are used."""
    now = 0.0
    monkeypatch.setattr(connections.time, "monotonic", lambda: now)
    lender = Connections(URL, None, 3)
    with lender.lend(1) as first, lender.lend(1) as second:
        pass
    now = connections.KEEPALIVE_SECONDS + 1
    with lender.lend(1) as used:
        assert used is first
    assert not first.is_closed
    assert second.is_closed
    lender.close()
    assert first.is_closed


def test_a_closed_client_sends_nothing() -> None:
    """The connection that is lent at the end is closed under its thread, and no other is made."""
    lender = Connections(URL, None, 2)
    lent, closed = threading.Event(), threading.Event()

    def hold() -> bool:
        with lender.lend(1) as held:
            lent.set()
            assert closed.wait(60)
            return held.is_closed

    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(hold)
        assert lent.wait(60)
        lender.close()
        closed.set()
        assert holding.result()
    with pytest.raises(RuntimeError, match="closed"), lender.lend(1):
        raise AssertionError("nothing is lent")
