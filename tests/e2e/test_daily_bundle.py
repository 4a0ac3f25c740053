"""A bundle a day: trained, gated, published, and only then seen by services."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.bundle.directory import complete_bundles
from tests.support.markdown import ROOT
from tests.support.processes import children, runs
from tests.support.redis_server import RedisServer
from tests.support.samples import Sample, write_log
from tests.support.serving import environment, free_port, wait_until
from tests.support.starting import interpreter_that_forks, passed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
GOOD = "[test]\nmax_log_loss = 10.0\n"
BAD = "[test]\nmin_auc = 1.0\n"
SETTINGS = "embedding_size = 4\nhidden = [16]\nepochs = 1\nbatch_size = 256\nthreads = 1\n"


class Days:
    """The trainer's volumes, and its command, as a CronJob runs it."""

    def __init__(self, folder: Path, sample: Sample) -> None:
        for name in ("bin", "data", "config", "bundles"):
            (folder / name).mkdir()
        self.bundles = folder / "bundles"
        self.gate = folder / "gate.toml"
        (folder / "config" / "clicks.toml").write_text(sample.spec.read_text())
        (folder / "config" / "clicks.train.toml").write_text(SETTINGS)
        write_log(folder / "data" / "part one.csv", 1_500)
        self._folder = folder
        self._forking = interpreter_that_forks(folder / "bin" / "python")

    def words(self, *more: str) -> list[str]:
        """The command, with files of the volumes, and more options of the training."""
        spec, data = self._folder / "config" / "clicks.toml", self._folder / "data" / "*.csv"
        command = ["sh", str(ROOT / "docker" / "daily-bundle")]
        return [*command, str(spec), str(data), "--network", "deepfm", *more]

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of the command."""
        return environment({"CTR_BUNDLE": str(self.bundles), **variables})

    def run(self, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command with the volumes in the place of those of the pod."""
        env = self.environment(**variables) | self._forking
        env["PATH"] = os.pathsep.join([str(self._folder / "bin"), env["PATH"]])
        return subprocess.run(
            self.words(*more), cwd=ROOT, env=env, pass_fds=passed(env),
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    def seen(self) -> set[Path]:
        """The bundles that services see."""
        return set(complete_bundles(self.bundles))

    def waiting(self) -> list[str]:
        """Names of bundles that are trained, and not seen yet."""
        return [each.name for each in complete_bundles(self.bundles / ".new")]


@pytest.fixture
def days(tmp_path: Path, sample: Sample) -> Days:
    """Volumes with a first day's data."""
    return Days(tmp_path, sample)


def test_a_good_bundle_is_added_and_a_bad_one_is_not(days: Days, tiny_bundle: Path) -> None:
    """Beside the one in use; a bad one leaves nothing but the reason and exit code 3."""
    used = days.bundles / tiny_bundle.name
    shutil.copytree(tiny_bundle, used)
    days.gate.write_text(BAD)
    bad = days.run(CTR_GATE=str(days.gate))
    assert bad.returncode == 3
    assert "the new bundle is not written" in bad.stderr
    assert days.seen() == {used}
    assert days.waiting() == []

    days.gate.write_text(GOOD)
    good = days.run(CTR_GATE=str(days.gate))
    assert good.returncode == 0, good.stderr
    [bundle] = days.seen() - {used}
    assert good.stdout.splitlines() == [str(bundle)]
    assert Bundle.open(bundle).version == bundle.name
    assert bundle.with_name(f"{bundle.name}.report").is_dir()
    assert days.waiting() == []


def test_no_redis_no_bundle(days: Days) -> None:
    """A vocabulary that cannot be published keeps its bundle back; the next try need not train.

    It is the first bundle, which has nothing to beat.
    """
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    away = days.run(CTR_REDIS_URL=url)
    assert away.returncode == 1
    assert days.seen() == set()
    [waiting] = days.waiting()
    with RedisServer(port=port) as redis:
        tried = days.run(CTR_REDIS_URL=url)
        assert tried.returncode == 0, tried.stderr
        assert "read and encoded" not in tried.stderr
        assert redis.command("DBSIZE") != ":0"
    assert [each.name for each in days.seen()] == [waiting]


def test_wrong_arguments_are_told(days: Days) -> None:
    """A pattern that nothing matches is named, and nothing is left."""
    for file in (days.bundles.parent / "data").iterdir():
        file.unlink()
    done = days.run()
    assert done.returncode != 0
    assert "data/*.csv" in done.stderr
    assert days.seen() == set()


def test_one_at_a_time(days: Days) -> None:
    """A job that is begun by hand beside the day's ends at once."""
    (days.bundles / ".new").mkdir()
    with (days.bundles / ".new" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = days.run()
    assert done.returncode == 1
    assert done.stderr == f"error: another training writes into {days.bundles}\n"


@pytest.mark.long
def test_a_pod_that_is_killed_is_resumed(days: Days) -> None:
    """By the pod that is tried next: it goes on from the last state, not from the beginning."""
    more = ("--checkpoint-steps", "10")
    (days.bundles.parent / "config" / "clicks.train.toml").write_text(
        SETTINGS.replace("epochs = 1", "epochs = 40\npatience = 0")
    )
    env = days.environment()
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    with (days.bundles.parent / "output").open("w") as output:
        killed = subprocess.Popen(
            days.words(*more), cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        states = days.bundles / ".new" / ".checkpoints"
        wait_until(lambda: any(states.rglob("step-*")), "a state is saved", 240)
    finally:
        processes = [*children(killed.pid), killed.pid]
        for process in processes:
            os.kill(process, signal.SIGKILL)
        killed.wait()
        wait_until(lambda: not any(map(runs, processes)), "all of the pod has ended", 60)
    assert days.seen() == set()
    done = days.run(*more)
    assert done.returncode == 0, done.stderr
    assert "resumed after step" in done.stderr
    assert len(days.seen()) == 1
