"""Each log line is one JSON object; a flood of problems is limited to a line a second."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app import logs
from app.logs import FIELDS, BackgroundHandler, JsonFormatter, LogLimit
from tests.support.serving import wait_until

PATIENCE = 60.0
"""Seconds in which lines that are read are written, on a busy machine too."""


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


def test_a_limit_may_allow_several_lines(caplog: pytest.LogCaptureFixture) -> None:
    """So many lines a second are written as they come, whenever in the second that is."""
    caplog.set_level(logging.INFO)
    now = 0.0
    logger, limit = logging.getLogger("tests.limited"), LogLimit(1.0, lambda: now, lines=3)
    for moment, lines in ((0.0, 2), (0.9, 3), (1.0, 1)):
        now = moment
        for _ in range(lines):
            limit.log(logger, logging.INFO, "line")
    assert [getattr(record, FIELDS)["left_out"] for record in caplog.records] == [0, 0, 0, 2]


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


class Pipe:
    """A pipe of one page as a log's descriptor: its reader reads when the test says so."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.handler = BackgroundHandler(self.writing, most_bytes=20_000)
        self.handler.setFormatter(JsonFormatter())
        self.logger = logging.getLogger("tests.piped")
        self.logger.setLevel(logging.INFO)
        self._text = b""

    def lines(self) -> list[dict[str, object]]:
        """All lines that could be read until now."""
        os.set_blocking(self.reading, False)
        try:
            while found := os.read(self.reading, 65_536):
                self._text += found
        except BlockingIOError:
            pass
        whole = self._text[: self._text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def piped() -> Iterator[Pipe]:
    """A logger that writes to a pipe."""
    pipe = Pipe()
    pipe.logger.addHandler(pipe.handler)
    try:
        yield pipe
    finally:
        pipe.logger.removeHandler(pipe.handler)


def test_logging_does_not_wait_for_a_reader() -> None:
    """A full pipe drops lines; once it is read again, a line says how many, and logging goes on."""
    with piped() as pipe:
        for number in range(5_000):
            pipe.logger.info("line %d", number)

        def dropped() -> int:
            return sum(int(str(line.get("dropped", 0))) for line in pipe.lines())

        def kept() -> list[str]:
            return [str(line["message"]) for line in pipe.lines() if "dropped" not in line]

        wait_until(lambda: len(kept()) + dropped() == 5_000, "each line is there or told of")
        assert dropped() > 0
        assert kept() == sorted(kept(), key=lambda line: int(line.removeprefix("line ")))
        told = [line for line in pipe.lines() if "dropped" in line]
        assert {line["level"] for line in told} == {"warning"}
        assert pipe.handler.take_dropped() == dropped()
        assert pipe.handler.take_dropped() == 0
        pipe.logger.info("again")
        wait_until(lambda: pipe.lines()[-1]["message"] == "again", "the next line is written")


def test_an_end_does_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing writes what can be written, and gives up on a reader that is stuck."""
    monkeypatch.setattr(logs, "FLUSH_SECONDS", PATIENCE)
    with piped() as pipe:
        pipe.logger.info("first")
        pipe.handler.flush()
        assert [line["message"] for line in pipe.lines()] == ["first"]
        monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.05)
        for number in range(5_000):
            pipe.logger.info("line %d", number)
        pipe.handler.flush()
        pipe.lines()


def test_a_reader_that_has_gone_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines for a pipe without a reader are counted as dropped."""
    monkeypatch.setattr(logs, "FLUSH_SECONDS", PATIENCE)
    with piped() as pipe:
        os.close(pipe.reading)
        for number in range(3):
            pipe.logger.info("line %d", number)
        pipe.handler.flush()
        assert pipe.handler.take_dropped() == 3


def test_a_fork_has_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's lines are written by the worker; the parent's are written once."""
    monkeypatch.setattr(logs, "FLUSH_SECONDS", PATIENCE)
    with piped() as pipe:
        pipe.logger.info("before")
        pid = os.fork()
        if pid == 0:
            pipe.logger.info("in the child")
            pipe.handler.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        pipe.logger.info("after")
        pipe.handler.flush()
        messages = [line["message"] for line in pipe.lines()]
    assert sorted(map(str, messages)) == ["after", "before", "in the child"]
