"""The service does what /docs promises."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import Service
from tests.support.starting import run

pytestmark = pytest.mark.e2e


def references(node: Any) -> set[str]:
    """Every $ref of a document."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(references(value) for value in node))
    return set()


def test_every_reference_of_the_document_is_there(service: Service) -> None:
    """No part of the OpenAPI document points to nothing."""
    document = service.client.get("/openapi.json").json()
    for reference in references(document):
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


@pytest.mark.parametrize("path", ["/predict", "/rank", "/v1/models/{name}:predict"])
def test_examples_are_true(service: Service, path: str) -> None:
    """A documented request gets its documented answer."""
    operation = service.client.get("/openapi.json").json()["paths"][path]["post"]
    request = operation["requestBody"]["content"]["application/json"]["example"]
    expected = operation["responses"]["200"]["content"]["application/json"]["example"]
    answer = service.client.post(path.format(name="ctr"), json=request).json()
    assert answer.keys() == expected.keys()
    assert answer["version"] == expected["version"]
    if "predictions" in expected:
        assert answer["predictions"] == pytest.approx(expected["predictions"], abs=1e-5)
    else:
        places = [(place["index"], place["id"]) for place in answer["ranking"]]
        assert places == [(place["index"], place["id"]) for place in expected["ranking"]]


def run_openapi(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m app --openapi``."""
    return run("app", "--openapi", *words)


def test_the_command_prints_the_document_of_the_service(
    service: Service, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Without a server, and alike for a bundle and for a directory of them."""
    shown = service.client.get("/openapi.json").json()
    shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name)
    for path in (tiny_bundle, tmp_path):
        done = run_openapi(str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == shown


def test_the_command_says_why_there_is_no_document(tmp_path: Path) -> None:
    """One line on standard error and exit code 1; nothing that looks like a document."""
    done = run_openapi(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "no OpenAPI document" in done.stderr
    for words in ([], [str(tmp_path), "--check", str(tmp_path)]):
        assert run_openapi(*words).returncode == 2


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def test_the_document_has_nothing_that_generators_stumble_over(service: Service) -> None:
    """No property that is false, no default of null, no constant, no list without items; each
    operation has a short name of its own."""
    document = service.client.get("/openapi.json").json()
    for node in nodes(document["components"]["schemas"]):
        assert True not in node.get("properties", {}).values()
        assert False not in node.get("properties", {}).values()
        assert node.get("default", 0) is not None
        assert not isinstance(node.get("const"), str)
        assert node.get("type") != "array" or "items" in node
    names = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(set(names)) == len(names)
    assert {"predict", "rank", "kserve_predict", "live", "ready", "model"} <= set(names)
