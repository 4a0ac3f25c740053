"""The HTTP clients that Python programs usually have get the scores that ours get."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.registry import environment_or_skip
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, strict

pytestmark = pytest.mark.extras
PINNED = Path(__file__).with_name("http-clients.txt")
REQUESTS = """\
import json, sys
import requests

url, headers = sys.argv[1], {"content-type": "application/json"}
predict, rank = (json.dumps(body).encode() for body in json.load(sys.stdin))
with requests.Session() as session:
    session.trust_env = False
    answers = [
        session.post(url + "/predict", data=predict, headers=headers),
        session.post(url + "/predict", data=iter([predict[:9], predict[9:]]), headers=headers),
        session.post(url + "/rank", data=rank, headers=headers),
    ]
json.dump([answer.json() for answer in answers], sys.stdout)
"""
AIOHTTP = """\
import asyncio, json, sys
import aiohttp

async def main():
    url, headers = sys.argv[1], {"content-type": "application/json"}
    predict, rank = (json.dumps(body).encode() for body in json.load(sys.stdin))

    async def pieces():
        yield predict[:9]
        yield predict[9:]

    answers = []
    async with aiohttp.ClientSession() as session:
        for path, data in (("predict", predict), ("predict", pieces()), ("rank", rank)):
            async with session.post(f"{url}/{path}", data=data, headers=headers) as answer:
                answers.append(await answer.json())
    json.dump(answers, sys.stdout)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the clients' environment."""
    return environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand")) / "bin" / "python"


@pytest.mark.parametrize("program", [REQUESTS, AIOHTTP], ids=["requests", "aiohttp"])
def test_a_client_gets_the_scores(
    program: str, python: Path, service: Service, sample: Sample
) -> None:
    """On one kept connection: a body with its length, one in chunks, and a list."""
    predict: dict[str, Any] = {"instances": sample.rows[:3]}
    shown = [{"features": candidate_of(row)} for row in sample.rows[:5]]
    rank: dict[str, Any] = {"context": context_of(sample.rows[0]), "candidates": shown}
    done = subprocess.run(
        [python, "-c", program, service.url],
        input=json.dumps([predict, rank]), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, chunked, ranked = strict(done.stdout)
    assert whole == chunked
    assert whole["predictions"] == service.predict(predict["instances"])
    assert ranked["ranking"] == service.rank(**rank)
