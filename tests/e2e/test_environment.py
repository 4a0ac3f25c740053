"""scripts/environment makes .venv with uv or pip, from pip's settings, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pip
import pytest

from tests.support.serving import ROOT
from tests.support.wheels import METADATA, write_wheel

pytestmark = pytest.mark.e2e

BACKEND = """
import pathlib, zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "small-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory, name), "w") as wheel:
        wheel.writestr("small.pth", "")
        wheel.writestr("small-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("small-1.dist-info/METADATA", CONTENT)
        wheel.writestr("small-1.dist-info/RECORD", "")
    return name
"""
EXTRAS = "".join(
    f'Provides-Extra: {extra}\nRequires-Dist: torch; extra == "{extra}"\n'
    for extra in ("cpu", "local", "dev", "train")
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout of a project that needs nothing but a package called torch."""
    root = tmp_path / "a checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("environment", "pip-settings.sh"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    metadata = METADATA.format("small", "1") + EXTRAS
    (root / "backend.py").write_text(BACKEND.replace("CONTENT", repr(metadata)))
    (root / "constraints.txt").write_text("torch==2.0\n")
    return root


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with two versions of torch, of which the lock allows the older one."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("2.0", "3.0"):
        write_wheel(folder, "torch", version)
    return folder


def make_venv(project: Path) -> None:
    """Make the project's environment as Python does, with pip alone.

    pip is copied, with its bytecode: unpacking and compiling it takes longer than all the rest.
    """
    venv.create(project / ".venv", symlinks=True)
    (packages,) = (project / ".venv" / "lib").glob("python*/site-packages")
    shutil.copytree(Path(pip.__path__[0]), packages / "pip")


def environment(project: Path, settings: str, programs: Path) -> subprocess.CompletedProcess[str]:
    """Run the script with these settings of pip and with the programs of a folder first."""
    configuration = project / "pip.conf"
    configuration.write_text(f"[global]\n{settings}")
    clean = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("PIP_", "UV_", "CI", "PYTHONPYCACHEPREFIX"))
    }  # fmt: skip
    return subprocess.run(
        [project / "scripts" / "environment"],
        env=clean | {"PIP_CONFIG_FILE": str(configuration), "PATH": f"{programs}:{clean['PATH']}"},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


def torch_version(project: Path) -> str:
    """The version of torch in the project's environment.

    Files of wheels have one time and here one size, so no bytecode that was kept may be believed.
    """
    python = project / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-E", "-B", "-c", "import torch; print(torch.version)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with uv; skips where there is none."""
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip("program not installed: uv")
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "uv").symlink_to(found)
    return folder


@pytest.mark.long
def test_uv_installs_once_from_where_pip_would(project: Path, wheels: Path, programs: Path) -> None:
    """uv finds the wheels of pip's settings and keeps to the lock; only another lock is work again.

    A good run says two things: what comes, and what came.
    """
    settings = f"no-index = true\nfind-links = {wheels}\n"
    done = environment(project, settings, programs)
    assert done.returncode == 0, done.stderr
    assert torch_version(project) == "2.0"
    assert done.stderr == ""
    making, ready = done.stdout.splitlines()
    assert "GB" in making
    assert "ready in " in ready
    assert "torch-2.0" in ready

    again = environment(project, settings, programs)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    (project / "constraints.txt").write_text("torch==3.0\n")
    changed = environment(project, settings, programs)
    assert changed.returncode == 0, changed.stderr
    assert torch_version(project) == "3.0"


def test_pip_installs_where_uv_cannot_be_had(project: Path, wheels: Path, tmp_path: Path) -> None:
    """With an unusable uv, and without an index to get another from, pip installs the same."""
    make_venv(project)
    unusable = tmp_path / "uv"
    unusable.write_text("#!/bin/sh\nexit 2\n")
    unusable.chmod(0o755)
    done = environment(project, f"no-index = true\nfind-links = {wheels}\n", tmp_path)

    assert done.returncode == 0, done.stderr
    assert torch_version(project) == "2.0"
    assert "uv cannot be had" in done.stdout
    assert done.stderr == ""


def test_an_error_is_seen_whole(project: Path, tmp_path: Path, programs: Path) -> None:
    """Where torch cannot be had, both tools' errors and a way out are shown; no stamp is left."""
    make_venv(project)
    done = environment(project, f"no-index = true\nfind-links = {tmp_path}\n", programs)

    assert done.returncode == 1
    assert "trying once more, with pip" in done.stdout
    assert done.stderr.count("torch") >= 2
    assert "PIP_FIND_LINKS" in done.stderr
    assert not (project / ".venv" / ".installed").exists()
