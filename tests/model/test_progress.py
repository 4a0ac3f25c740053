"""Progress: a bar on a terminal, lines in a log, nothing for a stage that is short."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

from model import progress
from model.progress import ProgressLines, progress_bar
from tests.support.serving import ROOT


def test_lines_tell_share_time_left_and_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says how much is done, how long the rest takes, and the latest figures."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "MAX_LINE_SECONDS", 0.0)
    with progress_bar("training", 960_000, "rows", shown=True) as shown:
        shown.update(480_000)
        shown.set_postfix({"validation AUC": "0.7759"})
        shown.update(240_000)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("training: 50%, about ")
    assert first.endswith(" s left (480k of 960k rows)")
    assert second.startswith("training: 75%, about ")
    assert second.endswith("(720k of 960k rows; validation AUC 0.7759)")


def test_the_time_left_follows_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quarter done in 30 s leaves 90 s; the next line comes after the interval, not before."""
    clock = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: clock[0])
    lines = ProgressLines("reading", 4_000, "bytes")
    clock[0] += 30
    lines.update(1_000)
    clock[0] += progress.LINE_SECONDS / 2
    lines.update(100)
    told = capsys.readouterr().err.splitlines()
    assert told == ["reading: 25%, about 90 s left (1.00k of 4.00k bytes)"]


def test_lines_of_a_long_stage_grow_rarer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every 5 seconds at first, once a minute after hours: a log stays readable."""
    clock = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: clock[0])
    lines = ProgressLines("training", 1_000_000, "rows")
    for _ in range(7_200):
        clock[0] += 1
        lines.update(100)
        if clock[0] == 15:
            assert len(capsys.readouterr().err.splitlines()) == 3
        if clock[0] == 3_600:
            capsys.readouterr()
    assert len(capsys.readouterr().err.splitlines()) == 60


def test_a_short_stage_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard error is no terminal, a stage shorter than the interval leaves no line."""
    with progress_bar("reading", 10, "rows", shown=True) as shown:
        for _ in range(10):
            shown.update(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_on_a_terminal_only_where_it_is_wanted(shown: bool) -> None:
    """On a terminal a stage has a bar that the next line of text does not break."""
    program = (
        "from model.progress import progress_bar, say\n"
        f"with progress_bar('training', 4, 'rows', shown={shown}) as b:\n"
        "    b.update(2)\n    b.refresh()\n    say('a line')\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    subprocess.run([sys.executable, "-c", program], stderr=theirs, cwd=ROOT, check=True)
    os.close(theirs)
    screen = os.read(ours, 65_536).decode()
    os.close(ours)
    assert ("training:  50%" in screen) == shown
    assert "a line\r\n" in screen
