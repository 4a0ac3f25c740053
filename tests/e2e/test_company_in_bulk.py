"""Callers whose rows are encoded together have the answers that each of them has alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.features.row_batches import RowBatch, RowBatches
from tests.conftest import Sample
from tests.support.encoding import in_bulk
from tests.support.inside import request, serving
from tests.support.serving import strict

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.e2e]
CALLERS, ROUNDS = 48, 6
Answer = tuple[bytes, Any]
"""Status line and body."""


async def ask(
    streams: Sequence[tuple[asyncio.StreamReader, asyncio.StreamWriter]], bodies: Sequence[Any]
) -> list[Answer]:
    """Send a body on each connection, then read the answers."""
    for (_, writer), body in zip(streams, bodies, strict=True):
        writer.write(request(body))
    answers = []
    for reader, _ in streams:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answers.append((head.split(b"\r\n")[0], strict(await reader.readexactly(length))))
    return answers


def bodies_of(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Bodies of one row or several; every seventh has a wrong value, every eleventh is no JSON."""
    bodies: list[Any] = []
    for number, row in enumerate(rows):
        if number % 7 == 3:
            bodies.append({"instances": [row, {**row, [*row][number % len(row)]: {"a": 1}}]})
        elif number % 11 == 5:
            bodies.append(json.dumps({"instances": [row]}).encode()[:-1])
        else:
            bodies.append({"instances": [row, *rows[: number % 3]]})
    return bodies


async def test_together_as_alone(
    tiny_bundle: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores, and the same errors, whatever the neighbours send."""
    sizes: list[int] = []
    encode = RowBatches.encode

    def counted(self: RowBatches, instances: Sequence[Any]) -> RowBatch:
        sizes.append(len(instances))
        return encode(self, instances)

    monkeypatch.setattr(RowBatches, "encode", counted)
    bodies = bodies_of(sample.rows[: CALLERS * ROUNDS])
    with in_bulk():
        async with serving(tiny_bundle) as (_, port):
            streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CALLERS)]
            alone = [(await ask(streams[:1], [body]))[0] for body in bodies]
            assert sizes == []
            together: list[Answer] = []
            for start in range(0, len(bodies), CALLERS):
                together += await ask(streams, bodies[start : start + CALLERS])
            for _, writer in streams:
                writer.close()
    assert max(sizes) > CALLERS // 2
    for (status, body), (other_status, other) in zip(alone, together, strict=True):
        assert status == other_status
        scores, others = body.pop("predictions", []), other.pop("predictions", [])
        assert scores == pytest.approx(others, abs=1e-6)
        assert body == other
