"""The place that CTR_BUNDLE names: links, permissions, odd files, bundles with other requests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from app import __version__
from app.bundle.directory import CURRENT
from app.bundle.manifest import EXAMPLES
from tests.conftest import StartService
from tests.support.hanging_disk import HANGING, VARIABLE
from tests.support.permissions import BOUND_APP
from tests.support.samples import Sample
from tests.support.serving import ROOT, Service, run_to_end, strict, wait_until, workers_of
from tests.support.starting import run
from tests.support.swaps import POLL, arrive, edited, serves, sign, turn, version_of

pytestmark = pytest.mark.e2e
one_or_two = pytest.mark.parametrize("workers", [1, 2])


def ready(service: Service) -> dict[str, Any]:
    """The answer of /ready, which is 200."""
    answer = service.client.get("/ready")
    assert answer.status_code == 200, answer.text
    return dict(strict(answer.content))


def needs_less(spec: str) -> str:
    """A spec whose requests need no placement."""
    return spec.replace("required = true\n", "")


@one_or_two
def test_a_link_that_is_turned_is_taken_up(
    start_service: StartService,
    tiny_bundle: Path,
    other_bundle: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    """CTR_BUNDLE may be a link to one bundle: turned to another, forth and back, it is served."""
    for each in (tiny_bundle, other_bundle):
        shutil.copytree(each, tmp_path / each.name)
    link = tmp_path / "current"
    link.symlink_to(other_bundle.name)
    service = start_service(link, workers=workers, **POLL)
    assert version_of(service) == other_bundle.name
    for bundle in (tiny_bundle, other_bundle):
        turn(link, Path(bundle.name))
        wait_until(serves(service, bundle), f"{bundle.name} is served", 60)
    turn(link, Path("nowhere"))
    wait_until(lambda: ready(service)["bundles_problem"] is not None, "it is told", 30)
    assert version_of(service) == other_bundle.name
    turn(link, Path(tiny_bundle.name))
    wait_until(serves(service, tiny_bundle), "the link leads to a bundle again", 60)
    wait_until(lambda: ready(service)["bundles_problem"] is None, "nothing is wrong any more", 30)
    assert service.metrics()["ctr_refused_bundles_total"] == 0


def test_a_link_above_the_bundle_counts_too(
    start_service: StartService, tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """As Kubernetes mounts volumes: ``..data`` is turned, the path stays."""
    for name, bundle in (("one", tiny_bundle), ("two", other_bundle)):
        shutil.copytree(bundle, tmp_path / name / "model")
    (tmp_path / "..data").symlink_to("one")
    service = start_service(tmp_path / "..data" / "model", **POLL)
    assert version_of(service) == tiny_bundle.name
    turn(tmp_path / "..data", Path("two"))
    wait_until(serves(service, other_bundle), "the other one is served", 60)


def test_a_worker_that_dies_comes_back_with_what_the_others_serve(
    start_service: StartService, tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """A link that was turned to a bundle that is refused does not decide for a successor."""
    shutil.copytree(tiny_bundle, tmp_path / "kept")
    shutil.copytree(other_bundle, tmp_path / "broken")
    (tmp_path / "broken" / EXAMPLES).write_text("{}\n")
    link = tmp_path / "current"
    link.symlink_to("kept")
    service = start_service(link, workers=2, **POLL)
    turn(link, Path("broken"))
    wait_until(lambda: service.metrics()["ctr_refused_bundles_total"] == 1, "it is refused", 60)
    first, second = workers_of(service)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: set(workers_of(service)) - {first, second} != set(), "it is replaced", 30)
    service.wait_ready()
    wait_until(lambda: service.metrics()["ctr_worker_restarts_total"] == 1, "it is counted", 30)
    for _ in range(20):
        assert version_of(service) == tiny_bundle.name


@one_or_two
def test_a_file_that_cannot_be_read_is_named_and_tried_again(
    start_service: StartService,
    bundles: Path,
    tiny_bundle: Path,
    other_bundle: Path,
    workers: int,
) -> None:
    """chmod is enough: neither content nor time of a file has to change."""
    service = start_service(bundles, program=BOUND_APP, workers=workers, **POLL)
    hidden = bundles / f".{other_bundle.name}"
    shutil.copytree(other_bundle, hidden)
    (hidden / EXAMPLES).chmod(0)
    hidden.rename(bundles / other_bundle.name)
    wait_until(lambda: ready(service)["refused_bundle"] is not None, "it is refused", 60)
    told = f"{other_bundle.name}: {EXAMPLES} cannot be read: Permission denied"
    wait_until(lambda: service.metrics()["ctr_refused_bundles_total"] == 1, "it is counted", 30)
    service.wait_told(told)
    assert "Traceback" not in service.log()
    (bundles / other_bundle.name / EXAMPLES).chmod(0o644)
    wait_until(serves(service, other_bundle), "it is served", 60)
    assert ready(service)["refused_bundle"] is None


def test_a_bundle_without_access_is_seen_where_operators_look(
    start_service: StartService, bundles: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """A directory that cannot be read is in /ready and in a metric, and is taken up after chmod."""
    service = start_service(bundles, program=BOUND_APP, **POLL)
    hidden = bundles / f".{other_bundle.name}"
    shutil.copytree(other_bundle, hidden)
    hidden.chmod(0)
    (bundle := hidden.rename(bundles / other_bundle.name))
    wait_until(lambda: ready(service)["unreadable_bundles"] != {}, "it is seen", 60)
    [(name, reason)] = ready(service)["unreadable_bundles"].items()
    assert name == other_bundle.name
    assert "manifest.json cannot be read" in reason
    assert service.metrics()["ctr_unreadable_bundles"] == 1
    service.wait_told("is skipped")
    assert service.log().count("is skipped") == 1
    bundle.chmod(0o755)
    wait_until(serves(service, other_bundle), "it is served", 60)
    wait_until(lambda: service.metrics()["ctr_unreadable_bundles"] == 0, "nothing is left", 30)


@one_or_two
@pytest.mark.parametrize("kind", ["FIFO", "directory", "link to nothing", "device", "odd name"])
def test_an_unusable_current_is_seen_before_a_restart(
    start_service: StartService, bundles: Path, tiny_bundle: Path, kind: str, workers: int
) -> None:
    """It is in /ready and a gauge, blocks nothing, and mended is forgotten; a start fails by it."""
    service = start_service(bundles, workers=workers, **POLL)
    assert ready(service)["bundles_problem"] is None
    wait_until(lambda: service.metrics()["ctr_bundles_usable"] == 1, "all is well", 30)
    current = bundles / CURRENT
    match kind:
        case "FIFO":
            os.mkfifo(current)
        case "directory":
            current.mkdir()
        case "device":
            current.symlink_to("/dev/zero")
        case "link to nothing":
            current.symlink_to("nowhere")
        case _:
            current.write_text("latest")
    wait_until(lambda: ready(service)["bundles_problem"] is not None, "it is seen", 30)
    assert CURRENT in ready(service)["bundles_problem"]
    wait_until(lambda: service.metrics()["ctr_bundles_usable"] == 0, "the gauge shows it", 30)
    assert ready(service)["version"] == tiny_bundle.name
    ended = run_to_end(bundles)
    assert ended.returncode == 1
    assert CURRENT in ended.stderr
    if current.is_dir():
        current.rmdir()
    else:
        current.unlink()
    wait_until(lambda: service.metrics()["ctr_bundles_usable"] == 1, "it is mended", 30)
    wait_until(lambda: ready(service)["bundles_problem"] is None, "it is forgotten", 30)


def test_a_disk_that_hangs_holds_up_neither_requests_nor_the_end(
    start_service: StartService, bundles: Path, sample: Sample, tmp_path: Path
) -> None:
    """The service goes on, says what is wrong, and ends in time after SIGTERM."""
    hang = tmp_path / "hang"
    service = start_service(bundles, program=HANGING, env={VARIABLE: str(hang)}, **POLL)
    hang.touch()
    wait_until(lambda: ready(service)["bundles_problem"] is not None, "it is seen", 30)
    assert "does not answer" in ready(service)["bundles_problem"]
    assert len(service.predict(sample.rows[:2])) == 2
    start = time.monotonic()
    service.terminate()
    assert service.exit_code() == 0
    # The hanging thread would have been waited for without end.
    assert time.monotonic() - start < 20


@one_or_two
def test_other_requests_wait_for_an_operator(
    start_service: StartService,
    bundles: Path,
    tiny_bundle: Path,
    other_bundle: Path,
    sample: Sample,
    workers: int,
) -> None:
    """A bundle that needs a field that callers do not send is not taken up by itself."""
    served = edited(tiny_bundle, bundles, needs_less)
    shutil.rmtree(bundles / tiny_bundle.name)
    service = start_service(bundles, workers=workers, **POLL)
    row = {name: value for name, value in sample.rows[0].items() if name != "placement"}
    assert len(service.predict([row])) == 1
    arrive(other_bundle, bundles)
    wait_until(lambda: ready(service)["waiting_bundles"] != {}, "it is seen", 60)
    told = {other_bundle.name: "field 'placement' is required"}
    assert ready(service)["waiting_bundles"] == told
    wait_until(lambda: service.metrics()["ctr_waiting_bundles"] == 1, "the gauge shows it", 30)
    assert version_of(service) == served.name
    assert len(service.predict([row])) == 1
    metrics = service.metrics()
    assert metrics["ctr_refused_bundles_total"] == 0
    (bundles / CURRENT).write_text(other_bundle.name)
    wait_until(serves(service, other_bundle), "the operator's choice is served", 60)
    assert service.post("/predict", {"instances": [row]}).status_code == 422
    assert ready(service)["waiting_bundles"] == {}


def test_a_refused_bundle_counts_once(
    start_service: StartService, bundles: Path, other_bundle: Path
) -> None:
    """All workers refuse it; an alert on the counter sees one bundle."""
    service = start_service(bundles, workers=3, **POLL)
    broken = bundles / f".{other_bundle.name}"
    shutil.copytree(other_bundle, broken)
    (broken / EXAMPLES).write_text("{}\n")
    broken.rename(bundles / other_bundle.name)
    wait_until(lambda: service.log().count("is refused") == 3, "every worker refuses it", 60)
    assert service.metrics()["ctr_refused_bundles_total"] == 1
    sign(bundles / other_bundle.name)
    wait_until(lambda: service.log().count("is refused") == 6, "they do once more", 60)
    wait_until(lambda: service.metrics()["ctr_refused_bundles_total"] == 2, "it counts again", 30)


def test_metrics_tell_the_version_and_the_age_of_the_bundle(
    start_service: StartService, tiny_bundle: Path
) -> None:
    """Of the program and of the bundle in use."""
    metrics = start_service(tiny_bundle).metrics()
    assert metrics[f'ctr_build_info{{version="{__version__}"}}'] == 1
    created = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(_created(metrics)))
    assert created == tiny_bundle.name.partition("-")[0]
    assert metrics["ctr_worker_restarts_total"] == 0


def _created(metrics: dict[str, float]) -> float:
    return metrics["ctr_bundle_created_timestamp_seconds"]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run ``python -m app`` with flags that do not serve."""
    return run("app", *words)


def test_a_bundle_is_checked_without_a_service(
    tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """It says what would happen; the exit code is 0 only if it would be served by itself."""
    done = command("--check", other_bundle, "--against", tiny_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"bundle {other_bundle.name}: deepfm" in done.stdout
    assert "golden requests, in float32 on CPUExecutionProvider" in done.stdout
    assert done.stdout.endswith("it would be served by itself\n")
    done = command("--check", tiny_bundle, "--against", other_bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not newer" in done.stdout
    assert command("--check", tiny_bundle.parent).returncode == 0


def test_a_check_tells_what_would_be_refused_or_wait(
    tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """Damaged, not reproducible, absent, or with other requests: 1, and the reason."""
    served = edited(tiny_bundle, tmp_path, needs_less)
    done = command("--check", other_bundle, "--against", served)
    assert (done.returncode, done.stderr) == (1, "")
    assert "  field 'placement' is required\n" in done.stdout
    assert done.stdout.endswith("it would wait as available until it is activated\n")
    examples = [json.loads(line) for line in (served / EXAMPLES).read_text().splitlines()]
    examples[0]["logits"][0] += 1
    (served / EXAMPLES).write_text("\n".join(map(json.dumps, examples)))
    for change, reason in (
        ("altered", "the manifest says"),
        ("signed", "golden example 1 scores 1 away"),
    ):
        if change == "signed":
            sign(served)
        done = command("--check", served)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[-1].startswith("it would be refused: ")
        assert reason in done.stdout
    done = command("--check", tmp_path / "nowhere")
    assert done.stdout == (
        f"it would be refused: no bundle at {tmp_path / 'nowhere'}: there is no such directory\n"
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_the_program_tells_its_version() -> None:
    """As the package has it."""
    assert (command("--version").stdout, command("--version").returncode) == (f"{__version__}\n", 0)
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert command("--against", "somewhere").returncode == 2
