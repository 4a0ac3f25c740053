"""TorchRec is an extra: who lacks it is told what to install, and the extra brings no CUDA."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from model.sharding.row_exchange import VERSION, ShardingError, require_torchrec
from tests.support.environments import ROOT


@pytest.mark.parametrize("name", ["torchrec", "fbgemm_gpu"])
def test_what_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the commands that install it."""
    for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    # An import of it fails as where it is not installed.
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ShardingError, match=r"--sharded needs TorchRec") as caught:
        require_torchrec()
    assert f"--no-deps torchrec=={VERSION}" in str(caught.value)
    assert "'.[sharded]'" in str(caught.value)


def test_the_extra_brings_the_build_for_cpus() -> None:
    """torchrec, which names the CUDA build, is not in it; versions are those that are tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    assert f"fbgemm-gpu-cpu=={VERSION}" in extras["sharded"]
    names = {re.split(r"[=<>\[]", each)[0] for each in extras["sharded"]}
    assert not names & {"torchrec", "fbgemm-gpu"}
    pinned = (ROOT / "tests" / "extras" / "torchrec.txt").read_text(encoding="utf-8")
    tested = dict(line.split("==") for line in pinned.splitlines() if "==" in line)
    assert tested["torchrec"] == VERSION
    assert names <= tested.keys()
    for name in ("torchrec", "fbgemm-gpu-cpu"):
        assert not any(each.startswith(name) for each in project["project"]["dependencies"])
        assert not any(each.startswith(name) for each in extras["train"])
