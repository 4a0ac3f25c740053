"""The one shape in which every error is answered."""

from __future__ import annotations

import re
from typing import Any

from tests.support.serving import strict

MAX_ERROR_BYTES = 16 * 1024


def error_of(content: bytes) -> dict[str, Any]:
    """The error of an answer, after checking that it has the one shape."""
    assert len(content) <= MAX_ERROR_BYTES
    body = strict(content)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert {"code", "message"} <= set(error) <= {"code", "message", "details", "total"}
    assert re.fullmatch(r"[a-z_]+", error["code"])
    assert isinstance(error["message"], str)
    assert ("details" in error) == ("total" in error)
    if "details" in error:
        assert 1 <= len(error["details"]) <= error["total"]
        for detail in error["details"]:
            assert set(detail) == {"path", "problem"}
            assert all(isinstance(text, str) and text for text in detail.values())
    return error


def paths(error: dict[str, Any]) -> list[str]:
    """Where an error says that the body is wrong."""
    return [detail["path"] for detail in error["details"]]
