"""The scoring endpoints behind any ASGI server: scope, receive and send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Sample
from tests.support.inside import serving
from tests.support.serving import strict

pytestmark = pytest.mark.anyio
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/predict",
    "headers": [(b"content-type", b"application/json")],
}


async def test_it_answers_as_the_short_cut_does(tiny_bundle: Path, sample: Sample) -> None:
    """Scores, refusals and a body in parts, without a server between."""
    async with serving(tiny_bundle, max_body_bytes=20_000, deadline_ms=30_000) as (server, port):
        app: Any = server.config.app
        body = {"instances": sample.rows[:3]}

        async def parts() -> AsyncIterator[bytes]:
            whole = httpx.Request("POST", "http://x", json=body).content
            yield whole[:10]
            yield whole[10:]

        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as inside,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as outside,
        ):
            kind = {"content-type": "application/json"}
            for path, sent in (
                ("/predict", {"json": body}),
                ("/v1/models/x:predict", {"content": parts, "headers": kind}),
                ("/rank", {"json": {"context": 3}}),
                ("/predict", {"content": b" " * 30_000, "headers": kind}),
                ("/predict", {"content": b"{}", "headers": {"content-type": "text/plain"}}),
            ):
                found = []
                for client in (inside, outside):
                    given = dict(sent)
                    if sent.get("content") is parts:
                        given["content"] = parts()
                    answer = await client.post(path, **given)
                    found.append((answer.status_code, strict(answer.content)))
                (status, told), (expected_status, expected) = found
                assert status == expected_status
                if status == 200:
                    assert told["predictions"] == pytest.approx(expected["predictions"], abs=1e-6)
                else:
                    assert told == expected


async def test_a_client_that_disconnects_within_its_body_is_counted(tiny_bundle: Path) -> None:
    """As gone; nothing is scored."""
    async with serving(tiny_bundle) as (server, _):
        app: Any = server.config.app
        messages = iter(
            [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        )

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            pass

        await app(SCOPE, receive, send)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as it:
            text = (await it.get("/metrics")).text
        assert 'ctr_requests_total{outcome="gone",route="predict"} 1.0' in text or (
            'ctr_requests_total{route="predict",outcome="gone"} 1.0' in text
        )


async def test_a_body_that_never_comes_is_given_up(tiny_bundle: Path) -> None:
    """400 after the time to receive."""
    async with serving(tiny_bundle, receive_seconds=0.2) as (server, _):
        app: Any = server.config.app
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await app(SCOPE, receive, send)
        assert sent[0]["status"] == 400
        assert b"did not arrive in 0.2 seconds" in sent[1]["body"]
