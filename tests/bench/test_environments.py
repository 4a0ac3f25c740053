"""Environments beside the product's: made once, of what is pinned, by uv as by pip."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import environments
from tests.support.environments import environment
from tests.support.wheels import write_wheel

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two versions of a package, where alone packages are found, and of peers."""
    for version in ("1.0", "2.0"):
        write_wheel(tmp_path, "small", version)
    monkeypatch.setattr(environments, "HOME", tmp_path / "peers")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def pinned(place: Path, version: str) -> Path:
    """A file that pins a version of the package."""
    path = place / "peer.txt"
    path.write_text(f"# One package.\nsmall=={version}\n")
    return path


def version_in(home: Path) -> str:
    """The version that an environment has."""
    words = [home / "bin" / "python", "-B", "-c", "import small; print(small.version)"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_it_has_the_pinned_versions_wherever_pip_finds_them(
    tool: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By uv, and by pip where there is no uv; another version makes it again."""
    if tool == "uv" and environments.uv() is None:
        pytest.skip("program not installed: uv")
    if tool == "pip":
        monkeypatch.setattr(environments, "uv", lambda: None)
    programs = {"uv": "bash", "pip": sys.executable}
    ran = noted(monkeypatch)
    for version in ("1.0", "2.0"):
        assert version_in(environment(pinned(place, version))) == version
        assert [words[0] for words in ran] == [sys.executable, programs[tool]]
        ran.clear()
        environment(pinned(place, version))
        assert ran == []


def test_processes_beside_each_other_make_it_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait, and find it."""
    ran = noted(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        homes = [*pool.map(environment, [pinned(place, "1.0")] * 4)]
    assert len(ran) == 2, "it is made, and filled"
    assert {version_in(home) for home in homes} == {"1.0"}


def noted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Note the commands that make environments."""
    ran: list[list[str]] = []
    run = environments._run

    def noting(words: list[str]) -> None:
        ran.append(words)
        run(words)

    monkeypatch.setattr(environments, "_run", noting)
    return ran
