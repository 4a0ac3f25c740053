"""Without Ray a cluster is refused in one line; with it, see tests/extras/test_ray.py."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from model.cluster.places import ThisProcess
from model.cluster.ray_engine import ClusterError, connected, opened
from tests.support import samples
from tests.support.starting import run

WITHOUT = importlib.util.find_spec("ray") is None


def test_without_an_address_it_is_this_process() -> None:
    """With the memory that was asked for."""
    with opened(None, memory_mib=512) as places:
        assert isinstance(places, ThisProcess)
        assert places.memory_mib == 512


def test_workers_need_a_cluster() -> None:
    """This process runs one block at a time."""
    with pytest.raises(ClusterError, match="--workers is for a cluster"), opened(None, 2):
        pass


@pytest.mark.parametrize(
    "address",
    ["", "spark", "host", "host:", ":6379", "host:port", "host:0", "host:65536", "ray://host",
     "spark://host:7077", "a b:6379"],
)  # fmt: skip
def test_what_is_no_address_is_told(address: str) -> None:
    """Before Ray is looked for."""
    told = re.escape(f"--cluster {address}: expected ray, auto, host:port or ray://host:port")
    with pytest.raises(ClusterError, match=f"^{told}$"), connected(address):
        pass


def test_a_token_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its file: Ray ends by a traceback."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    (tmp_path / "empty").write_text("\n")
    for name, why in (("absent", "No such file or directory"), ("empty", "it is empty")):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / name))
        wanted = f"cannot be read from {tmp_path / name}: {why}; RAY_AUTH_TOKEN, "
        with pytest.raises(ClusterError, match=re.escape(wanted)), connected("auto"):
            pass


def test_the_extra_is_named_where_ray_is_not_installed() -> None:
    """The main environment has no Ray, and must not need one."""
    assert WITHOUT, "the extra is not for the main environment"
    wanted = r"needs Ray, and 'ray' is .*deepfm-serving\[cluster\]"
    with pytest.raises(ClusterError, match=wanted), connected("ray"):
        pass


@pytest.mark.slow
def test_a_command_ends_with_one_line(tmp_path: Path) -> None:
    """Before any data are read."""
    spec = tmp_path / "clicks.toml"
    spec.write_text(samples.SPEC, encoding="utf-8")
    done = run(
        "model", "prepare", spec, "absent.csv", "--cache", tmp_path / "c", "--cluster", "ray"
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --cluster needs Ray, and 'ray' is not installed: pip")
    assert done.stderr.count("\n") == 1
