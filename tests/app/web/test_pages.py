"""The pages are served to those who may see them, and to browsers of the right address alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.pages.files import page_files
from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import PATIENT_MS, StartService
from tests.support.admin import BEARER, WithAdmin, start_with_admin
from tests.support.samples import KNOWN_USER, Sample, candidate_of, context_of
from tests.support.serving import strict, wait_until

pytestmark = pytest.mark.e2e
PRIVATE = ("/admin/pages/form", "/admin/pages/values?field=tags", "/admin/pages/now",
           "/admin/pages/bundles", "/admin/pages/items?search=x", "/admin/pages/ranked?ids=[1]",
           "/admin/pages/profile?key=12345")  # fmt: skip

OF_TIME = {
    "process_resident_memory_bytes",
    "process_cpu_seconds",
    "ctr_catalogue_behind_seconds",
}
"""Metrics that change by themselves."""


@pytest.fixture(scope="module")
def both(
    start_shared_service: StartService, tmp_path_factory: pytest.TempPathFactory, sample: Sample
) -> WithAdmin:
    """A service that shows pages on both ports, with a store."""
    scratch = tmp_path_factory.mktemp("admin")
    store = SqliteStore(scratch / "store.db", create=True)
    store.put([Item(number, candidate_of(row)) for number, row in enumerate(sample.rows[:5])])
    store.put([Item("seven", {"title": "Seven", "price": 7, "cost": 5})])
    store.profiles.put([Item(KNOWN_USER, {"age": 40, "country": "us", "shoe": 43})])
    store.close()
    return start_with_admin(
        start_shared_service, scratch, pages="on", pages_hosts="ctr.example, other.example",
        store=f"sqlite://{scratch}/store.db", profile_key="user_id", redis_timeout_ms=PATIENT_MS,
    )  # fmt: skip


def get(url: str, **headers: str) -> httpx.Response:
    """Return an answer to a request with these headers."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(url, headers=given, trust_env=False, verify=False, timeout=30)


def post(url: str, body: Any, headers: Mapping[str, str]) -> httpx.Response:
    """Return an answer to a request with a body and these headers."""
    return httpx.post(url, json=body, headers=headers, trust_env=False, verify=False, timeout=30)


def code(answer: httpx.Response, status: int) -> Any:
    """The code of an error that must have ``status``."""
    assert answer.status_code == status, answer.text
    return strict(answer.content)["error"]["code"]


def test_files_need_no_key_and_allow_nothing_of_elsewhere(both: WithAdmin) -> None:
    """Each file of the pages is sent with a policy by which a browser loads only from here."""
    for base in (both.url, both.service.url):
        for name, file in page_files().items():
            if not name.startswith("pages/"):
                continue
            answer = get(f"{base}/{name}")
            assert answer.content == file.content
            assert answer.headers["content-type"] == file.media
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self'; ")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert get(f"{base}/pages/").content == page_files()["pages/index.html"].content
        for wrong in ("pages/nothing.js", "pages/../settings.py", "pages/%2e%2e/form.py", "pages"):
            assert get(f"{base}/{wrong}").status_code in (404, 307)
    assert get(f"{both.url}/").headers["location"] == "pages/"


@pytest.mark.parametrize("path", PRIVATE)
def test_data_of_the_admin_port_need_the_key(both: WithAdmin, path: str) -> None:
    """401 without a key and with a wrong one; with it, an answer."""
    assert code(get(both.url + path), 401) == "unauthorized"
    assert code(get(both.url + path, authorization="Bearer wrong"), 401) == "unauthorized"
    answer = get(both.url + path, **BEARER)
    assert answer.status_code == 200, answer.text


def test_rows_are_scored_on_the_admin_port_by_key(both: WithAdmin, sample: Sample) -> None:
    """The pages' own way to the scores: the same ones as on the public port, 401 without a key."""
    rows = sample.rows[:4]
    rank = {"context": context_of(rows[0]), "candidates": [{"features": candidate_of(rows[0])}]}
    for path, body in (("predict", {"instances": rows}), ("rank", rank), ("rank", {"context": 1})):
        url = f"{both.url}/admin/pages/{path}"
        assert code(post(url, body, {}), 401) == "unauthorized"
        answer = post(url, body, BEARER)
        public = both.service.post(f"/{path}", body)
        assert answer.status_code == public.status_code
        shown, expected = strict(answer.content), strict(public.content)
        assert shown.pop("predictions", None) == pytest.approx(expected.pop("predictions", None))
        assert json.dumps(shown)[:60] == json.dumps(expected)[:60]


def test_items_of_a_ranking_come_by_id(both: WithAdmin, sample: Sample) -> None:
    """With title and the values that the bundle scores, on both ports; null for one that is not."""
    for base, key in ((f"{both.url}/admin/pages", BEARER), (f"{both.service.url}/pages/data", {})):
        answer = get(f'{base}/ranked?ids=["seven", 2, "nobody"]', **key)
        assert strict(answer.content)["items"] == [
            {"title": "Seven", "features": {"price": 7}},
            {"title": None, "features": candidate_of(sample.rows[2])},
            None,
        ]
        assert strict(get(f"{base}/ranked?ids=[]", **key).content)["items"] == []
        for wrong in ("7", "[7", "[[7]]", "[1.5]", str([*range(101)])):
            assert code(get(f"{base}/ranked?ids={wrong}", **key), 422)


def test_a_profile_is_shown_to_holders_of_a_key(both: WithAdmin) -> None:
    """Strangers learn which fields it fills and no value; who has none is told so."""
    admin, public = f"{both.url}/admin/pages/profile", f"{both.service.url}/pages/data/profile"
    found = strict(get(f"{admin}?key={KNOWN_USER}", **BEARER).content)
    assert found == {"fields": ["age", "country"], "values": {"age": 40, "country": "us"}}
    assert strict(get(f'{admin}?key="{KNOWN_USER}"', **BEARER).content) == found
    assert strict(get(f"{public}?key={KNOWN_USER}").content) == {**found, "values": {}}
    for key in ("1", "null", '"nobody"', "1.5"):
        assert strict(get(f"{admin}?key={key}", **BEARER).content) == {"fields": [], "values": {}}
    for wrong in ("[1]", "{", "", "true"):
        assert code(get(f"{admin}?key={wrong}", **BEARER), 422)
    assert strict(get(f"{public[:-8]}/form").content)["profile_key"] == "user_id"


def test_rows_that_are_tried_on_pages_do_not_drift(both: WithAdmin, sample: Sample) -> None:
    """They are scored and counted as others are, on both ports; what callers send is watched."""

    def watched() -> int:
        report = strict(get(f"{both.service.url}/drift").content)
        return int(report["score"]["count"])

    def scored() -> float:
        return both.service.metrics()["ctr_rows_total"]

    before, rows = watched(), scored()
    body = {"instances": sample.rows[:20]}
    for url, key in (
        (f"{both.url}/admin/pages/predict", BEARER),
        (f"{both.service.url}/pages/score/predict", {}),
    ):
        answer = post(url, body, key)
        assert answer.status_code == 200, answer.text
    wait_until(lambda: scored() == rows + 40, "the rows are counted")
    assert watched() == before
    both.service.predict(sample.rows[:20])
    wait_until(lambda: watched() == before + 20, "those of a caller are")


def test_the_public_port_shows_no_person_and_takes_no_action(both: WithAdmin) -> None:
    """Known values of candidates only; nothing of bundles, items or the admin port."""
    url = both.service.url
    assert strict(get(f"{url}/pages/port.json").content)["admin"] is False
    assert "news" in strict(get(f"{url}/pages/data/values?field=tags").content)["values"]
    assert code(get(f"{url}/pages/data/values?field=user_id"), 404) == "not_found"
    assert len(strict(get(f"{url}/pages/data/form").content)["examples"]) == 1
    for path in ("bundles", "items?search=x", "predict", "bundles/x/report"):
        assert get(f"{url}/pages/data/{path}").status_code == 404
    assert get(f"{url}/admin/pages/form", **BEARER).status_code == 404
    drift = strict(get(f"{url}/pages/data/now?slot=user_id").content)["changed"]["drift"]
    assert {"no. 1", "no. 2"} <= set(drift["detail"]["bins"])


def test_pages_are_off_on_the_public_port_unless_they_are_asked_for(
    start_shared_service: StartService,
) -> None:
    """``CTR_PAGES`` is off by default."""
    url = start_shared_service().url
    for path in ("pages/", "pages/main.js", "pages/port.json", "pages/data/form"):
        assert code(get(f"{url}/{path}"), 404) == "not_found"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "x[",
                                  "localhost.evil", ""])  # fmt: skip
def test_a_name_that_is_not_ours_gets_nothing(both: WithAdmin, host: str) -> None:
    """A name that an attacker has rebound to this machine, with the right key or without."""
    for path in ("/pages/", "/pages/main.js", "/pages/port.json"):
        assert code(get(both.url + path, host=host), 403) == "wrong_origin"
        assert code(get(both.service.url + path, host=host), 403) == "wrong_origin"
    assert code(get(f"{both.service.url}/pages/data/now", host=host), 403) == "wrong_origin"
    answer = get(f"{both.url}/admin/bundles", host=host, origin=f"http://{host}", **BEARER)
    assert code(answer, 403) == "wrong_origin"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001",
                                  "10.1.2.3", "ctr.example", "other.example:8001"])  # fmt: skip
def test_our_names_are_served(both: WithAdmin, host: str) -> None:
    """Addresses in numbers, ``localhost``, and the names of ``CTR_PAGES_HOSTS``."""
    assert get(f"{both.url}/pages/", host=host).status_code == 200
    assert get(f"{both.service.url}/pages/data/form", host=host).status_code == 200
    answer = get(f"{both.url}/admin/bundles", host=host, origin=f"http://{host}", **BEARER)
    assert answer.status_code == 200


def test_a_page_of_elsewhere_gets_nothing(both: WithAdmin) -> None:
    """``Origin`` tells it; a program that sends none is let in by its key, under any name."""
    host = both.url.removeprefix("http://")
    for origin in ("http://evil.example", "null", f"http://{host}1", both.service.url):
        for path in ("/admin/bundles", "/admin/pages/form"):
            answer = get(both.url + path, origin=origin, **BEARER)
            assert code(answer, 403) == "wrong_origin"
    assert get(f"{both.url}/admin/bundles", origin=both.url, **BEARER).status_code == 200
    assert get(f"{both.url}/admin/bundles", host="ctr.internal", **BEARER).status_code == 200


def test_only_what_has_changed_is_sent(both: WithAdmin, sample: Sample) -> None:
    """A page that says what it has gets the rest, which together are the whole."""
    url = f"{both.url}/admin/pages/now"
    both.service.predict(sample.rows[:3])

    def asked(*have: str) -> Any:
        return strict(get(f"{url}?have={','.join(have)}" if have else url, **BEARER).content)

    first = asked()

    def nothing_new() -> bool:
        """Rows count for drift a moment after they were scored."""
        nonlocal first
        first = asked()
        return set(asked(*first["hashes"].values())["changed"]) <= OF_TIME

    wait_until(nothing_new, "only what changes by itself is sent")
    assert set(first["changed"]) == set(first["hashes"])
    assert {"ctr_requests", "ctr_request_seconds", "ctr_score", "drift"} <= set(first["changed"])
    both.service.predict(sample.rows[:3])
    third = asked(*first["hashes"].values())
    assert {"ctr_requests", "ctr_rows"} <= set(third["changed"])
    assert "ctr_training_oov_share" not in third["changed"]
    rows = [each["changed"]["ctr_rows"][0]["value"] for each in (first, third)]
    assert rows[1] - rows[0] == 3


def test_histograms_of_a_slot_come_on_request(both: WithAdmin, sample: Sample) -> None:
    """With the values that its bins stand for; an unknown slot has none."""
    both.service.predict(sample.rows[:50])
    for slot, name in (("tags", "news"), ("quality", "≥ 0.5"), ("user_id", "12345")):
        answer = get(f"{both.url}/admin/pages/now?slot={slot}", **BEARER)
        detail = strict(answer.content)["changed"]["drift"]["detail"]
        assert detail["slot"] == slot
        assert name in detail["bins"]
        assert len(detail["bins"]) == len(detail["window"]) == len(detail["trained"])
    answer = get(f"{both.url}/admin/pages/now?slot=nonsense", **BEARER)
    assert strict(answer.content)["changed"]["drift"]["detail"] is None


def test_bundles_come_with_their_figures(
    both: WithAdmin, start_shared_service: StartService, tiny_bundle: Path
) -> None:
    """Figures of the manifest, and the trainer's report where it is beside the bundle."""
    found = strict(get(f"{both.url}/admin/pages/bundles", **BEARER).content)
    [bundle] = found["bundles"]
    assert bundle["version"] == found["serving"] == tiny_bundle.name
    assert 0.5 < bundle["metrics"]["test"]["auc"] < 1
    assert bundle["config"]["embedding_size"] > 0
    answer = get(f"{both.url}/admin/pages/bundles/nonsense/report", **BEARER)
    assert code(answer, 404) == "not_found"
    report = get(f"{both.url}/admin/pages/bundles/{tiny_bundle.name}/report", **BEARER)
    if bundle["report"]:
        told = strict(report.content)
        assert told["text"].startswith("# ")
        assert told["figures"]["history"][-1]["log_loss"] > 0
        assert len(told["figures"]["reliability"]["predicted"]) > 5
    else:
        assert code(report, 404) == "not_found"


def test_the_documentation_can_be_tried_and_loads_nothing_of_elsewhere(both: WithAdmin) -> None:
    """/docs is a page of the service's own, and so is every file that it names."""
    url = both.service.url
    answer = get(f"{url}/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "docs.js"):
        assert f"docs/{name}" in answer.text
        packed = get(f"{url}/docs/{name}", accept_encoding="gzip")
        plain = get(f"{url}/docs/{name}", accept_encoding="identity")
        assert packed.content == plain.content == page_files()[f"docs/{name}"].content
        assert "content-encoding" not in plain.headers
    assert get(f"{url}/docs/nothing.js").status_code == 404
