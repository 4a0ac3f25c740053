"""A disk that is full, or a place that cannot be written: one clear line, no half file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from app.files import write_file
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.result_places import reason_of
from model.training.checkpoint import CheckpointError, Checkpoints
from model.tune import TuneError, open_study
from tests.conftest import Sample, StartService
from tests.support.disks import files_limited_to
from tests.support.serving import strict, wait_until
from tests.support.starting import run

pytestmark = pytest.mark.e2e

KIB = 1024
SETTINGS = "embedding_size = 4\nhidden = [16]\nbatch_size = 256\nepochs = 1\nthreads = 1\n"


def train(
    sample: Sample, out: Path, *more: object, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command that trains, in a process whose files may be so many bytes long."""
    config = sample.spec.with_name("short.toml")
    config.write_text(SETTINGS)
    words = ("train", sample.spec, sample.data, "--config", config, "--out", out)
    return run("model", *words, *more, file_bytes=limit)


@pytest.fixture
def cache(sample: Sample, tmp_path: Path) -> Path:
    """Where the encoded rows are already, so that only the bundle is short of room."""
    prepare(sample.spec, InputFiles([sample.data]), cache=tmp_path / "cache")
    return tmp_path / "cache"


def refused(ended: subprocess.CompletedProcess[str], out: Path, reason: str) -> None:
    """Check that a command ended with 1 and one clear line."""
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    wanted = f"error: no bundle could be written to {out}: {reason}"
    assert ended.stderr.splitlines()[-1] == wanted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of its own whose size is set by a call: a number of KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1024k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")

    def resize(kib: int) -> Path:
        words = ["mount", "-o", f"remount,size={kib}k", str(place)]
        subprocess.run(words, check=True, capture_output=True)
        return place

    yield resize
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def used_kib(place: Path) -> int:
    return shutil.disk_usage(place).used // KIB


def test_on_a_full_disk_the_old_bundle_keeps_serving(
    start_service: StartService,
    sample: Sample,
    tiny_bundle: Path,
    disk: Callable[[int], Path],
) -> None:
    """The trainer fails with one clear line and leaves nothing; a service that watches the
    directory sees nothing; with room again the same command succeeds and is served.
    """
    bundles = disk(1024)
    shutil.copytree(tiny_bundle, bundles / tiny_bundle.name)
    service = start_service(bundles, bundle_poll_seconds=0.1)
    names = set(os.listdir(bundles))

    def served() -> str:
        shown = strict(service.client.get("/ready").content)
        assert shown["refused_bundle"] is None
        return str(shown["version"])

    for room in (0, 48):
        # In whole pages, of which a file system has some for itself.
        disk(used_kib(bundles) + room)
        refused(train(sample, bundles), bundles, "No space left on device")
        assert set(os.listdir(bundles)) == names
        assert served() == tiny_bundle.name
    disk(1024)
    ended = train(sample, bundles)
    assert ended.returncode == 0, ended.stderr
    new = Path(ended.stdout.strip()).name
    wait_until(lambda: served() == new, "the new one is served", 30)
    assert service.metrics()["ctr_refused_bundles_total"] == 0


def test_a_file_that_may_not_grow_ends_it(sample: Sample, cache: Path, tmp_path: Path) -> None:
    """The same without a file system of its own: a limit for files, met half-way."""
    out = tmp_path / "bundles"
    ended = train(sample, out, "--cache", cache, limit=8 * KIB)
    refused(ended, out, "File too large")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("limit", [4 * KIB, 40 * KIB], ids=["rows as read", "encoded rows"])
def test_rows_without_room_are_told(sample: Sample, tmp_path: Path, limit: int) -> None:
    """The line names the place and how to have another; nothing is left there."""
    cache = tmp_path / "rows"
    ended = train(sample, tmp_path / "bundles", "--cache", cache, limit=limit)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        f"error: the rows could not be kept in {cache}: File too large; --cache, or TMPDIR in the"
        " environment, names another place"
    )
    assert list(cache.iterdir()) == []


def test_a_report_without_room_costs_no_bundle(sample: Sample, cache: Path, tmp_path: Path) -> None:
    """The bundle is what counts: it is whole, and a warning names what is not."""
    # More than any file of the bundle, less than the plots.
    ended = train(sample, tmp_path / "bundles", "--cache", cache, limit=20 * KIB)
    assert ended.returncode == 0, ended.stderr
    assert re.search(
        r"warning: the report beside \S+ is not written; the bundle is whole: ", ended.stderr
    )
    bundle = Path(ended.stdout.strip())
    assert run("model", "evaluate", bundle, sample.data).returncode == 0


def test_a_place_that_is_no_directory_is_told(sample: Sample, tmp_path: Path) -> None:
    """A file stands where bundles should go: told before anything is trained."""
    out = tmp_path / "bundles"
    out.write_text("")
    ended = train(sample, out)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"error: {out} cannot be written: Not a directory\n"


@pytest.mark.parametrize("rows", [1_000, 100_000])
def test_a_checkpoint_without_room_is_told(tmp_path: Path, rows: int) -> None:
    """The line names the checkpoint and the reason; the one before it stays, and no half one."""
    checkpoints = Checkpoints(tmp_path / "run", steps=1)
    arrays = {"table": np.arange(rows, dtype=np.float32), "step": np.array(7)}
    checkpoints.write(1, {"epoch": 1}, {"table": arrays["table"][:100], "step": arrays["step"]})
    with files_limited_to(2 * KIB), pytest.raises(CheckpointError) as caught:
        checkpoints.write(2, {"epoch": 2}, arrays)
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'run' / 'step-2'} cannot be written: File too large; make room"
        " and run the same command with --resume, or train without checkpoints"
        " (--checkpoint-seconds 0)"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-1"]
    resumed = Checkpoints(tmp_path / "run", resume=True)
    resumed.begin()
    assert resumed.state is not None
    assert (resumed.state.step, resumed.state.values) == (1, {"epoch": 1})
    assert resumed.state.arrays["step"] == 7


def test_a_full_disk_under_a_checkpoint_is_told(disk: Callable[[int], Path]) -> None:
    """The system's reason, not NumPy's count of bytes."""
    checkpoints = Checkpoints(disk(256) / "run", steps=1)
    with pytest.raises(CheckpointError, match="step-1 cannot be written: No space left on device"):
        checkpoints.write(1, {}, {"table": np.zeros(1_000_000, np.float32)})
    assert list((disk(256) / "run").iterdir()) == []


def test_a_result_without_room_is_told_with_its_name(tmp_path: Path) -> None:
    """Settings, figures, reports: the error of writing has the file's name."""
    out = tmp_path / "found.toml"
    out.write_text("older")
    with files_limited_to(2 * KIB), pytest.raises(OSError, match="File too large") as caught:
        write_file(out, bytes(4 * KIB))
    assert reason_of(caught.value) == f"{out}: File too large"
    assert (out.read_text(), list(tmp_path.iterdir())) == ("older", [out])


def test_a_study_without_room_is_told(tmp_path: Path) -> None:
    """The line names the study file and the reason; no traceback of the database's."""
    path = tmp_path / "found.study"

    def fill() -> None:
        with (
            open_study(path, "auc", "some settings") as study,
            files_limited_to(path.stat().st_size),
        ):
            for number in range(1_000):
                study.set_user_attr(f"note {number}", "x" * 1_000)

    with pytest.raises(TuneError, match=f"study: {path} cannot be written: (.*); the same") as told:
        fill()
    assert "\n" not in str(told.value)
