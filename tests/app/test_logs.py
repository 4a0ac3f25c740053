"""A line of the log is one JSON object; a flood of problems is not a flood of lines."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from app.logs import FIELDS, JsonFormatter, Seldom, SeldomWarnings


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


def test_seldom_counts_what_it_holds_back() -> None:
    """One a second passes; the next one says how many did not."""
    now = 0.0
    seldom = Seldom(1.0, lambda: now)
    assert [seldom.passes() for _ in range(4)] == [0, None, None, None]
    now = 1.0
    assert [seldom.passes() for _ in range(2)] == [3, None]
    now = 2.5
    assert seldom.passes() == 1


def test_warnings_of_a_logger_are_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """A flood of warnings is a line with their number; errors are all told."""
    now = 0.0
    logger = logging.getLogger("tests.flood")
    told = SeldomWarnings(Seldom(1.0, lambda: now))
    logger.addFilter(told)
    try:
        for second in range(3):
            now = float(second)
            for number in range(10):
                logger.warning("odd %d", number)
        logger.error("broken")
        logger.error("broken")
    finally:
        logger.removeFilter(told)
    assert [record.getMessage() for record in caplog.records] == [
        "odd 0", "odd 0 (and 9 times more)", "odd 0 (and 9 times more)", "broken", "broken",
    ]  # fmt: skip
