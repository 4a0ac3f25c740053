"""Scores and trainings on a real Ray: the bits of a single process, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from app.bundle.bundle import Bundle
from model.score_blocks import DONE
from model.score_files import Offline
from model.train_network import CHECKPOINTS
from tests.support.environments import ROOT
from tests.support.groups import forked
from tests.support.processes import children, runs
from tests.support.ray_cluster import Cluster
from tests.support.samples import Sample
from tests.support.scattered import scatter
from tests.support.serving import wait_until

pytestmark = pytest.mark.extras
ROWS, FILES = 20_000, 10
EACH = """\
import json, sys
from pathlib import Path
from model.cluster.ray_engine import connected
from model.data.file_blocks import BlockSize
from model.score_blocks import predict_blocks

address, client, bundle, out, *paths = sys.argv[1:]
rows = {}
for name, where, workers, size in (
    ("one", address, 1, None), ("two", client, 2, BlockSize(20_000, 20_000, 300)),
    ("four", address, 4, BlockSize(70_000, 70_000, 1_001)),
):
    with connected(where, workers, 128) as places:
        rows[name] = predict_blocks(
            places, Path(bundle), [*map(Path, paths)], Path(out) / name, 0.1, ["item_id"], size=size
        )
print(json.dumps(rows))
"""
SETTINGS = {
    "embedding_size": 4, "hidden": [16], "batch_size": 250, "epochs": 60, "patience": 0,
    "learning_rate": 0.02, "dropout": 0.2, "threads": 1,
}  # fmt: skip


class Log:
    """Files to score, and what one process makes of them."""

    def __init__(self, bundle: Path, directory: Path) -> None:
        self.bundle = bundle
        self.paths = scatter(directory, ROWS, FILES)
        out = directory / "scores.parquet"
        self.rows = Offline.open(bundle).predict(self.paths, out, 0.1, ["item_id"])
        self.expected = pl.read_parquet(out)

    def words(self, out: Path) -> list[object]:
        """The words of the command, for many blocks."""
        limits = ("--max-bad-lines", 0.1, "--worker-memory", 128, "--workers", 2)
        return ["predict", self.bundle, *self.paths, "--out", out, "--keep", "item_id", *limits]

    def check(self, out: Path) -> None:
        """Compare every bit."""
        found = pl.concat([pl.read_parquet(path) for path in sorted(out.glob("part-*"))])
        assert_frame_equal(found, self.expected, check_exact=True)
        assert json.loads((out / DONE).read_text())["rows"] == self.rows
        assert not list(out.glob(".*"))


@pytest.fixture(scope="module")
def log(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Log:
    return Log(tiny_bundle, tmp_path_factory.mktemp("log"))


def started(ray: Cluster, *words: object) -> subprocess.Popen[str]:
    """Start a command on the cluster."""
    return subprocess.Popen(
        ray.command(*words, "--cluster", ray.address), cwd=ROOT, env=ray.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_any_number_of_workers_scores_the_same(ray: Cluster, log: Log, tmp_path: Path) -> None:
    """One, two and four workers, blocks of three sizes, by both ways to a cluster."""
    told = ray.program(EACH, ray.address, ray.client, log.bundle, tmp_path, *log.paths)
    assert json.loads(told) == dict.fromkeys(("one", "two", "four"), log.rows)
    for name in ("one", "two", "four"):
        log.check(tmp_path / name)
    assert len(list((tmp_path / "two").glob("part-*"))) > 3 * FILES


def test_killed_workers_change_no_score(ray: Cluster, log: Log, tmp_path: Path) -> None:
    """Workers are killed while they score a block, as often as they can be found."""
    process, killed = started(ray, *log.words(tmp_path / "out")), 0
    try:
        end = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end:
            for pid in ray.workers("score_block")[: killed < 3]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            time.sleep(0.005)
        _, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert killed > 0
    log.check(tmp_path / "out")


def test_a_killed_command_scores_the_rest(ray: Cluster, log: Log, tmp_path: Path) -> None:
    """Nothing says that it has ended, and no block is scored twice."""
    out = tmp_path / "out"
    process = started(ray, *log.words(out))

    def begun() -> bool:
        assert process.poll() is None, process.communicate()
        return any(out.glob("part-*"))

    try:
        wait_until(begun, "some blocks are scored", 120)
    finally:
        process.kill()
        process.communicate()
    assert not (out / DONE).exists()
    wait_until(lambda: not ray.workers("score_block"), "no block is scored", 60)
    parts = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    again = started(ray, *log.words(out))
    _, stderr = again.communicate(timeout=240)
    assert again.returncode == 0, stderr
    assert "blocks are scored already" in stderr
    assert all(path.stat().st_mtime_ns == when for path, when in parts.items())
    log.check(out)


def test_a_group_trains_as_by_torchrun(ray: Cluster, sample: Sample, tmp_path: Path) -> None:
    """With a process killed in the middle: all begin again from the last state, to the same id."""
    config, cache = tmp_path / "settings.toml", tmp_path / "cache"
    config.write_text("".join(f"{name} = {json.dumps(v)}\n" for name, v in SETTINGS.items()))
    words = ["train", sample.spec, sample.data, "--config", config, "--cache", cache, "--out"]
    code, stdout, stderr = forked(2, *words, tmp_path / "by")
    assert code == 0, stderr
    expected = Bundle.open(Path(stdout.strip()))
    out = tmp_path / "out"
    more = ("--checkpoint-steps", 10, "--workers", 2, "--worker-memory", 256)
    process = started(ray, *words, out, *more)
    try:
        wait_until(
            lambda: any(out.glob(f"{CHECKPOINTS}/*/step-*")) or process.poll() is not None,
            "a checkpoint is written", 400,
        )  # fmt: skip
        workers = [pid for pid in descendants(ray.pid) if "RayTrainWorker" in title(pid)]
        assert workers, process.poll()
        os.kill(workers[-1], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert stderr.count("resumed after step") == 1
    assert stderr.count("trained in") == 1
    found = Bundle.open(Path(stdout.strip()))
    assert found.manifest.id == expected.manifest.id
    assert found.manifest.training["processes"] == 2
    assert len(os.listdir(cache)) == 1, "nothing is left beside the encoded data"


def test_what_stops_a_training_is_told_once(ray: Cluster, sample: Sample, tmp_path: Path) -> None:
    """An error of the command ends it, with its message and exit code, and is not tried again."""
    config = tmp_path / "settings.toml"
    config.write_text("embedding_size = 4\nbatch_size = 250\nthreads = 1\n")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    words = ("train", sample.spec, tmp_path / "bad.csv", "--config", config)
    ends = ("--out", tmp_path / "out", "--workers", 2, "--worker-memory", 256)
    done = ray.run(*words, *ends, "--cache", tmp_path / "c", "--cluster", ray.address)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: bad.csv: column 'user_id' is absent"), done.stderr
    done = ray.run(*words, *ends, "--cluster", ray.address)
    assert done.returncode == 2
    assert "needs --cache" in done.stderr


def descendants(pid: int) -> list[int]:
    """Return all processes below one that are there."""
    found, waiting = [], [pid]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return [each for each in found if runs(each)]


def title(pid: int) -> str:
    """Return a process' title, as Ray sets it."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
