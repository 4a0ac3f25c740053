"""Health and metadata of the Open Inference Protocol while nothing can be scored."""

from __future__ import annotations

from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI

from app.serving.state import ServingState
from app.web.v2.metadata import add_v2


class Waiting:
    """A state without a bundle."""

    loaded = None
    ready = draining = False
    not_ready = "no bundle is loaded yet"


@pytest.mark.anyio
async def test_without_a_bundle_nothing_but_the_process_is_ready() -> None:
    """503 in the protocol's form, with the reason; liveness and the server's own data stay."""
    app = FastAPI()
    add_v2(app, cast(ServingState, Waiting()))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

        async def get(path: str) -> tuple[int, Any]:
            answer = await client.get(path)
            return answer.status_code, answer.json()

        assert await get("/v2/health/live") == (200, {"live": True})
        assert (await get("/v2"))[0] == 200
        reason = {"ready": False, "error": "no bundle is loaded yet"}
        assert await get("/v2/health/ready") == (503, reason)
        assert await get("/v2/models/ctr/ready") == (503, {"name": "ctr", **reason})
        told = {"error": "no bundle is loaded yet", "code": "not_ready"}
        assert await get("/v2/models/ctr") == (503, told)
