"""Each log line is one JSON object; a flood of problems is limited to a line a second."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from app.logs import FIELDS, JsonFormatter, LogLimit


def test_fields_and_tracebacks_stay_in_their_line() -> None:
    """Given fields are the line's own; a traceback with its newlines is one of them."""
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.LogRecord("x", 40, "", 0, "two\nlines %d", (1,), sys.exc_info())
    setattr(record, FIELDS, {"rows": 3})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["message"], line["rows"], line["level"]) == ("two\nlines 1", 3, "error")
    assert "ValueError: a\nb" in line["traceback"]


def test_a_limit_counts_what_it_leaves_out(caplog: pytest.LogCaptureFixture) -> None:
    """One line a second is written; it says how many before it were not."""
    caplog.set_level(logging.INFO)
    now = 0.0
    logger, limit = logging.getLogger("tests.limited"), LogLimit(1.0, lambda: now)
    for moment, lines in ((0.0, 4), (1.0, 2), (2.5, 1)):
        now = moment
        for number in range(lines):
            limit.log(logger, logging.INFO, "line %d", number, fields={"rows": 7})
    assert [(record.getMessage(), getattr(record, FIELDS)) for record in caplog.records] == [
        ("line 0", {"rows": 7, "left_out": left_out}) for left_out in (0, 3, 1)
    ]


def test_a_loggers_warnings_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of warnings is a line with their number; every error is written."""
    now = 0.0
    logger, limit = logging.getLogger("tests.flood"), LogLimit(1.0, lambda: now)
    logger.addFilter(limit.filter)
    try:
        for second in range(3):
            now = float(second)
            for number in range(10):
                logger.warning("odd %d", number)
        logger.error("broken")
        logger.error("broken")
    finally:
        logger.removeFilter(limit.filter)
    warnings, errors = caplog.records[:3], caplog.records[3:]
    assert [record.getMessage() for record in warnings] == ["odd 0"] * 3
    assert [getattr(record, FIELDS)["left_out"] for record in warnings] == [0, 9, 9]
    assert [record.getMessage() for record in errors] == ["broken", "broken"]
