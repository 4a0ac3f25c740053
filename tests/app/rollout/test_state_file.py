"""The bundle to start with behind a gate."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from app.bundle.directory import CURRENT
from app.rollout.state_file import ROLLOUT, first_bundle, read_rollout, write_serving


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
