"""Processes of a group: they begin, go on, or tell why they cannot."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.errors import CtrError
from model.must_beat import NotBetterError
from model.remote.files import RemoteFile
from model.train_group import BEGUN, BUNDLE, FAILED, TOLD, Asked, _everywhere, _followed, work


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """As they were before."""
    yield
    logging.disable(logging.NOTSET)


def asked(place: Path, command: Any, resume: bool = False) -> Asked:
    return Asked(command, {"resume": resume, "cluster": None}, place)


def test_the_second_try_goes_on_from_the_last_state(tmp_path: Path) -> None:
    """The first one begins, unless it was asked to go on; what is printed is kept."""
    seen: list[bool] = []

    def command(resume: bool, cluster: None) -> None:
        seen.append(resume)
        print("bundles/one")
        print("trained", file=sys.stderr)
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(asked(tmp_path, command))
    assert (tmp_path / BEGUN).exists()
    assert not (tmp_path / BUNDLE).exists()
    work(asked(tmp_path, command))
    assert seen == [False, True]
    assert (tmp_path / BUNDLE).read_text() == "bundles/one\n"
    assert (tmp_path / TOLD).read_text() == "trained\ntrained\n"


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (CtrError("no such column"), "no such column", 1),
        (NotBetterError("AUC is lower"), "AUC is lower", 3),
        (OSError(28, "No space left on device", "x"), "x: No space left on device", 1),
    ],
)
def test_what_the_command_refuses_is_not_tried_again(
    error: Exception, message: str, code: int, tmp_path: Path
) -> None:
    """Its message and exit code are kept for the one who waits."""
    ran: list[bool] = []

    def command(resume: bool, cluster: None) -> None:
        ran.append(resume)
        raise error

    with pytest.raises(type(error)):
        work(asked(tmp_path, command))
    assert json.loads((tmp_path / FAILED).read_text()) == {"message": message, "exit_code": code}
    work(asked(tmp_path, command))
    assert ran == [False]


def test_messages_are_shown_as_they_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those written last, too."""
    path = tmp_path / "told"
    path.touch()
    with _followed(path), path.open("a") as file:
        file.write("one\n")
        file.flush()
        file.write("two\n")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_paths_are_the_same_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of a cluster begin elsewhere; addresses of stores stay."""
    monkeypatch.chdir(tmp_path)
    far = RemoteFile("s3://bucket/1.csv")
    found = _everywhere({"data": [Path("a.csv"), far], "out": Path("b"), "seed": 1, "test": None})
    assert found == {
        "data": [tmp_path / "a.csv", far], "out": tmp_path / "b", "seed": 1, "test": None,
    }  # fmt: skip
