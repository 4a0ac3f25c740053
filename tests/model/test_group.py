"""Several processes that train one network do what one alone does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from app.bundle.bundle import Bundle
from model.export.weights import read_weights
from model.train_network import CHECKPOINTS
from tests.support import realdata
from tests.support.groups import Ended, forked, variables
from tests.support.processes import children
from tests.support.samples import Sample
from tests.support.serving import wait_until
from tests.support.starting import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {
    "embedding_size": 4, "hidden": [16], "batch_size": 250, "epochs": 3, "learning_rate": 0.02,
    "oov_rate": 0.1, "dropout": 0.0, "batch_norm": False, "threads": 1,
}  # fmt: skip
"""Without what is random or estimated in each process, so that sums differ in rounding alone."""


def torchrun(processes: int, *words: object) -> list[str]:
    """The command that starts so many processes on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(processes), *map(str, words)]


def settings_file(directory: Path, **changed: Any) -> Path:
    path = directory / "settings.toml"
    path.write_text(toml(SETTINGS | changed))
    return path


def toml(settings: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


def with_torchrun(processes: int, *words: object) -> Ended:
    """Run the trainer's command as users do: the launcher starts its processes from nothing."""
    _, _, launcher, *options = torchrun(processes, "-m", "model", *words)
    done = run(launcher, *options, timeout=600)
    return done.returncode, done.stdout, done.stderr


def trained(
    processes: int, directory: Path, *words: object, runs: Callable[..., Ended] = forked
) -> Bundle:
    """Train with so many processes; return the bundle."""
    out = directory / f"by-{processes}"
    cache = ("--cache", directory / "cache", "--out", out)
    code, shown, told = runs(processes, "train", *words, *cache)
    assert code == 0, told
    # One of them writes, and one alone speaks.
    bundle = Bundle.open(Path(shown.strip()))
    assert {path.name for path in out.iterdir()} == {bundle.path.name, f"{bundle.path.name}.report"}
    assert told.count("trained in") == 1
    assert bundle.manifest.training["processes"] == processes
    return bundle


LEFT = """
import time
from contextlib import suppress
from pathlib import Path
import torch
from model.group import joined

def threads():
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(path.read_text())
    return found

with joined() as group:
    torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    group.wait()
    assert any("gloo" in name for name in threads()), threads()
# The system lists a thread for a moment after it has been joined.
end = time.monotonic() + 60
while any("gloo" in name for name in threads()):
    assert time.monotonic() < end, threads()
    time.sleep(0.01)
"""
"""An optimiser imports what could keep the group."""


def test_no_thread_of_the_group_outlives_it() -> None:
    """A thread that frees a tensor while the interpreter ends would abort the process."""
    env = {**os.environ, **variables(1), "RANK": "0", "LOCAL_RANK": "0"}
    command = [sys.executable, "-c", LEFT]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("network", ["fm", pytest.param("deepfm", marks=pytest.mark.long)])
def test_two_or_three_learn_what_one_does(network: str, sample: Sample, tmp_path: Path) -> None:
    """Whoever names which rows: the weights of each step are the same but for rounding."""
    config = settings_file(tmp_path, network=network)
    words = (sample.spec, sample.data, "--config", config)
    launched = {2: with_torchrun} if network == "fm" else {}
    one, *others = (
        trained(count, tmp_path, *words, runs=launched.get(count, forked)) for count in (1, 2, 3)
    )
    layout = one.vocabulary.layout
    expected = read_weights(one.graph, network, layout)
    for found in others:
        for name, weights in read_weights(found.graph, network, layout).items():
            torch.testing.assert_close(weights, expected[name], atol=2e-4, rtol=1e-2, msg=name)
        for part in ("validation", "test"):
            mine, theirs = found.manifest.metrics[part], one.manifest.metrics[part]
            if part == "train":
                assert mine["calibration"] == pytest.approx(1, abs=1e-3)
            assert mine["auc"] == pytest.approx(theirs["auc"], abs=1e-3)
            assert mine["log_loss"] == pytest.approx(theirs["log_loss"], abs=1e-4)


@pytest.mark.e2e
def test_what_is_exchanged_is_exact(tmp_path: Path) -> None:
    """Sums, arrays of different lengths, answers; a shared evaluation has all bits of one alone."""
    code, _, told = forked(3, tmp_path, module="tests.model.exchange")
    assert code == 0, told
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert found[0] == found[1] == found[2] == {
        "sum": [[3.0, 6.0], [9.0]],
        "all": [[], [1], [2, 2]],
        "first": [True, False],
        "alike": [True, False],
        "rows": 1001,
        "shares": list(range(10)),
        "logits": "the same",
    }  # fmt: skip


@pytest.mark.e2e
@pytest.mark.long
def test_a_killed_group_goes_on(sample: Sample, tmp_path: Path) -> None:
    """After kill -9 of all, ``--resume`` ends with the metrics of a run that was left alone."""
    config = settings_file(tmp_path, epochs=50, patience=0, dropout=0.2, batch_norm=True)
    words = (sample.spec, sample.data, "--config", config)
    expected = trained(2, tmp_path, *words)
    out = tmp_path / "killed"
    saving = ("--cache", tmp_path / "cache", "--out", out, "--checkpoint-steps", 20, "--resume")
    command = torchrun(2, "-m", "model", "train", *words, *saving)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL, start_new_session=True
        )
    try:
        wait_until(lambda: any(out.glob(f"{CHECKPOINTS}/*/step-*")), "a checkpoint is written", 120)
    finally:
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)
    assert not [path for path in out.iterdir() if path.name != CHECKPOINTS], "it had ended"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("resumed after step") == 1
    found = Bundle.open(Path(done.stdout.strip()))
    for part, metrics in expected.manifest.metrics.items():
        assert found.manifest.metrics[part]["auc"] == pytest.approx(metrics["auc"], abs=1e-6)
    best = found.manifest.training["best"]["step"]
    assert best == expected.manifest.training["best"]["step"]


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(found for child in children(pid) for found in descendants(child))]


@pytest.mark.e2e
def test_processes_need_a_cache(sample: Sample, tmp_path: Path) -> None:
    """Without a place for the encoded data that all can see, nothing is begun."""
    code, _, told = forked(2, "train", sample.spec, sample.data, "--out", tmp_path / "out")
    assert code != 0
    assert "error: several processes share the encoded data: give --cache" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("changed", "at_least", "apart"),
    [({"dropout": 0.0, "batch_norm": False, "epochs": 3}, 0.9, 0.001), ({}, 0.98, 0.002)],
    ids=["the same sums", "as shipped"],
)
def test_two_processes_learn_frappe_as_well(
    tmp_path: Path, changed: dict[str, Any], at_least: float, apart: float
) -> None:
    """The test AUC is that of one process.

    As shipped, each drops other units and normalises by its own half of a batch, which is another
    run as another seed is: those are 0.0004 (a standard deviation) around their mean.
    """
    files = realdata.files("frappe", tmp_path)
    parts = zip(("--train", "--validation", "--test"), files, strict=True)
    words = (realdata.SPECS / "frappe.toml", *(word for pair in parts for word in pair))
    shipped = tomllib.loads((realdata.SPECS / "frappe.train.toml").read_text(encoding="utf-8"))
    general = {key: value for key, value in shipped.items() if not isinstance(value, dict)}
    config = tmp_path / "settings.toml"
    config.write_text(toml(general | {"threads": 1} | changed), encoding="utf-8")
    one, two = (trained(count, tmp_path, *words, "--config", config) for count in (1, 2))
    aucs = [found.manifest.metrics["test"]["auc"] for found in (one, two)]
    assert min(aucs) > at_least
    assert abs(aucs[0] - aucs[1]) <= apart, aucs
