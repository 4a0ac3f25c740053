"""The bundle to start with behind a gate."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.bundle.directory import CURRENT
from app.rollout.state_file import (
    MOST_STOPPED,
    ROLLOUT,
    Candidate,
    Ended,
    Rollout,
    change_rollout,
    first_bundle,
    read_rollout,
    write_serving,
)


@pytest.fixture
def bundles(tiny_bundle: Path, other_bundle: Path, tmp_path: Path) -> Path:
    for each in (tiny_bundle, other_bundle):
        shutil.copytree(each, tmp_path / each.name)
    return tmp_path


def test_a_start_goes_on_with_what_served(
    bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """Without a gate, or a note, it is the newest; an operator's choice goes before both."""
    assert first_bundle(bundles, gated=True).name == other_bundle.name
    write_serving(bundles, tiny_bundle.name)
    assert read_rollout(bundles).serving == tiny_bundle.name
    assert first_bundle(bundles, gated=True).name == tiny_bundle.name
    assert first_bundle(bundles, gated=False).name == other_bundle.name
    (bundles / CURRENT).write_text(f"{other_bundle.name}\n")
    assert first_bundle(bundles, gated=True).name == other_bundle.name


def test_a_bundle_that_is_gone_is_not_started(bundles: Path, other_bundle: Path) -> None:
    write_serving(bundles, "20200101T000000Z-000000000000")
    assert first_bundle(bundles, gated=True).name == other_bundle.name


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"serving": 3}', b"\xff"])
def test_a_damaged_file_counts_as_absent(
    bundles: Path, other_bundle: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (bundles / ROLLOUT).write_bytes(content)
    assert first_bundle(bundles, gated=True).name == other_bundle.name
    assert "counts as absent" in caplog.text


def test_a_directory_that_cannot_be_written_is_told_of(
    bundles: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (bundles / ROLLOUT).mkdir()
    (bundles / ROLLOUT / "file").touch()
    write_serving(bundles, tiny_bundle.name)
    assert "a restart serves the newest bundle" in caplog.text


def test_a_single_bundle_is_not_written_to(tiny_bundle: Path) -> None:
    write_serving(tiny_bundle, tiny_bundle.name)
    assert not (tiny_bundle / ROLLOUT).exists()
    assert first_bundle(tiny_bundle, gated=True) == tiny_bundle.resolve()


CANARY = Candidate("20261129T010203Z-0123456789ab", "canary", 0.05, 7, "user_id")
BAD = Ended("p99", "its p99 is high", 8)


def test_a_start_leaves_out_what_is_on_trial_or_ended_badly(
    bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """The newest is on trial, then stopped: the one beside it serves; if chosen, that serves."""
    trial = replace(CANARY, version=other_bundle.name)
    change_rollout(bundles, lambda _: Rollout(serving=tiny_bundle.name, candidate=trial))
    assert first_bundle(bundles, gated=False).name == tiny_bundle.name
    change_rollout(bundles, lambda found: replace(found, serving=None))
    assert first_bundle(bundles, gated=False).name == tiny_bundle.name
    change_rollout(bundles, lambda found: found.without_trial(trial, BAD))
    assert first_bundle(bundles, gated=False).name == tiny_bundle.name
    write_serving(bundles, other_bundle.name)
    assert first_bundle(bundles, gated=False).name == other_bundle.name


def test_the_end_of_a_trial_leaves_another_one_alone() -> None:
    """A service that is late ends only what it has seen."""
    found = Rollout(candidate=CANARY)
    assert found.without_trial(replace(CANARY, began=6), BAD) == found
    ended = found.without_trial(CANARY, BAD)
    assert ended == Rollout(stopped={CANARY.version: BAD})
    assert ended.without(CANARY.version) == Rollout()
    for number in range(2 * MOST_STOPPED):
        again = replace(CANARY, version=f"{number}")
        ended = replace(ended, candidate=again).without_trial(again, BAD)
    assert len(ended.stopped) == MOST_STOPPED
    assert f"{2 * MOST_STOPPED - 1}" in ended.stopped


def test_changes_take_turns(tmp_path: Path) -> None:
    """Of services that write at the same time none loses what another has written."""

    def end(number: int) -> None:
        trial = replace(CANARY, began=number, version=str(number))
        change_rollout(
            tmp_path, lambda found: replace(found, candidate=trial).without_trial(trial, BAD)
        )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(end, range(MOST_STOPPED)))
    assert set(read_rollout(tmp_path).stopped) == {str(each) for each in range(MOST_STOPPED)}
    assert [path.name for path in tmp_path.iterdir()] == [ROLLOUT]
