"""The dashboard can be drawn: each of its expressions gives numbers of a real service."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
import yaml

from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import StartService
from tests.support.admin import BEARER, write_hash
from tests.support.markdown import ROOT
from tests.support.programs import program
from tests.support.prometheus import DIRECT, ask
from tests.support.prometheus import prometheus as running_prometheus
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import Service, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
OBSERVE = ROOT / "docker" / "observe"
DASHBOARD = json.loads((OBSERVE / "dashboard.json").read_text(encoding="utf-8"))
KINDS = {"timeseries", "stat", "row"}
COLUMNS = 24
SCRAPE_SECONDS, INTERVAL = 1, "10s"
PATIENCE_SECONDS = 120
EMPTY_HERE = {
    "Redis": "its vocabulary is in memory",
    "Share of the trial": "no bundle is on trial",
    "Failed, each side": "no bundle is on trial",
    "Mean scores, each side": "no bundle is on trial",
    "Profiles": "it has no profiles",
}
"""Panels without numbers of the service of this test, and why."""


def panels() -> list[dict[str, Any]]:
    """The panels that draw something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_one() -> None:
    """Ids and places are unique, kinds known, and every panel asks the source that there is."""
    sources = yaml.safe_load((OBSERVE / "grafana-datasource.yml").read_text())["datasources"]
    found = DASHBOARD["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    assert {panel["type"] for panel in found} <= KINDS
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["datasource"]["uid"] == sources[0]["uid"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["title"] for panel in panels()}) == len(panels())


def test_every_metric_is_in_the_documentation() -> None:
    """A metric that is renamed is missed here."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for panel in panels():
        for target in panel["targets"]:
            for metric in re.findall(r"\bctr_\w+", target["expr"]):
                assert re.sub(r"_(bucket|sum|count)$", "", metric) in page, metric


@pytest.fixture(scope="module")
def service(
    start_shared_service: StartService, tmp_path_factory: pytest.TempPathFactory, sample: Sample
) -> Service:
    """A service with everything that the dashboard shows and that needs no other server."""
    scratch = tmp_path_factory.mktemp("observed")
    store = SqliteStore(scratch / "store.db", create=True)
    store.put([Item(number, candidate_of(row)) for number, row in enumerate(sample.rows[:20])])
    store.close()
    return start_shared_service(
        store=f"sqlite://{scratch}/store.db", feedback=scratch / "feedback",
        feedback_key_file=write_hash(scratch / "feedback.sha256"),
        request_log=scratch / "log", request_log_share=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prometheus(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prometheus with the stack's configuration and rules, scraping the service."""
    config = yaml.safe_load((OBSERVE / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(OBSERVE / name) for name in config["rule_files"]]
    [job] = config["scrape_configs"]
    assert job.pop("dns_sd_configs")[0]["names"] == ["service"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
    with running_prometheus(config, tmp_path_factory.mktemp("prometheus")) as url:
        yield url


def send(service: Service, sample: Sample) -> None:
    """Send requests of every kind: scored, refused, by id; and what came of them."""
    answer = service.post("/predict", {"instances": sample.rows[:40]})
    service.post("/predict", {"instances": [{"user_id": True}]})
    context = context_of(sample.rows[0])
    service.post("/rank", {"context": context, "candidates": {"ids": [1, 2, 99]}})
    events = [
        {"request_id": "r", "index": index, "label": index % 2,
         "version": answer.json()["version"], "score": score}
        for index, score in enumerate(answer.json()["predictions"])
    ]  # fmt: skip
    told = service.client.post("/feedback", json={"events": events}, headers=BEARER)
    assert told.status_code == 202, told.text


def test_every_panel_shows_numbers(service: Service, prometheus: str, sample: Sample) -> None:
    """Or is one of those that cannot, here."""
    wanted = {
        (panel["title"], target["expr"].replace("$__rate_interval", INTERVAL)
         .replace("$instance", ".*"))
        for panel in panels()
        for target in panel["targets"]
        if panel["title"] not in EMPTY_HERE
    }  # fmt: skip
    missing, end = wanted, monotonic() + PATIENCE_SECONDS
    # A log that drops nothing has no reasons for it.
    while any("dropped" not in expression for _, expression in missing):
        assert monotonic() < end, f"without a result: {sorted(missing)}"
        send(service, sample)
        sleep(SCRAPE_SECONDS / 4)
        missing = {each for each in missing if not ask(prometheus, each[1])}
    for panel in panels():
        if panel["title"] in EMPTY_HERE:
            for target in panel["targets"]:
                ask(prometheus, target["expr"].replace("$__rate_interval", INTERVAL)
                    .replace("$instance", ".*"))  # fmt: skip


def test_the_rules_are_evaluated(prometheus: str) -> None:
    """By the running Prometheus, without an error."""

    def evaluated() -> bool:
        answer = httpx.get(f"{prometheus}/api/v1/rules", **DIRECT).json()
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        assert [rule for rule in rules if rule["health"] == "err"] == []
        return len(rules) > 15 and all(rule["health"] == "ok" for rule in rules)

    wait_until(evaluated, "every rule was evaluated", 60)


def test_the_configuration_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    """By promtool."""
    done = subprocess.run(
        [program("promtool"), "check", "config", OBSERVE / "prometheus.yml"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
