"""Replay of a long log: everything is as it was served, and one changed value is found."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from model.feedback.replay import replay
from tests.conftest import StartService
from tests.support.feedback import requests_in
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.long]
REQUESTS = 10_000
LISTED = 3
"""Candidates of each ranking."""


def drive(service: Service, sample: Sample) -> None:
    """Send rows and lists that differ, known and unknown values and absent ones among them."""
    draw = random.Random(11)

    def row() -> dict[str, Any]:
        values = {**draw.choice(sample.rows), "item_id": draw.randrange(10**6)}
        if draw.random() < 0.7:
            values["item_id"] = draw.choice(sample.rows)["item_id"]
        for name in draw.sample(["country", "age", "price", "tags"], draw.randrange(2)):
            values.pop(name, None)
        return values

    for number in range(REQUESTS):
        if number % 2:
            service.predict([row()])
        else:
            listed = [{"features": candidate_of(row())} for _ in range(LISTED)]
            service.rank(context=context_of(row()), candidates=listed)


def changed(log: Path, out: Path, place: int) -> str:
    """Copy a log with one value of the request at a place changed; return the request's id."""
    out.mkdir()
    seen, name = 0, ""
    for path in sorted(log.iterdir()):
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for line in lines:
            if line["kind"] == "request":
                if seen == place:
                    name = line["request_id"]
                    features = line["candidates"][0]["features"]
                    # Another bucket than its own, wherever that is.
                    features["price"] = 0.01 if features.get("price", 9) > 2 else 90.0
                seen += 1
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (out / path.name).write_bytes(gzip.compress(content))
    assert name
    return name


@pytest.mark.timeout(900)
def test_ten_thousand_requests_are_as_they_were_served(
    start_service: StartService, tiny_bundle: Path, sample: Sample, tmp_path: Path
) -> None:
    """Within the tolerance, by two workers; a single changed value is named with its request."""
    log = tmp_path / "log"
    service = start_service(request_log=log, request_log_share=1, workers=2)
    drive(service, sample)
    metric = "ctr_request_log_lines_total"
    wait_until(lambda: service.metrics()[metric] == REQUESTS, "all lines are written", 60)
    service.stop()
    assert len(requests_in(log)) == REQUESTS
    report = replay([log], tiny_bundle)
    assert report.requests == REQUESTS
    assert report.own.rows == REQUESTS // 2 * (1 + LISTED)
    assert report.own.largest <= report.tolerance
    assert not report.skewed
    assert not report.degraded.rows
    name = changed(log, tmp_path / "changed", REQUESTS * 2 // 3)
    report = replay([tmp_path / "changed"], tiny_bundle)
    assert report.skewed
    assert dict(report.own.fields) == {"price": 1}
    [example] = report.own.examples
    assert (example.request_id, example.fields) == (name, ("price",))
