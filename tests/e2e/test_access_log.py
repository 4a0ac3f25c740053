"""A request can be found in the log by its id."""

from __future__ import annotations

from typing import Any

import pytest

from app.web.access_log import ERRORS_PER_SECOND
from tests.conftest import StartService
from tests.support.samples import Sample
from tests.support.serving import Service, wait_until

pytestmark = pytest.mark.e2e


def lines_of(service: Service) -> list[dict[str, Any]]:
    """The access log's lines."""
    return [event for event in service.events() if event["logger"] == "app.web.access_log"]


def line_with(service: Service, request: str) -> dict[str, Any]:
    """The line of a request."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [line for line in lines_of(service) if line["request"] == request]
        return bool(found)

    wait_until(there, f"the line of {request}")
    (line,) = found
    return line


def test_refused_requests_can_be_found(start_service: StartService, sample: Sample) -> None:
    """Every refusal has a line with its id, route, status and reason, and nothing of its body."""
    service = start_service(max_body_bytes=5_000)
    secret = "never to be seen in a log"
    refused = {
        "a-422": ("/predict", {"instances": [{"country": secret}]}, {}, 422, "invalid"),
        "a-400": ("/rank", f'{{"{secret}'.encode(), {}, 400, "undecodable"),
        "a-413": ("/predict", secret.encode() * 500, {}, 413, "too_large"),
        "a-415": ("/predict", b"{}", {"content_type": "text/plain"}, 415, "wrong_media_type"),
    }
    for request, (path, body, headers, status, reason) in refused.items():
        answer = service.post(path, body, x_request_id=request, **headers)
        assert answer.status_code == status
        line = line_with(service, request)
        assert (line["route"], line["status"], line["reason"]) == (path[1:], status, reason)
        assert line["total_ms"] >= 0
    answer = service.client.get("/nowhere", headers={"x-request-id": "a-404"})
    assert answer.status_code == 404
    line = line_with(service, "a-404")
    assert (line["method"], line["path"], line["status"]) == ("GET", "/nowhere", 404)
    service.predict(sample.rows[:1])
    assert len(lines_of(service)) == len(refused) + 1, "a request that was scored has no line"
    assert secret not in service.log()


def test_a_flood_of_errors_is_limited(start_service: StartService) -> None:
    """Lines and those that they say were left out are all errors."""
    service = start_service()
    errors = 10 * ERRORS_PER_SECOND
    for _ in range(errors):
        service.post("/predict", b"{")

    def all_told() -> bool:
        nonlocal errors
        service.post("/predict", b"{")
        errors += 1
        lines = lines_of(service)
        told = len(lines) + sum(line["left_out"] for line in lines)
        return len(lines) < errors and told == errors

    wait_until(all_told, "lines and what they left out are all errors", 30)


@pytest.mark.parametrize(("mode", "lines"), [("all", 2), ("off", 0)])
def test_all_requests_or_none(
    start_service: StartService, sample: Sample, mode: str, lines: int
) -> None:
    """``all`` has a line for right answers too, ``off`` none for errors either."""
    service = start_service(access_log=mode)
    for body, request in (({"instances": sample.rows[:2]}, "right"), ({}, "wrong")):
        service.post("/predict", body, x_request_id=request)
    if lines:
        line = line_with(service, "right")
        assert (line["status"], line["rows"], "reason" in line) == (200, 2, False)
        assert line_with(service, "wrong")["status"] == 422
    assert service.stop() == 0
    assert len([line for line in lines_of(service) if line["request"] != "-"]) == lines
