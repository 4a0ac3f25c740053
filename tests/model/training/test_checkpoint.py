"""A run that was killed resumes, and ends with the same weights."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.bundle.bundle import Bundle
from app.features.layout import Layout, Slot
from model.array_files import INDEX, DamagedError, read_arrays, write_arrays
from model.config import NETWORKS, TrainConfig
from model.data.dataset import Dataset
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.group import Group
from model.pipeline import run
from model.train_network import CHECKPOINTS, CheckpointOptions
from model.training.checkpoint import KEPT, Checkpoints
from model.training.fit import FitResult, fit
from model.training.trainer import Trainer
from tests.support import samples
from tests.support.serving import ROOT, wait_until

pytestmark = pytest.mark.slow

LAYOUT = Layout(
    context=(Slot("user", "user", 1, 6),),
    candidate=(Slot("item", "item", 7, 6),),
    context_lists=(),
    candidate_lists=(Slot("genres", "genres", 13, 6),),
)
CONFIG = TrainConfig(
    embedding_size=4, hidden=(8, 4), dropout=0.2, batch_size=32, epochs=3, learning_rate=0.02,
    oov_rate=0.1, negative_rate=0.7, patience=0, threads=1, device="cpu",
)  # fmt: skip
STEPS = 24


def dataset(rows: int, seed: int) -> Dataset:
    """Random rows whose label depends on user and item."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 4, rows), rng.integers(0, 4, rows)
    label = ((user + item) % 2 == 0) ^ (rng.random(rows) < 0.1)
    genres = rng.integers(15, 19, (rows, 3)) * (rng.random((rows, 3)) < 0.7)
    return Dataset(
        (user[:, None] + 3).astype(np.int32), (item[:, None] + 9).astype(np.int32), (),
        (genres.astype(np.int32),), label.astype(np.uint8),
    )  # fmt: skip


class Killed(BaseException):
    """Stands for the end of the process."""


def trained(
    config: TrainConfig, directory: Path | None = None, until: int = 10**9, steps: int = 3
) -> FitResult:
    """Train, resuming if there is what to resume from, until the process ends in some step."""
    checkpoints = None if directory is None else Checkpoints(directory, 0, steps, resume=True)
    if checkpoints is not None:
        checkpoints.begin()
    usual = Trainer.step

    def step(trainer: Trainer, rows: Any, rate: float) -> float:
        if trainer.steps + 1 == until:
            raise Killed
        return usual(trainer, rows, rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        return fit(LAYOUT, dataset(300, 0), dataset(200, 1), config, False, checkpoints=checkpoints)


def assert_same(found: FitResult, expected: FitResult) -> None:
    """Every weight and every figure but the times is the same, bit for bit."""
    for name, value in expected.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value), name
    timeless = [
        [replace(evaluation, rows_per_second=0.0) for evaluation in result.history]
        for result in (found, expected)
    ]
    assert timeless[0] == timeless[1]
    assert found.best.step == expected.best.step


@pytest.mark.parametrize("name", NETWORKS)
def test_it_ends_as_if_nothing_had_been(name: str, tmp_path: Path) -> None:
    """Killed in an epoch and again in the next, a run has the weights of one that was not."""
    config = replace(CONFIG, network=name)
    expected = trained(config)
    assert expected.history[-1].step == STEPS
    for until in (6, 18):
        with pytest.raises(Killed):
            trained(config, tmp_path / "run", until)
    assert_same(trained(config, tmp_path / "run"), expected)


@pytest.mark.parametrize("until", [2, 8, 9, 10, 13, 24])
def test_any_step_may_be_the_last(until: int, tmp_path: Path) -> None:
    """After the first step, between epochs, beside an evaluation: all is restored."""
    expected = trained(CONFIG)
    with pytest.raises(Killed):
        trained(CONFIG, tmp_path / "run", until, steps=1)
    assert_same(trained(CONFIG, tmp_path / "run", steps=1), expected)


def test_early_stopping_counts_what_was_before(tmp_path: Path) -> None:
    """Evaluations before the kill count for the patience, and their best weights are kept."""
    config = replace(CONFIG, patience=2, learning_rate=0.5, epochs=8, evaluations_per_epoch=4)
    expected = trained(config)
    assert expected.stopped_early
    last = expected.history[-1].step
    with pytest.raises(Killed):
        trained(config, tmp_path / "run", last, steps=1)
    assert_same(trained(config, tmp_path / "run"), expected)


def test_a_start_from_a_bundle_is_not_repeated(tmp_path: Path) -> None:
    """A run that began from given weights resumes from its checkpoint, first figures included."""
    begun: list[int] = []

    def begin(network: Any) -> None:
        begun.append(1)
        with torch.no_grad():
            network.table[1:] += 0.1

    parts = dataset(300, 0), dataset(200, 1)
    expected = fit(LAYOUT, *parts, CONFIG, False, begin)
    checkpoints = Checkpoints(tmp_path / "run", 0, 5, resume=True)
    fit(LAYOUT, *parts, CONFIG, False, begin, checkpoints=checkpoints)
    checkpoints.begin()
    assert checkpoints.state is not None
    assert checkpoints.state.step == 20
    assert_same(fit(LAYOUT, *parts, CONFIG, False, begin, checkpoints=checkpoints), expected)
    assert len(begun) == 2


def test_two_are_kept_and_time_counts_too(tmp_path: Path) -> None:
    """A checkpoint is due by steps or by seconds; older ones go."""
    checkpoints = Checkpoints(tmp_path / "run", seconds=0.0, steps=4)
    assert [step for step in range(1, 13) if checkpoints.due(step)] == [4, 8, 12]
    for step in (4, 8, 12):
        checkpoints.write(step, {}, {})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"step-8", "step-12"}
    assert KEPT == 2
    by_time = Checkpoints(tmp_path / "other", seconds=0.01)
    wait_until(lambda: by_time.due(1), "a hundredth of a second has passed", 5)
    by_time.write(1, {}, {})
    assert not Checkpoints(tmp_path / "other", seconds=600).due(1)
    assert not Checkpoints(tmp_path / "other", seconds=0, steps=0).due(1)


def test_the_time_counts_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many seconds one is due, and right after it none, at whatever step."""
    clock = [0.0]
    monkeypatch.setattr("model.training.checkpoint.time.monotonic", lambda: clock[0])
    checkpoints = Checkpoints(tmp_path / "run", seconds=60.0, steps=0)
    monkeypatch.setattr(checkpoints, "_written", 0.0)
    due = []
    for step, clock[0] in ((1, 59.0), (2, 60.0), (3, 61.0), (4, 119.0), (5, 120.0)):
        due.append(checkpoints.due(step))
        if due[-1]:
            checkpoints.write(step, {}, {})
    assert due == [False, True, False, False, True]


class Refusing(Group):
    """A group whose first process says that no checkpoint is due."""

    def first_says(self, answer: bool) -> bool:
        return False


class Another(Group):
    """A group as a process has it that is not the first one."""

    def share(self, rows: np.ndarray) -> np.ndarray:
        return rows


@pytest.mark.parametrize("group", [Refusing(), Another(rank=1)], ids=["not due", "another"])
def test_the_first_process_says_when_and_writes(group: Group, tmp_path: Path) -> None:
    """No other looks at its own clock, or writes where the first one does."""
    checkpoints = Checkpoints(tmp_path / "run", 0, 1)
    parts = dataset(300, 0), dataset(200, 1)
    config = replace(CONFIG, epochs=1, oov_rate=0.0)
    fit(LAYOUT, *parts, config, False, checkpoints=checkpoints, group=group)
    assert not (tmp_path / "run").exists()


def damage(path: Path, how: str) -> None:
    """Break a checkpoint in one of several ways."""
    array = max(path.glob("*.npy"), key=lambda file: file.stat().st_size)
    match how:
        case "cut off":
            array.write_bytes(array.read_bytes()[:-7])
        case "altered":
            content = bytearray(array.read_bytes())
            content[-3] ^= 1
            array.write_bytes(bytes(content))
        case "absent":
            array.unlink()
        case "index cut off":
            (path / INDEX).write_text((path / INDEX).read_text()[:-9])
        case "no index":
            (path / INDEX).unlink()


@pytest.mark.parametrize("how", ["cut off", "altered", "absent", "index cut off", "no index"])
def test_a_damaged_checkpoint_is_skipped(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one before takes its place, with a warning; with both damaged none is resumed."""
    expected = trained(CONFIG)
    with pytest.raises(Killed):
        trained(CONFIG, tmp_path / "run", 20)
    damage(tmp_path / "run" / "step-18", how)
    shutil.copytree(tmp_path / "run", tmp_path / "both")
    capsys.readouterr()
    assert_same(trained(CONFIG, tmp_path / "run"), expected)
    assert "warning: a damaged checkpoint is skipped: step-18" in capsys.readouterr().err
    damage(tmp_path / "both" / "step-15", how)
    checkpoints = Checkpoints(tmp_path / "both", resume=True)
    checkpoints.begin()
    skipped = re.findall("damaged checkpoint is skipped: step-1[58]", capsys.readouterr().err)
    assert len(skipped) == 2
    assert checkpoints.state is None


def test_without_resume_nothing_is_taken_over(tmp_path: Path) -> None:
    """An earlier run's checkpoints are removed; what was half-written goes in any case."""
    for resume in (True, False):
        Checkpoints(tmp_path / "run").write(3, {"a": 1}, {"b": np.arange(3)})
        (tmp_path / "run" / ".partial-x").mkdir()
        checkpoints = Checkpoints(tmp_path / "run", resume=resume)
        checkpoints.begin()
        assert (checkpoints.state is not None) == resume
        names = {path.name for path in tmp_path.rglob("*") if path.is_dir()}
        assert names == ({"run", "step-3"} if resume else set())


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    """Kinds, shapes and any names are kept; an interrupted write leaves what was there."""
    arrays = {"a/b": np.float32(3), "c": np.zeros((0, 4), np.int32), "d": np.array([2**63], "u8")}
    with write_arrays(tmp_path / "x") as writing:
        writing.description = {"big": 2**100, "none": None}
        for name, array in arrays.items():
            writing.save(name, array)
        for rows in (2, 0, 1):
            writing.append("grown", np.full((rows, 3), rows, np.int16))

    def interrupted() -> None:
        with write_arrays(tmp_path / "x") as writing:
            writing.save("c", np.ones(9))
            writing.append("grown", np.ones(9))
            raise Killed

    with pytest.raises(Killed):
        interrupted()
    described, found = read_arrays(tmp_path / "x")
    arrays["grown"] = np.array([[2] * 3, [2] * 3, [1] * 3], np.int16)
    mapped = read_arrays(tmp_path / "x", mapped=True)
    assert mapped[0] == described
    assert mapped[1].keys() == found.keys() == arrays.keys()
    assert described == {"big": 2**100, "none": None}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
        assert np.array_equal(mapped[1][name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(DamagedError, match="nowhere cannot be read"):
        read_arrays(tmp_path / "nowhere")


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_command_goes_on_to_the_same_bundle(tmp_path: Path) -> None:
    """Killed with signal 9 at three moments drawn at random, the command ends with the same id."""
    spec, data, out = tmp_path / "few.toml", tmp_path / "few.csv", tmp_path / "bundles"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, 400)
    config = replace(CONFIG, embedding_size=8, epochs=60, batch_size=16, learning_rate=0.003)
    prepared = prepare(spec, InputFiles([data]))
    expected = Bundle.open(run(prepared, config, tmp_path / "whole", progress=False))

    settings = tmp_path / "short.toml"
    settings.write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.to_dict().items())
    )
    words = [
        "train", spec, data, "--config", settings, "--out", out, "--resume",
        "--checkpoint-steps", 5,
    ]  # fmt: skip
    command = [sys.executable, "-m", "model", *map(str, words)]
    moment = random.Random()
    for _ in range(3):
        reached = newest_step(out)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=subprocess.DEVNULL)
        try:
            wait_until(
                lambda before=reached, it=process: (
                    newest_step(out) > before or it.poll() is not None
                ),  # type: ignore[misc]
                "a checkpoint is written",
                120,
            )
            # Any moment will do, within a write or between two.
            time.sleep(moment.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert not [path for path in out.iterdir() if path.name != CHECKPOINTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "resumed after step" in done.stderr
    found = Bundle.open(Path(done.stdout.strip()))
    assert found.manifest.id == expected.manifest.id
    assert found.manifest.metrics == expected.manifest.metrics
    assert {path.name for path in out.iterdir()} == {found.path.name, f"{found.path.name}.report"}


def newest_step(out: Path) -> int:
    """The last step of which a checkpoint is there, 0 if there is none."""
    found = (out / CHECKPOINTS).glob("*/step-*") if out.is_dir() else ()
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def test_other_settings_are_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of another seed is not gone on from, and stays; one of another device is."""
    spec, data, out = tmp_path / "few.toml", tmp_path / "few.csv", tmp_path / "bundles"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, 300)
    prepared = prepare(spec, InputFiles([data]))
    config = replace(CONFIG, network="lr", epochs=1, device="auto")

    def end(*_: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.pipeline.write_graph", end)
        with pytest.raises(Killed):
            run(prepared, config, out, progress=False, checkpointing=CheckpointOptions(0, 2))
    left = newest_step(out)
    assert left > 0
    again = CheckpointOptions(0, 2, resume=True)
    capsys.readouterr()
    run(prepared, replace(config, seed=2), out, progress=False, checkpointing=again)
    told = capsys.readouterr().err
    assert "no checkpoint of this run: training starts from the beginning" in told
    assert "damaged" not in told
    assert newest_step(out) == left
    elsewhere = replace(config, device="cpu")
    bundle = run(prepared, elsewhere, out, progress=False, checkpointing=again)
    told = capsys.readouterr().err
    assert f"resumed after step {left}" in told
    assert "trains on" not in told
    assert Bundle.open(bundle).manifest.training["device"] == "cpu"
    assert not (out / CHECKPOINTS).exists()
