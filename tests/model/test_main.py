"""The trainer's command line answers a first mistake with a line that says what to do."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.__main__ import main

pytestmark = pytest.mark.slow

RunCommand = Callable[..., tuple[int, str]]
SPEC = """
label = "click"
[[fields]]
name = "user_id"
kind = "categorical"
side = "context"
[[fields]]
name = "item_id"
kind = "categorical"
side = "candidate"
"""


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[RunCommand]:
    """Runs a command in an empty directory; returns its exit code and standard error."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["model", *words])
        return main(), capsys.readouterr().err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_no_command_is_answered_with_the_help(run: RunCommand) -> None:
    """The commands are listed, and no empty error follows."""
    code, error = run()
    assert code == 2
    assert "error:" not in error


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["train"], "error: Missing argument 'spec'; see "),
        (["trian"], "error: No such command 'trian'. Did you mean 'train'?; see "),
        (["train", "--sead", "1", "spec.toml"], "error: No such option: --sead"),
    ],
)
def test_a_wrong_command_line_names_the_help(
    run: RunCommand, words: list[str], wanted: str
) -> None:
    """One line says what is missing or unknown, and where to look it up; the exit code is 2."""
    code, error = run(*words)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(wanted)
    assert error.endswith("--help\n")


def test_a_spec_that_is_not_there_is_named(run: RunCommand) -> None:
    """The message has the path and the reason, once each."""
    assert run("train", "absent.toml", "log.csv") == (
        1,
        "error: cannot read feature spec absent.toml: No such file or directory\n",
    )


def test_a_file_that_is_no_spec_is_named(run: RunCommand, tmp_path: Path) -> None:
    """Data given in the place of the spec are told by their name."""
    (tmp_path / "log.csv").write_text("user_id,click\n1,1\n")
    assert run("train", "log.csv", "spec.toml") == (
        1,
        "error: log.csv is a data file; the feature spec must be a TOML file\n",
    )


def test_data_that_are_not_there_are_named(run: RunCommand, tmp_path: Path) -> None:
    """The message has the path and the reason, once each."""
    (tmp_path / "spec.toml").write_text(SPEC)
    assert run("train", "spec.toml", "absent.csv") == (
        1,
        "error: cannot read absent.csv: No such file or directory\n",
    )
