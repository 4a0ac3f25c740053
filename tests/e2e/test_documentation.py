"""What /docs promises is what the service does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving import Service

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


def test_the_documentation_page_is_served(service: Service) -> None:
    """/docs answers with a page."""
    assert "text/html" in service.client.get("/docs").headers["content-type"]
