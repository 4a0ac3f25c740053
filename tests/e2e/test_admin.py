"""An operator chooses which bundle is served, over a port that takes a key."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.bundle.directory import CURRENT
from app.web.bounded_protocol import HEAD_BYTES
from tests.support.admin import KEY, Admin, StartAdmin, error_of
from tests.support.failing_service import FAILING, VARIABLE
from tests.support.redis_server import RedisServer
from tests.support.serving import Service, free_port, run_to_end, strict, wait_until, workers_of
from tests.support.swaps import Traffic, serves, version_of
from tests.support.vocabularies import publish_now

pytestmark = pytest.mark.e2e

BROKEN = "29990101T000000Z-0123456789ab"
one_or_two = pytest.mark.parametrize("workers", [1, 2])


@one_or_two
def test_bundles_are_activated_forth_and_back(
    start_admin: StartAdmin, both: Path, tiny_bundle: Path, other_bundle: Path, rows: list[Any],
    expected: dict[str, list[float]], workers: int,
) -> None:  # fmt: skip
    """Once the answer is there no client sees another version, and none has lost a request."""
    admin = start_admin(both, workers=workers)
    assert admin.listing()["current"] is None
    with Traffic(admin.service, rows, expected) as traffic:
        traffic.wait_for(other_bundle)
        before = other_bundle
        for wanted in (tiny_bundle, other_bundle, other_bundle, tiny_bundle):
            answer = admin.activate(wanted.name)
            assert answer.status_code == 200, answer.text
            assert strict(answer.content) == {"version": wanted.name, "previous": before.name}
            assert admin.versions() == {wanted.name}
            assert (both / CURRENT).read_text() == f"{wanted.name}\n"
            assert admin.states() == {
                each.name: "serving" if each == wanted else "available"
                for each in (tiny_bundle, other_bundle)
            }
            before = wanted
        traffic.wait_for(tiny_bundle)
    assert traffic.problems == []
    assert set(traffic.seen) == {tiny_bundle.name, other_bundle.name}
    assert admin.service.metrics()["ctr_refused_bundles_total"] == 0


def test_a_directory_that_is_away_is_told(
    start_admin: StartAdmin, both: Path, other_bundle: Path
) -> None:
    """Unmounted or renamed, it is a refusal with a reason; what is served stays."""
    admin = start_admin(both)
    away = both.rename(both.with_name(f"{both.name}-away"))
    for answer in (admin.client.get("/bundles"), admin.activate(other_bundle.name)):
        assert "cannot be read" in error_of(answer, 409)["message"]
    assert admin.versions() == {other_bundle.name}
    away.rename(both)
    assert admin.states()[other_bundle.name] == "serving"


@one_or_two
@pytest.mark.parametrize("pinned", [False, True], ids=["newest", "pinned"])
def test_a_bundle_that_cannot_serve_changes_nothing(
    start_admin: StartAdmin, bundles: Path, tiny_bundle: Path, other_bundle: Path, workers: int,
    pinned: bool,
) -> None:  # fmt: skip
    """409 says why, CURRENT is what it was, the old one serves; mended, it can be activated."""
    if pinned:
        (bundles / CURRENT).write_text(tiny_bundle.name)
    admin = start_admin(bundles, workers=workers)
    older = "20000101T000000Z-0123456789ab"
    shutil.copytree(other_bundle, bundles / older)
    graph = (other_bundle / "score.onnx").read_bytes()
    (bundles / older / "score.onnx").write_bytes(graph[:-1])
    for _ in range(2):
        error = error_of(admin.activate(older), 409)
        assert error["code"] == "refused"
        assert "score.onnx has" in error["message"]
        assert (bundles / CURRENT).exists() is pinned
        assert not pinned or (bundles / CURRENT).read_text() == tiny_bundle.name
        assert admin.versions() == {tiny_bundle.name}
    (told,) = (each for each in admin.listing()["bundles"] if each["version"] == older)
    assert told["state"] == "refused"
    assert "score.onnx has" in told["reason"]
    shutil.rmtree(bundles / older)
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    assert admin.activate(other_bundle.name).status_code == 200
    assert admin.versions() == {other_bundle.name}


@pytest.mark.parametrize("place", [0, 1])
def test_what_one_worker_cannot_serve_none_does(
    start_admin: StartAdmin, both: Path, tiny_bundle: Path, other_bundle: Path, tmp_path: Path,
    place: int,
) -> None:  # fmt: skip
    """Whichever it is, the others end their wait for it, and all keep the bundle they have."""
    (both / CURRENT).write_text(tiny_bundle.name)
    failing = tmp_path / "failing"
    admin = start_admin(both, workers=2, program=FAILING, env={VARIABLE: str(failing)})
    failing.write_text(str(sorted(workers_of(admin.service))[place]))
    error = error_of(admin.activate(other_bundle.name), 409)
    reason = "another worker cannot serve it" if place else "RuntimeError"
    assert error["message"] == reason
    assert (both / CURRENT).read_text() == tiny_bundle.name
    assert admin.versions() == {tiny_bundle.name}
    failing.unlink()
    assert admin.activate(other_bundle.name).status_code == 200
    assert admin.versions() == {other_bundle.name}


@pytest.mark.long
def test_a_refused_one_is_tried_again_on_demand(
    start_admin: StartAdmin, valkey: RedisServer, both: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """Its vocabulary was not in Redis; now it is, and its files are what they were.

    Half a minute of it is the time for which a service waits for a vocabulary.
    """
    (both / CURRENT).write_text(tiny_bundle.name)
    publish_now(valkey.url, tiny_bundle)
    admin = start_admin(both, redis_url=valkey.url, vocabulary_fallback="reject", workers=2)
    assert "vocabulary" in error_of(admin.activate(other_bundle.name), 409)["message"]
    assert admin.versions() == {tiny_bundle.name}
    publish_now(valkey.url, other_bundle)
    assert admin.activate(other_bundle.name).status_code == 200
    assert admin.versions() == {other_bundle.name}
    assert admin.activate(tiny_bundle.name).status_code == 200
    assert admin.versions() == {tiny_bundle.name}


def test_every_bundle_is_listed(start_admin: StartAdmin, both: Path, other_bundle: Path) -> None:
    """Newest first; those that cannot be read too, with the reason; nothing else is one."""
    (both / BROKEN).mkdir()
    (both / BROKEN / "manifest.json").write_text("{")
    (both / "notes").mkdir()
    admin = start_admin(both)
    listing = admin.listing()
    assert listing["serving"] == other_bundle.name
    assert [each["state"] for each in listing["bundles"]] == ["serving", "available", "unreadable"]
    assert listing["bundles"][0]["created"] > listing["bundles"][1]["created"]
    assert listing["bundles"][0]["network"] == "deepfm"
    assert "manifest.json cannot be read" in listing["bundles"][2]["reason"]
    assert "manifest.json cannot be read" in error_of(admin.activate(BROKEN), 409)["message"]
    assert not (both / CURRENT).exists()


@pytest.mark.parametrize(
    "version",
    [BROKEN, "CURRENT", "..", "%2e%2e%2f%2e%2e%2fetc", "20260101T000000Z-0123456789ab%0a", "é"],
)
def test_an_unknown_version_is_404(
    start_admin: StartAdmin, both: Path, other_bundle: Path, version: str
) -> None:
    """Whatever is asked for, nothing outside the directory is looked at, and nothing changes."""
    admin = start_admin(both)
    assert error_of(admin.activate(version), 404)["code"] == "not_found"
    assert not (both / CURRENT).exists()
    assert version_of(admin.service) == other_bundle.name


def test_nothing_works_without_a_key(
    start_admin: StartAdmin, both: Path, tiny_bundle: Path, other_bundle: Path, key_file: Path
) -> None:
    """401 without a key, with a wrong one, and when the keys are gone; the scoring port has none
    of it."""
    admin = start_admin(both)
    asked = [("GET", "/bundles"), ("POST", f"/bundles/{tiny_bundle.name}/activate")]

    def locked(authorization: bytes | None) -> None:
        headers = [] if authorization is None else [(b"authorization", authorization)]
        for method, path in asked:
            answer = httpx.request(
                method, f"http://127.0.0.1:{admin.port}/admin{path}", headers=headers,
                trust_env=False, verify=False, timeout=60,
            )  # fmt: skip
            assert error_of(answer, 401)["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"

    key = KEY.encode()
    for wrong in (None, b"", b"Bearer", b"Bearer \xe9\xff", b"Basic " + key, b"Bearer " + key[:-1]):
        locked(wrong)
    kept = key_file.read_text()
    key_file.unlink()
    locked(b"Bearer " + key)
    key_file.write_text(kept)
    assert admin.states()[other_bundle.name] == "serving"
    for method, path in asked:
        answer = admin.service.client.request(
            method, f"/admin{path}", headers={"authorization": f"Bearer {KEY}"}
        )
        assert error_of(answer, 404)["code"] == "not_found"
    told = [e["message"] for e in admin.service.events() if "admin request refused" in e["message"]]
    assert 1 <= len(told) < 2 * 7
    assert KEY not in admin.service.log()
    assert not (both / CURRENT).exists()


def test_wrong_paths_and_methods_have_the_one_shape(start_admin: StartAdmin, both: Path) -> None:
    """The admin port describes itself to nobody."""
    admin = start_admin(both)
    for path in ("/", "/docs", "/openapi.json", "/predict", "/bundles/"):
        assert error_of(admin.client.get(path), 404)["code"] == "not_found"
    assert error_of(admin.client.post("/bundles"), 405)["code"] == "method_not_allowed"
    answer = admin.client.get("/bundles", headers={"more": "v" * HEAD_BYTES})
    assert error_of(answer, 431)["code"] == "head_too_large"


def test_where_current_cannot_be_written_nothing_happens(
    start_admin: StartAdmin, both: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """409 names what is in the way."""
    admin = start_admin(both)
    (both / CURRENT).mkdir()
    error = error_of(admin.activate(tiny_bundle.name), 409)
    assert error["message"].startswith("CURRENT cannot be written: ")
    assert version_of(admin.service) == other_bundle.name


def test_a_service_of_one_bundle_has_no_other(
    start_admin: StartAdmin, tiny_bundle: Path, other_bundle: Path
) -> None:
    """It lists the one, which may be asked for; the bundle itself is never written to."""
    admin = start_admin(tiny_bundle)
    assert admin.states() == {tiny_bundle.name: "serving"}
    assert admin.activate(tiny_bundle.name).status_code == 200
    assert error_of(admin.activate(other_bundle.name), 404)["code"] == "not_found"
    assert not (tiny_bundle / CURRENT).exists()


def test_the_admin_port_survives_its_worker(
    start_admin: StartAdmin, both: Path, tiny_bundle: Path, other_bundle: Path
) -> None:
    """The successor of the worker that had it has it too."""
    admin = start_admin(both, workers=2)
    for version in (tiny_bundle, other_bundle):
        for killed in workers_of(admin.service):
            os.kill(killed, signal.SIGKILL)
        wait_until(lambda: responds(admin), "a successor has the port", 30)
        wait_until(lambda: len(workers_of(admin.service)) == 2, "both are there", 30)
        assert admin.activate(version.name).status_code == 200
        wait_until(serves(admin.service, version), "it is served", 30)


def responds(admin: Admin) -> bool:
    """Return whether the admin port answers, with a bundle in use behind it."""
    try:
        return admin.listing()["serving"] is not None
    except httpx.TransportError:
        return False


def test_an_admin_port_that_nobody_could_use_is_refused(
    tiny_bundle: Path, tmp_path: Path, service: Service
) -> None:
    """No key file, one without keys, or a port in use: a line that says so, and exit code 1."""
    (tmp_path / "empty").write_text("")
    keys = tmp_path / "keys"
    keys.write_text("0" * 64)
    for settings, reason in (
        ({"admin_port": free_port()}, "admin_port needs admin_key_file"),
        ({"admin_port": free_port(), "admin_key_file": tmp_path / "none"}, "cannot be read"),
        ({"admin_port": free_port(), "admin_key_file": tmp_path / "empty"}, "holds no key"),
        ({"admin_port": service.port, "admin_key_file": keys}, "ddress already in use"),
    ):
        ended = run_to_end(tiny_bundle, **settings)
        assert ended.returncode == 1
        assert "cannot serve: the admin port" in ended.stderr
        assert reason in ended.stderr


def test_a_held_bundle_waits_over_restarts_until_it_is_activated(
    start_admin: StartAdmin, bundles: Path, tiny_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    """Every worker holds it; the admin port, /ready and the metrics say why."""
    gate = tmp_path / "gate.toml"
    gate.write_text("[test]\nmin_auc = 1\n")
    admin = start_admin(bundles, workers=2, gate=gate)
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    wait_until(lambda: admin.states().get(other_bundle.name) == "held", "it is held", 60)
    wait_until(lambda: admin.service.metrics()["ctr_held_bundles"] == 1, "metrics tell", 30)
    (held,) = (each for each in admin.listing()["bundles"] if each["state"] == "held")
    assert "test.min_auc is 1" in held["reason"]
    assert admin.versions() == {tiny_bundle.name}
    admin.service.stop()
    again = start_admin(bundles, workers=2, gate=gate)
    assert again.versions() == {tiny_bundle.name}
    wait_until(lambda: again.states().get(other_bundle.name) == "held", "it is held again", 60)
    assert again.activate(other_bundle.name).status_code == 200
    assert again.versions() == {other_bundle.name}
    assert strict(again.service.client.get("/ready").content)["held_bundles"] == {}
    answer = again.client.delete("/current")
    assert answer.status_code == 200
    assert strict(answer.content)["current"] is None
    assert not (bundles / CURRENT).exists()


def test_a_service_of_one_bundle_follows_no_other(
    start_admin: StartAdmin, tiny_bundle: Path
) -> None:
    admin = start_admin(tiny_bundle)
    assert "one bundle" in error_of(admin.client.delete("/current"), 409)["message"]


def test_a_gate_that_cannot_be_used_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("[test]\nmin_acu = 0.6\n")
    ended = run_to_end(tiny_bundle, env={"CTR_GATE": str(tmp_path / "gate.toml")})
    assert ended.returncode == 2
    assert "min_acu" in ended.stderr
    assert "Traceback" not in ended.stderr
