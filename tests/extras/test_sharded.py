"""Tables cut into parts by TorchRec: what one process with a whole table does, whoever holds it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import WEIGHTS
from app.features.encoder import Encoder
from model.config import NETWORKS
from model.data.dataset import Dataset
from model.quality.offline_scoring import open_engine, score_dataset
from model.train_network import CHECKPOINTS
from tests.support import samples
from tests.support.environments import seeing_the_product
from tests.support.ranks import Ranks, ranks
from tests.support.registry import environment_or_skip
from tests.support.serving import wait_until

pytestmark = pytest.mark.extras
PINNED = Path(__file__).with_name("torchrec.txt")
SIZES = (1, 2, 3)
SETTINGS = """
embedding_size = 16
hidden = [2000]
batch_size = 250
epochs = 3
learning_rate = 0.005
oov_rate = 0.1
embedding_l2 = 1e-5
dropout = 0.0
batch_norm = false
patience = 0
threads = 1
"""
Fits = dict[int, list[dict[str, dict[str, Any]]]]
"""By the number of processes (0: a whole table), what each of them has of each network."""


@pytest.fixture(scope="module")
def torchrec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """What runs groups of processes that have TorchRec."""
    home = environment_or_skip(PINNED, tmp_path_factory.mktemp("by-hand"))
    with ranks(home / "bin" / "python", tmp_path_factory.mktemp("printed")) as found:
        yield found


@pytest.fixture(scope="module")
def fits(torchrec: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Fits:
    """Fits of every network with a whole table and with sharded ones."""
    found = {}
    for size in (0, *SIZES):
        place = tmp_path_factory.mktemp("fits")
        codes, _, told = torchrec.run(size, "tests.extras.sharded_fits", place, int(size > 0))
        assert not any(codes), told
        paths = [place / f"{rank}.json" for rank in range(max(size, 1))]
        found[size] = [json.loads(path.read_text()) for path in paths]
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_a_sharded_table_learns_what_a_whole_one_does(fits: Fits, network: str) -> None:
    """The loss of each step is within 1e-5, in every process; so is each logit afterwards."""
    whole = fits[0][0][network]
    assert len(whole["losses"]) == 12
    assert np.ptp(whole["logits"]) > 0.05, "it has learned something"
    for size in SIZES:
        assert len(fits[size]) == size
        for each in (found[network] for found in fits[size]):
            np.testing.assert_allclose(each["losses"], whole["losses"], rtol=1e-5)
            np.testing.assert_allclose(each["logits"], whole["logits"], atol=1e-5)
            # Nor do the means of fields differ, which rows get that nothing trained.
            np.testing.assert_allclose(each["after"], whole["after"], atol=1e-5)
            assert each["parameters"] == whole["parameters"]


def test_each_process_holds_its_part_alone(fits: Fits) -> None:
    """Of the table and of both of its moments: blocks that are equal but for the last."""
    rows = fits[0][0]["fm"]["held"]
    for size in SIZES:
        held = [found["fm"]["held"] for found in fits[size]]
        block = -(-rows // size)
        assert held == [*[block] * (size - 1), rows - block * (size - 1)]
        assert [found["fm"]["moments"] for found in fits[size]] == held
        assert sum(found["fm"]["learned"] for found in fits[size]) == fits[0][0]["fm"]["learned"]


class Log:
    """A log with its spec and settings, and trainings on it."""

    def __init__(self, torchrec: Ranks, place: Path) -> None:
        self.torchrec, self.place = torchrec, place
        self.spec, self.data = place / "clicks.toml", place / "clicks.csv"
        self.spec.write_text(samples.with_scaled_numbers(), encoding="utf-8")
        (place / "clicks.train.toml").write_text(SETTINGS, encoding="utf-8")
        samples.write_log(self.data, samples.ROWS)

    def words(self, out: str, *more: object) -> list[object]:
        cache = ("--cache", self.place / "cache", "--out", self.place / out)
        return ["train", self.spec, self.data, *cache, *more]

    def trained(self, size: int, out: str, *more: object) -> tuple[Bundle, str]:
        """Train in so many processes; return the bundle and what was told."""
        codes, shown, told = self.torchrec.run(size, "model", *self.words(out, *more))
        assert not any(codes), told
        bundle = Bundle.open(Path(shown.strip()))
        assert {path.name for path in (self.place / out).iterdir()} == {
            bundle.path.name, f"{bundle.path.name}.report",
        }  # fmt: skip
        return bundle, told


@pytest.fixture(scope="module")
def log(torchrec: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(torchrec, tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def whole(log: Log) -> Bundle:
    """The bundle of one process with a whole table."""
    return log.trained(0, "whole")[0]


def logits(bundle: Bundle, log: Log) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return what a bundle's graph gives for rows of the log."""
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    rows = samples.read_rows(log.data)[:1000]
    context = b"".join(encoder.context.row(samples.context_of(row)) for row in rows)
    candidate = b"".join(encoder.candidate.row(samples.candidate_of(row)) for row in rows)
    sides = [np.frombuffer(text, np.int32).reshape(len(rows), -1) for text in (context, candidate)]
    data = Dataset.of_rows(*sides, encoder.shapes, np.zeros(len(rows), np.uint8))
    engine = open_engine(bundle.graph, encoder, bundle.vocabulary.layout)
    return score_dataset(engine, data).logit


def check_same(bundle: Bundle, whole: Bundle, log: Log) -> None:
    """Compare what is served, and what is said of it."""
    np.testing.assert_allclose(logits(bundle, log), logits(whole, log), atol=1e-5)
    mine, theirs = bundle.manifest.training, whole.manifest.training
    assert mine["parameters"] == theirs["parameters"]
    assert mine["best"]["step"] == theirs["best"]["step"]
    assert (mine["sharded"], theirs["sharded"]) == (True, False)
    # The table is streamed to where it lies in the other bundle.
    assert (bundle.path / WEIGHTS).stat().st_size == (whole.path / WEIGHTS).stat().st_size


@pytest.mark.parametrize("size", [0, 2, 3])
def test_the_bundle_is_that_of_a_whole_table(log: Log, whole: Bundle, size: int) -> None:
    """Without torchrun, and with two and three processes."""
    bundle, told = log.trained(size, f"by-{size}", "--sharded")
    check_same(bundle, whole, log)
    assert bundle.manifest.training["processes"] == max(size, 1)
    assert told.count("trained in") == 1
    assert "torch/fx" not in told


def test_checkpoints_are_of_any_number_of_processes(log: Log, whole: Bundle) -> None:
    """Two processes, one of which is killed; one, and three, go on from what they saved."""
    saving = ("--sharded", "--checkpoint-steps", 10, "--resume")
    running = log.torchrec.begin(2, "model", *log.words("killed", *saving))
    out = log.place / "killed"
    try:
        wait_until(lambda: any(out.glob(f"{CHECKPOINTS}/*/step-*")), "a state is saved", 120)
    finally:
        os.kill(running.pids[1], signal.SIGKILL)
    codes, shown, _ = log.torchrec.end(running)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL), "the other one ends by itself, with an error"
    assert shown == ""
    assert [path.name for path in out.iterdir()] == [CHECKPOINTS]
    # What is there is whole: a state half-written has no such name.
    assert {path.name.partition("-")[0] for path in out.glob(f"{CHECKPOINTS}/*/*")} == {"step"}
    for size in (1, 3):
        shutil.copytree(out, log.place / f"again-{size}")
        bundle, told = log.trained(size, f"again-{size}", *saving)
        assert told.count("resumed after step") == 1
        check_same(bundle, whole, log)


def test_what_is_not_supported_is_refused(log: Log) -> None:
    """By name, before anything is read."""
    (log.place / "cuda.toml").write_text(SETTINGS + 'device = "cuda"\n')
    for more, wanted in (
        (["--quantize", "int8"], "cannot be combined with --quantize yet"),
        (["--init-from", "bundles"], "cannot be combined with --init-from yet"),
        (["--cluster", "ray", "--workers", 2], "cannot be combined with --cluster yet"),
        (["--config", log.place / "cuda.toml"], "it trains on CPUs"),
    ):  # fmt: skip
        codes, _, told = log.torchrec.run(0, "model", *log.words("refused", "--sharded", *more))
        assert codes == [2], told
        assert wanted in told
    assert not (log.place / "refused").exists()


def test_one_package_alone_is_missing(torchrec: Ranks) -> None:
    """``pip check`` complains of the CUDA build of fbgemm, and of nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", torchrec.python, "check"],
        capture_output=True, text=True, timeout=120, env=seeing_the_product(),
    )  # fmt: skip
    wanted = ["torchrec 1.8.0 requires fbgemm-gpu, which is not installed."]
    assert done.stdout.splitlines() == wanted, done.stderr
