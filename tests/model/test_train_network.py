"""The first half of a training run: what is refused and told, and whose checkpoints are whose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.config import TrainConfig
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.group import Group
from model.train_network import CHECKPOINTS, CheckpointOptions, train
from model.training import device as device_module
from model.training.device import Chosen
from model.training.feed import CPU
from model.training.trainer import TrainingError
from tests.support.samples import Sample

pytestmark = pytest.mark.slow

# Four batches of the 240 rows to train on.
CONFIG = TrainConfig(
    network="fm", embedding_size=4, batch_size=64, epochs=1, threads=1, device="cpu"
)


@pytest.fixture(scope="module")
def few_prepared(few: Sample) -> Prepared:
    return prepare(few.spec, InputFiles([few.data]))


def test_processes_with_other_data_are_refused(few_prepared: Prepared, tmp_path: Path) -> None:
    """It is the data that they compare."""
    compared: list[str] = []

    class Apart(Group):
        def alike(self, text: str) -> bool:
            compared.append(text)
            return False

    with pytest.raises(TrainingError, match="the processes have different data"):
        train(few_prepared, CONFIG, tmp_path, progress=False, group=Apart())
    assert compared == [few_prepared.fingerprint()]


def test_few_rows_for_the_batches_are_told(
    few_prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below ten batches an epoch, and not with ten."""
    ten = few_prepared.train_rows // 10
    for size, told in ((ten, False), (ten + 1, True)):
        train(few_prepared, replace(CONFIG, batch_size=size), tmp_path, progress=False)
        assert ("rows are few for batches of" in capsys.readouterr().err) == told


def test_a_device_that_needs_a_word_has_it(
    few_prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where there is a driver, the reason why its GPU does not train."""
    monkeypatch.setattr(device_module, "DRIVER", tmp_path)
    fallen = Chosen(CPU, "cpu", "no code for it")
    monkeypatch.setattr("model.train_network.choose", lambda *_: fallen)
    train(few_prepared, CONFIG, tmp_path, progress=False)
    assert "trains on cpu (not CUDA: no code for it)\n" in capsys.readouterr().err


def runs(out: Path) -> set[str]:
    """Return the ids of the runs that have checkpoints."""
    return {path.name for path in out.glob(f"{CHECKPOINTS}/*")}


def test_checkpoints_are_of_one_run_alone(
    few: Sample,
    few_prepared: Prepared,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other data, another start, more processes, another format: each is a run of its own."""
    waited: list[int] = []

    class Two(Group):
        """The first of two processes, the other of which has the same and adds nothing."""

        def add(self, tensors: object) -> None:
            pass

        def all(self, values: np.ndarray) -> list[np.ndarray]:
            return [values, values]

        def first_says(self, answer: bool) -> bool:
            return answer

        def wait(self) -> None:
            waited.append(len(runs(tmp_path)))

    config = replace(CONFIG, network="deepfm", hidden=(16,))
    other = prepare(few.spec, InputFiles([few.data], mode="random"))
    options = CheckpointOptions(seconds=0, steps=2)
    for number, (prepared, start, group) in enumerate(
        (
            (few_prepared, None, Group()),
            (other, None, Group()),
            (few_prepared, tiny_bundle, Group()),
            (few_prepared, None, Two(0, 2)),
        ),
        start=1,
    ):
        train(prepared, config, tmp_path, False, start, options, group)
        assert len(runs(tmp_path)) == number
    assert waited == [3], "no process begins before the first one has removed what was there"
    monkeypatch.setattr("model.train_network.FORMAT_VERSION", 99)
    train(few_prepared, config, tmp_path, False, None, options)
    assert len(runs(tmp_path)) == 5


def test_checkpoints_are_due_after_the_seconds_that_were_asked_for(
    few_prepared: Prepared, tmp_path: Path
) -> None:
    """After any time, or never."""
    for seconds in (0.0, 1e-9):
        train(few_prepared, CONFIG, tmp_path, False, checkpointing=CheckpointOptions(seconds))
        assert any(tmp_path.glob(f"{CHECKPOINTS}/*/step-*")) == (seconds > 0)


def test_without_resume_checkpoints_of_before_go(
    few_prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is said of any."""
    for every, left in ((1, {"step-3", "step-4"}), (3, {"step-3"})):
        train(few_prepared, CONFIG, tmp_path, False, checkpointing=CheckpointOptions(0, every))
        assert {path.name for path in tmp_path.glob(f"{CHECKPOINTS}/*/*")} == left
        told = capsys.readouterr().err
        assert "no checkpoint of this run" not in told
        assert "resumed" not in told
