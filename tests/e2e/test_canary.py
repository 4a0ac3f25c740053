"""A canary answers the requests of a share of the users, always the same ones."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from app.bundle.directory import CURRENT
from app.feedback.log_format import CLOSED, PREFIX, LoggedRequest, decode_line
from app.rollout.shares import Shares
from app.rollout.state_file import ROLLOUT, read_rollout
from tests.conftest import StartService
from tests.support.admin import StartAdmin, error_of
from tests.support.permissions import BOUND_APP
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, strict, wait_until, workers_of
from tests.support.swaps import COMPANY, edited, version_of

pytestmark = pytest.mark.e2e
USERS = 300
one_or_two = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture
def pinned(bundles: Path, tiny_bundle: Path, other_bundle: Path) -> Path:
    """A directory whose older bundle serves, with a newer one beside it."""
    (bundles / CURRENT).write_text(f"{tiny_bundle.name}\n")
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    return bundles


def rows_of(sample: Sample) -> list[dict[str, Any]]:
    """Rows of many users."""
    return [{**row, "user_id": 1000 + number} for number, row in enumerate(sample.rows[:USERS])]


def sides(service: Service, rows: list[dict[str, Any]]) -> dict[int, str]:
    """The version that answers each user, by /rank; a connection for each."""
    found = {}
    for row in rows:
        answer = service.post(
            "/rank", {"context": context_of(row), "candidates": [{"features": candidate_of(row)}]}
        )
        assert answer.status_code == 200, answer.text
        found[row["user_id"]] = strict(answer.content)["version"]
    return found


def expected_sides(rows: list[dict[str, Any]], share: float, canary: str, live: str) -> Any:
    takes = Shares(canary, share).takes
    return {row["user_id"]: canary if takes(str(row["user_id"])) else live for row in rows}


@one_or_two
def test_users_keep_their_side(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample,
    workers: int,
) -> None:  # fmt: skip
    """Over workers, their death, a restart and a larger share, which only moves users in."""
    rows = rows_of(sample)
    admin = start_admin(pinned, workers=workers)
    answer = admin.canary(other_bundle.name, share=0.3)
    assert answer.status_code == 200, answer.text
    names = (other_bundle.name, tiny_bundle.name)
    assert sides(admin.service, rows) == expected_sides(rows, 0.3, *names)
    if workers > 1:
        os.kill(workers_of(admin.service)[0], signal.SIGKILL)
        assert sides(admin.service, rows) == expected_sides(rows, 0.3, *names)
    assert admin.canary(other_bundle.name, share=0.6).status_code == 200
    assert sides(admin.service, rows) == expected_sides(rows, 0.6, *names)
    assert admin.states() == {other_bundle.name: "canary", tiny_bundle.name: "serving"}
    admin.service.stop()
    again = start_admin(pinned, workers=workers)
    assert sides(again.service, rows) == expected_sides(rows, 0.6, *names)
    trial = again.trial()
    assert trial is not None
    assert (trial["state"], trial["share"]) == ("running", 0.6)
    counted = trial["canary"]["requests"], trial["live"]["requests"]
    assert sum(counted) == USERS
    metrics = again.service.metrics()
    for role, version, count in zip(("canary", "live"), names, counted, strict=True):
        labels = f'outcome="answered",role="{role}",version="{version}"'
        assert metrics[f"ctr_trial_requests_total{{{labels}}}"] == count
    assert metrics['ctr_requests_total{outcome="200",route="rank"}'] == USERS
    wait_until(lambda: again.service.metrics()["ctr_rows_total"] == USERS, "all rows are counted")


def test_instances_are_divided(
    start_admin: StartAdmin, start_service: StartService, pinned: Path, tiny_bundle: Path,
    other_bundle: Path, sample: Sample,
) -> None:  # fmt: skip
    """Each has the score of its own bundle; what is wrong is told by its place in the request."""
    admin, rows = start_admin(pinned), rows_of(sample)[:60]
    for row in rows[::7]:
        del row["user_id"]
    assert admin.canary(other_bundle.name).status_code == 200
    takes = Shares(other_bundle.name, 0.5).takes
    canarys = ["user_id" in row and takes(str(row["user_id"])) for row in rows]
    alone = {each: start_service(each).predict(rows) for each in (tiny_bundle, other_bundle)}
    bundles = [other_bundle if own else tiny_bundle for own in canarys]
    answer = strict(admin.service.post("/predict", {"instances": rows}).content)
    assert answer["version"] == tiny_bundle.name
    assert answer["versions"] == [bundle.name for bundle in bundles]
    expected = [alone[bundle][place] for place, bundle in enumerate(bundles)]
    assert answer["predictions"] == pytest.approx(expected, abs=COMPANY)
    for own in (True, False):
        few = [row for row, side in zip(rows, canarys, strict=True) if side is own]
        answer = strict(admin.service.post("/predict", {"instances": few}).content)
        assert answer["version"] == (other_bundle if own else tiny_bundle).name
        assert "versions" not in answer
    for place in (canarys.index(True), canarys.index(False)):
        wrong = [{**row} for row in rows]
        wrong[place]["price"] = "cheap"
        error = error_of(admin.service.post("/predict", {"instances": wrong}), 422)
        assert [each["path"] for each in error["details"]] == [f"instances[{place}].price"]
    assert error_of(admin.service.post("/predict", b'{"instances": [{"user_id":'), 400)
    assert admin.service.predict([]) == []


def test_the_request_log_says_who_scored_an_instance(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """A request that was divided has a line for each bundle, with places in the whole request."""
    directory = tmp_path_factory.mktemp("log")
    admin = start_admin(pinned, request_log=directory, request_log_share=1)
    rows = rows_of(sample)[:20]
    assert admin.canary(other_bundle.name).status_code == 200
    answer = strict(admin.service.post("/predict", {"instances": rows}).content)
    assert admin.service.stop() == 0
    found = {}
    for file in directory.glob(f"{PREFIX}*{CLOSED}"):
        for text in gzip.decompress(file.read_bytes()).splitlines():
            line = decode_line(text)
            if isinstance(line, LoggedRequest):
                for each in line.candidates:
                    found[each.index] = line.version, each.score, (each.features or {})["user_id"]
    assert [found[place][0] for place in range(len(rows))] == answer["versions"]
    assert [found[place][1] for place in range(len(rows))] == pytest.approx(answer["predictions"])
    assert [found[place][2] for place in range(len(rows))] == [row["user_id"] for row in rows]


def test_explanations_are_the_live_bundles(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    """They take no part in a canary, whosever the user is, and are not counted on its side."""
    admin, row = start_admin(pinned, explain="on"), rows_of(sample)[0]
    assert admin.canary(other_bundle.name, share=1.0).status_code == 200
    body = {"context": context_of(row), "candidate": candidate_of(row)}
    answer = admin.service.post("/explain", body)
    assert answer.status_code == 200, answer.text
    assert strict(answer.content)["version"] == tiny_bundle.name
    trial = admin.trial()
    assert trial is not None
    assert trial["canary"]["requests"] == trial["live"]["requests"] == 0


def test_a_canary_is_promoted(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    """All are its then, also after a restart, and no bundle is on trial."""
    admin, rows = start_admin(pinned, workers=2), rows_of(sample)[:40]
    error_of(admin.client.post(f"/bundles/{other_bundle.name}/promote"), 409)
    assert admin.canary(other_bundle.name, share=0.1).status_code == 200
    answer = admin.client.post(f"/bundles/{other_bundle.name}/promote")
    assert strict(answer.content) == {"version": other_bundle.name, "previous": tiny_bundle.name}
    assert set(sides(admin.service, rows).values()) == {other_bundle.name}
    assert admin.trial() is None
    assert admin.states() == {other_bundle.name: "serving", tiny_bundle.name: "available"}
    assert (pinned / CURRENT).read_text().strip() == other_bundle.name
    wait_until(
        lambda: admin.service.metrics()['ctr_trials_ended_total{cause="promoted"}'] == 1,
        "the end is counted once",
    )


@one_or_two
def test_a_stopped_canary_stays_out(
    start_admin: StartAdmin, bundles: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample,
    workers: int,
) -> None:  # fmt: skip
    """It is the newest, and is served neither at once nor after a restart, unless it is chosen."""
    (bundles / CURRENT).write_text(f"{tiny_bundle.name}\n")
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    admin, rows = start_admin(bundles, workers=workers), rows_of(sample)[:40]
    assert admin.canary(other_bundle.name, share=1.0).status_code == 200
    assert set(sides(admin.service, rows).values()) == {other_bundle.name}
    assert admin.client.delete("/current").status_code == 200
    assert set(sides(admin.service, rows).values()) == {other_bundle.name}, "it goes on"
    assert admin.client.post(f"/bundles/{other_bundle.name}/stop").status_code == 200
    assert set(sides(admin.service, rows).values()) == {tiny_bundle.name}
    assert admin.states()[other_bundle.name] == "held"
    admin.service.stop()
    again = start_admin(bundles, workers=workers)
    assert version_of(again.service) == tiny_bundle.name
    assert again.states()[other_bundle.name] == "held"
    assert again.activate(other_bundle.name).status_code == 200
    assert again.versions() == {other_bundle.name}
    assert other_bundle.name not in read_rollout(bundles).stopped


def test_a_newer_bundle_waits_for_the_end_of_a_trial(
    start_admin: StartAdmin, bundles: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    """An operator's choice does not: what is on trial is measured by the new one then."""
    older = edited(tiny_bundle, bundles, lambda text: text + "\n# another\n")
    admin, rows = start_admin(bundles), rows_of(sample)[:60]
    live = version_of(admin.service)
    trial = older.name if live == tiny_bundle.name else tiny_bundle.name
    assert admin.canary(trial).status_code == 200
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    found = [sides(admin.service, rows) for _ in range(5)]
    assert all(each == expected_sides(rows, 0.5, trial, live) for each in found)
    assert admin.activate(other_bundle.name).status_code == 200
    assert sides(admin.service, rows) == expected_sides(rows, 0.5, trial, other_bundle.name)
    wait_until(lambda: (admin.trial() or {})["live"] is not None, "it is measured by that")
    assert admin.activate(trial).status_code == 200
    wait_until(lambda: admin.trial() is None, "it serves")
    assert set(sides(admin.service, rows).values()) == {trial}


def test_replicas_follow_one_another(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    """What one begins the other does too, and either may end it."""
    one, two = start_admin(pinned), start_admin(pinned)
    rows = rows_of(sample)[:60]
    expected = expected_sides(rows, 0.5, other_bundle.name, tiny_bundle.name)
    assert one.canary(other_bundle.name).status_code == 200
    for each in (one, two):
        wait_until(lambda each=each: sides(each.service, rows) == expected, "it takes part", 30)  # type: ignore[misc]
    assert two.client.post(f"/bundles/{other_bundle.name}/stop").status_code == 200
    for each in (two, one):
        wait_until(
            lambda each=each: set(sides(each.service, rows).values()) == {tiny_bundle.name},  # type: ignore[misc]
            "it has ended",
        )
    assert one.states()[other_bundle.name] == "held"


def test_what_cannot_be_on_trial_is_refused(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    """With the reason, by the key or the bundle that is wrong; nothing is on trial then."""
    admin = start_admin(pinned)
    name = other_bundle.name
    other = edited(tiny_bundle, pinned, lambda text: text.replace('"country"', '"nation"'))
    damaged = "20200101T000000Z-0123456789ab"
    shutil.copytree(other_bundle, pinned / damaged)
    (pinned / damaged / "score.onnx").write_bytes(b"no graph")
    for version, body, status, told in (
        (name, {"share": 0}, 422, "share"),
        (name, {"share": 1.5}, 422, "share"),
        (name, {"key": "nobody"}, 422, "one of user_id"),
        (name, {"key": "item_id"}, 422, "one of user_id"),
        (name, {"key": "age"}, 422, "one of user_id"),
        (name, {"guard": {"p99": 3}}, 422, "p99"),
        (name, {"guard": {"mean_score_ratio": [2, 1]}}, 422, "guard.mean_score_ratio"),
        (name, {"sahre": 1}, 422, "sahre"),
        ("20200101T000000Z-aaaaaaaaaaaa", {}, 404, "no such bundle"),
        (tiny_bundle.name, {}, 409, "it serves already"),
        (other.name, {}, 409, "'country' is gone"),
        (damaged, {}, 409, "score.onnx"),
    ):
        error = error_of(admin.canary(version, **body), status)
        assert told in json.dumps(error), (body, error)
        assert admin.trial() is None
    assert admin.states()[damaged] == "held"
    assert "share" in json.dumps(
        error_of(admin.client.post(f"/bundles/{name}/canary", json={}), 422)
    )
    error_of(admin.client.post(f"/bundles/{name}/canary", content=b"{"), 400)
    error_of(admin.client.post(f"/bundles/{name}/stop"), 409)
    assert admin.canary(name).status_code == 200
    assert "is on trial" in error_of(admin.canary(damaged), 409)["message"]
    assert sides(admin.service, rows_of(sample)[:9])


def test_a_directory_that_cannot_be_written_is_told(
    start_admin: StartAdmin, pinned: Path, other_bundle: Path
) -> None:
    admin = start_admin(pinned, program=BOUND_APP)
    pinned.chmod(0o555)
    try:
        error = error_of(admin.canary(other_bundle.name), 409)
    finally:
        pinned.chmod(0o755)
    assert f"{ROLLOUT} cannot be written" in error["message"]


def test_a_canary_whose_bundle_disappears_ends(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    admin, rows = start_admin(pinned), rows_of(sample)[:20]
    assert admin.canary(other_bundle.name, share=1.0).status_code == 200
    away = pinned / "away"
    (pinned / other_bundle.name).rename(away)
    wait_until(
        lambda: set(sides(admin.service, rows).values()) == {tiny_bundle.name}, "it has ended"
    )
    admin.service.wait_told("directory is gone")
    away.rename(pinned / other_bundle.name)
    assert admin.states()[other_bundle.name] == "held"


def test_a_damaged_state_file_leaves_the_trial(
    start_admin: StartAdmin, pinned: Path, other_bundle: Path, sample: Sample
) -> None:
    """It is told in the log; a file that is removed ends the trial."""
    admin, rows = start_admin(pinned), rows_of(sample)[:20]
    assert admin.canary(other_bundle.name, share=1.0).status_code == 200
    (pinned / ROLLOUT).write_text("{")
    wait_until(lambda: "counts as absent" in admin.service.log(), "it is looked at")
    assert set(sides(admin.service, rows).values()) == {other_bundle.name}
    (pinned / ROLLOUT).unlink()
    wait_until(lambda: other_bundle.name not in sides(admin.service, rows).values(), "it has ended")


def test_a_service_of_one_bundle_has_no_trials(start_admin: StartAdmin, tiny_bundle: Path) -> None:
    admin = start_admin(tiny_bundle)
    error = error_of(admin.canary(tiny_bundle.name), 404)
    assert "not a directory" in error["message"]
