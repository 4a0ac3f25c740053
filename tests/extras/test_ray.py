"""Data prepared on a real Ray: equal to the byte, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from model.cluster.places import ThisProcess
from model.data.input_files import InputFiles
from model.data.prepare import prepare_rows
from tests.support import samples
from tests.support.environments import ROOT
from tests.support.ray_cluster import Cluster
from tests.support.scattered import contents, scatter
from tests.support.serving import wait_until

pytestmark = pytest.mark.extras
ROWS, FILES = 3_600, 12
STAGES = ("read_block", "count_frame", "merge_files", "encode_frame")
EACH = """\
import json, sys
from pathlib import Path
from model.cluster.ray_engine import ClusterError, connected
from model.data.input_files import InputFiles
from model.data.errors import DataError
from model.data.prepare import prepare_rows

address, client, spec, cache, *paths = sys.argv[1:]
files = InputFiles([*map(Path, paths)], max_bad_lines=0.1)
found = {}
for name, where, workers, mib in (
    ("one", address, 1, 1), ("two", client, 2, 2), ("four", address, 4, 1),
):
    with connected(where, workers, mib) as places:
        entry = prepare_rows(Path(spec), files, None, Path(cache) / name, places, False)
        found[name] = str(entry)
        if name == "four":
            found["resources"] = places.resources().cpus
            few = InputFiles([*map(Path, paths)])
            try:
                prepare_rows(Path(spec), few, None, Path(cache) / "bad", places, False)
            except DataError as error:
                found["error"] = str(error)
try:
    with connected(address, None, 10_000_000):
        pass
except ClusterError as error:
    found["room"] = str(error)
print(json.dumps(found))
"""

BROKEN_OFF = """\
import sys
import ray
from model.cluster.ray_engine import connected

connect, tries, (address, times, words) = ray.init, [], sys.argv[1:]

def broken_off(**given):
    tries.append(given["address"])
    if len(tries) <= int(times):
        raise ConnectionError(words)
    return connect(**given)

ray.init = broken_off
try:
    with connected(address, 1, 128) as places:
        machines = places.resources().machines
    print(machines, len(tries))
except Exception as error:
    print(error, len(tries))
"""
"""Ray's own words, as many times as are given."""
ANOTHER_VERSION = """\
import sys
import ray
from model.cluster.ray_engine import ClusterError, connected

ray.__version__ = "2.0.0"
try:
    with connected(sys.argv[1]):
        pass
except ClusterError as error:
    print(error)
"""


class Data:
    """Files with a spec, and what one process makes of them."""

    def __init__(self, directory: Path) -> None:
        self.spec = directory / "clicks.toml"
        self.spec.write_text(samples.with_scaled_numbers(), encoding="utf-8")
        self.paths = scatter(directory, ROWS, FILES)
        inputs = InputFiles(self.paths, max_bad_lines=0.1)
        cache = directory / "cache"
        self.entry = prepare_rows(self.spec, inputs, None, cache, ThisProcess(), False)
        self.expected = contents(self.entry)

    def words(self, cache: Path, *more: object) -> list[object]:
        """The words of the command."""
        limits = ("--max-bad-lines", 0.1, "--worker-memory", 128)
        return ["prepare", self.spec, *self.paths, "--cache", cache, *limits, *more]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


def test_any_number_of_workers_gives_the_same(ray: Cluster, data: Data, tmp_path: Path) -> None:
    """One, two and four workers, blocks of two sizes, by both ways to a cluster; errors too."""
    told = ray.program(EACH, ray.address, ray.client, data.spec, tmp_path, *data.paths)
    found = json.loads(told)
    for name in ("one", "two", "four"):
        entry = Path(found[name])
        assert entry.name == data.entry.name, "the code has the same hash"
        assert contents(entry) == data.expected, name
        assert os.listdir(tmp_path / name) == [entry.name]
    assert found["resources"] == 4.0
    lines = found["error"].splitlines()
    assert lines[0] == f"24 of {ROWS} lines are bad:"
    assert lines[1] == "  part-00.csv:8: 1 values, expected 10"
    assert "no machine of the cluster has 10,000,000 MiB for a worker" in found["room"]


def started(ray: Cluster, data: Data, cache: Path) -> subprocess.Popen[str]:
    """Start the command on the cluster."""
    return subprocess.Popen(
        ray.command(*data.words(cache, "--cluster", ray.address, "--workers", 2)),
        cwd=ROOT, env=ray.environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_killed_workers_change_nothing(ray: Cluster, data: Data, tmp_path: Path) -> None:
    """A worker is killed in each stage, while it works on a block."""
    killed: set[str] = set()
    process = started(ray, data, tmp_path / "cache")
    try:
        end = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end:
            for stage in STAGES:
                for pid in [] if stage in killed else ray.workers(stage)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(stage)
            time.sleep(0.005)
        stdout, stderr = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, stderr
    assert {"read_block", "encode_frame"} <= killed, killed
    assert contents(Path(stdout.strip())) == data.expected


def test_a_killed_command_goes_on(ray: Cluster, data: Data, tmp_path: Path) -> None:
    """Nothing that it left is taken for whole, and blocks that are done are not done again."""
    cache = tmp_path / "cache"
    process = started(ray, data, cache)

    def begun() -> bool:
        assert process.poll() is None, process.communicate()
        return len([*cache.glob(".work-*/rows/*.json")]) >= 4

    try:
        wait_until(begun, "some blocks are read", 120)
    finally:
        process.kill()
        process.communicate()
    [work] = cache.iterdir()
    assert work.name.startswith(".work-")
    # Its blocks end with it.
    wait_until(lambda: not ray.workers("read_block"), "no block runs", 60)
    blocks = {path: path.stat().st_mtime_ns for path in work.glob("rows/*.json")}
    again = started(ray, data, cache)
    try:
        wait_until(
            lambda: any(work.glob("counts/*.json")) or again.poll() is not None, "it is read", 120
        )
        after = {path: path.stat().st_mtime_ns for path in blocks if path.exists()}
        stdout, stderr = again.communicate(timeout=240)
    finally:
        again.kill()
        again.wait()
    assert again.returncode == 0, stderr
    assert after.items() <= blocks.items(), "a block was done again"
    assert contents(Path(stdout.strip())) == data.expected
    assert os.listdir(cache) == [data.entry.name]


def test_a_ray_of_the_command_alone(ray: Cluster, data: Data, tmp_path: Path) -> None:
    """It begins and ends with the command; a second run takes what is there."""
    words = data.words(tmp_path / "cache", "--cluster", "ray", "--workers", 2)
    done = ray.run(*words)
    assert done.returncode == 0, done.stderr
    assert contents(Path(done.stdout.strip())) == data.expected


def test_an_interrupted_command_says_so(ray: Cluster, data: Data, tmp_path: Path) -> None:
    """While Ray's own code waits for a block, too."""
    process = started(ray, data, tmp_path / "cache")
    try:
        wait_until(lambda: bool(ray.workers("read_block")), "a block is read", 120)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, stdout) == (130, ""), stderr
    assert stderr.splitlines()[-1] == "interrupted; no unfinished result is left"


def test_what_does_not_answer_is_told(ray: Cluster, data: Data, tmp_path: Path) -> None:
    """In one line, with the address, and what to look at."""
    dead = "127.0.0.1:9"
    refused = "Connection refused"
    for address, variables, wanted in (
        (dead, {}, f"error: --cluster {dead}: nothing answers there: {refused}"),
        (
            "auto",
            {"RAY_ADDRESS": dead},
            f"error: --cluster auto: nothing answers at {dead}: {refused}",
        ),
        (ray.address, {"RAY_AUTH_TOKEN": "another"}, "is the token that of the cluster?"),
    ):
        words = data.words(tmp_path / "cache", "--cluster", address)
        done = ray.run(*words, **variables)
        assert (done.returncode, done.stdout) == (1, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: --cluster {address}: ")
        assert last.endswith(wanted)


def test_another_version_of_ray_is_told(ray: Cluster) -> None:
    """Both versions are in the line."""
    said = ray.program(ANOTHER_VERSION, ray.address)
    assert "Version mismatch: The cluster was started with: Ray: " in said
    assert "was started with: Ray: 2.0.0 Python: " in said


@pytest.mark.parametrize(
    ("times", "words", "said"),
    [
        (2, "the Ray client has already been disconnected due to an error.", "1 3\n"),
        (1, "RuntimeError: Starting Ray client server failed. See the log.", "1 2\n"),
        (3, "the Ray client has already been disconnected.", "of the cluster? 3\n"),
        (1, "another reason", "of the cluster? 1\n"),
        (1, "refused:", ": refused:; is it the port of Ray's client server, 10001, and is the token"
            " that of the cluster? 1\n"),
        (1, "from server:\nTraceback\nOSError: no room\n", ": from server: OSError: no room; is it"
            " the port of Ray's client server, 10001, and is the token that of the cluster? 1\n"),
    ],
)  # fmt: skip
def test_a_session_that_is_broken_off_is_tried_again(
    ray: Cluster, times: int, words: str, said: str
) -> None:
    """A busy server breaks off one that begins; the third time it is an error."""
    assert ray.program(BROKEN_OFF, ray.client, times, words).endswith(said)
