"""Callers that were written for other model servers, and curl as people type it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import pytest

from tests.support.errors import error_of
from tests.support.programs import program
from tests.support.samples import Sample
from tests.support.serving import Service, strict

pytestmark = pytest.mark.e2e
MODEL = "/v1/models/clicks"


def curl(*words: str) -> tuple[int, str]:
    """The status and the body that curl gets."""
    done = subprocess.run(
        [program("curl"), "-sS", "-w", "\n%{http_code}", *words],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize("path", ["/predict", "/rank", f"{MODEL}:predict"])
@pytest.mark.parametrize(
    "words",
    [["-d"], ["--data-binary"], ["-H", "Content-Type: text/plain", "-d"], ["-F"]],
    ids=["-d", "--data-binary", "text/plain", "-F"],
)
def test_curl_without_the_header_is_told_which_to_add(
    service: Service, path: str, words: Sequence[str]
) -> None:
    """``curl -d`` announces a form: the answer names the header that is missing."""
    status, body = curl(*words, "instances=[{}]", service.url + path)
    error = error_of(body.encode())
    assert (status, error["code"]) == (415, "wrong_media_type")
    assert "send the header Content-Type: application/json" in error["message"]


@pytest.mark.parametrize("words", [["-H", "Content-Type: application/json", "-d"], ["--json"]])
def test_curl_with_the_header_is_answered(
    service: Service, sample: Sample, words: Sequence[str]
) -> None:
    """The command that the message names is enough."""
    body = json.dumps({"instances": sample.rows[:3]})
    for path in ("/predict", f"{MODEL}:predict"):
        status, answer = curl(*words, body, service.url + path)
        assert status == 200
        assert len(json.loads(answer)["predictions"]) == 3


@pytest.mark.parametrize("name", ["clicks", "any.name-1", "a%20b", "0"])
def test_health_checks_of_other_servers_find_the_model(service: Service, name: str) -> None:
    """TensorFlow Serving's asks for ``model_version_status``, KServe's for ``ready``."""
    answer = service.client.get(f"/v1/models/{name}")
    assert answer.status_code == 200
    found = strict(answer.content)
    version = strict(service.client.get("/ready").content)["version"]
    assert found["ready"] is True
    assert found["name"] == name.replace("%20", " ")
    assert found["model_version_status"] == [
        {
            "version": version,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]


def test_the_health_check_takes_no_other_path_or_method(service: Service) -> None:
    """An operation on a model is no model, and a model is not posted to."""
    assert service.client.get(f"{MODEL}:predict").status_code == 405
    assert service.client.get(f"{MODEL}:predict").headers["allow"] == "POST"
    answer = service.post(MODEL, {"instances": []})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert service.client.head(MODEL).status_code == 200
    for path in ("/v1/models", "/v1/models/", f"{MODEL}/x", f"{MODEL}:explain"):
        assert service.client.get(path).status_code == 404
