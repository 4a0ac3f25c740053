"""Each alert fires where it should, and nowhere else, by promtool's own reckoning."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.markdown import ROOT
from tests.support.programs import program

RULES = ROOT / "docker" / "observe" / "alerts.yml"
LABELS = 'instance="a:8000", job="ctr"'
Series = dict[str, str]
"""Values by series, in promtool's form: a start, a step each minute and the number of steps."""


def of(name: str, more: str = "", values: str = "0x150") -> Series:
    """One series of an instance."""
    return {f"{name}{{{LABELS}{more and f', {more}'}}}": values}


UP = of("up", values="1x150")
REQUESTS = of("ctr_requests_total", 'route="rank", outcome="200"', "0+6000x150")
WEEK = 7 * 86400

CASES: dict[str, tuple[Series, Series]] = {
    "CtrDown": (of("up", values="0x150"), UP),
    "CtrWithoutBundle": (UP, UP | of("ctr_bundle_info", 'version="v"', "1x150")),
    "CtrErrors": (
        REQUESTS | of("ctr_requests_total", 'route="rank", outcome="503"', "0+90x150"),
        REQUESTS | of("ctr_requests_total", 'route="rank", outcome="503"', "0+20x150"),
    ),
    "CtrOverloaded": (
        REQUESTS | of("ctr_refused_requests_total", 'reason="queue_full"', "0+90x150"),
        REQUESTS | of("ctr_refused_requests_total", 'reason="invalid"', "0+900x150"),
    ),
    "CtrSlow": tuple(
        of("ctr_request_seconds_bucket", 'route="rank", le="0.1"', f"0+{quick}x150")
        | of("ctr_request_seconds_bucket", 'route="rank", le="0.25"', "0+1000x150")
        | of("ctr_request_seconds_bucket", 'route="rank", le="+Inf"', "0+1000x150")
        for quick in (980, 995)
    ),  # type: ignore[dict-item]
    "CtrEngineFails": (
        of("ctr_engine_failures_total", values="0x110 0+1x60"),
        of("ctr_engine_failures_total", values="7x150"),
    ),
    "CtrWorkersDie": (
        of("ctr_worker_restarts_total", values="0x95 0+1x60"),
        of("ctr_worker_restarts_total", values="0x95 1x60"),
    ),
    "CtrBundlesUnusable": (
        of("ctr_bundles_usable"), of("ctr_bundles_usable", values="1x150"),
    ),
    "CtrBundleRefused": (
        of("ctr_refused_bundles_total", values="0x100 1x60"),
        of("ctr_refused_bundles_total", values="0x40 1x200"),
    ),
    "CtrBundleHeld": (of("ctr_held_bundles", values="1x150"), of("ctr_held_bundles")),
    "CtrBundleOld": (
        of("ctr_bundle_created_timestamp_seconds", values=f"-{WEEK}x150"),
        of("ctr_bundle_created_timestamp_seconds", values="0x150"),
    ),
    "CtrVersionsDiffer": tuple(
        {
            'ctr_bundle_info{instance="a:8000", job="ctr", version="one"}': "1x150",
            f'ctr_bundle_info{{instance="b:8000", job="ctr", version="{other}"}}': "1x150",
        }
        for other in ("two", "one")
    ),  # type: ignore[dict-item]
    "CtrTrialEnded": tuple(
        of("ctr_trials_ended_total", f'cause="{cause}"', "0x100 1x60")
        for cause in ("failures", "promoted")
    ),  # type: ignore[dict-item]
    "CtrFieldDrifted": tuple(
        of("ctr_drift_psi", 'slot="genres"', f"{psi}x150")
        | of("ctr_drift_psi_threshold", 'slot="genres"', "0.1x150")
        for psi in (0.2, 0.09)
    ),  # type: ignore[dict-item]
    "CtrScoresDrifted": tuple(
        of("ctr_score_drift_psi", values=f"{psi}x150")
        | of("ctr_score_drift_psi_threshold", values="0.1x150")
        for psi in (0.2, 0.09)
    ),  # type: ignore[dict-item]
    "CtrFieldMissing": tuple(
        of("ctr_missing_values_total", 'slot="age"', f"0+{missing}x150")
        | of("ctr_rows_total", values="0+1000x150")
        | of("ctr_training_missing_share", 'slot="age"', "0.1x150")
        for missing in (400, 250)
    ),  # type: ignore[dict-item]
    "CtrMiscalibrated": tuple(
        of("ctr_feedback_predicted_total", 'version="v", up_to="0.5"', f"0+{predicted}x150")
        | of("ctr_feedback_clicks_total", 'version="v", up_to="0.5"', "0+20x150")
        for predicted in (26, 24)
    ),  # type: ignore[dict-item]
    "CtrRedisDown": (of("ctr_redis_up"), of("ctr_redis_up", values="1x150")),
    "CtrProfilesDown": (of("ctr_profiles_up"), of("ctr_profiles_up", values="1x150")),
    "CtrCatalogueBehind": (
        of("ctr_catalogue_behind_seconds", values="0+60x150"),
        of("ctr_catalogue_behind_seconds", values="3x150")
        | of("ctr_catalogue_followed", values="1x150"),
    ),
    "CtrRequestLogLoses": (
        of("ctr_request_log_dropped_total", 'reason="queue"', "0+5x150"),
        of("ctr_request_log_up", values="1x150")
        | of("ctr_request_log_dropped_total", 'reason="queue"', "5x150"),
    ),
}  # fmt: skip
"""Series for which an alert fires, after two hours, and others for which it does not."""


def rules() -> dict[str, Any]:
    """Every rule by its name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def fired(name: str, series: Series, scratch: Path) -> bool:
    """Tell whether promtool finds an alert firing after two hours of these series.

    Its rule is looked at alone: promtool would reckon all of them for each minute.
    """
    rule = rules()[name]
    alone = scratch / "rules.yml"
    alone.write_text(json.dumps({"groups": [{"name": "alone", "rules": [rule]}]}), encoding="utf-8")
    wanted = {
        "rule_files": [str(alone)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": key, "values": text} for key, text in series.items()],
                "alert_rule_test": [{"eval_time": "120m", "alertname": name, "exp_alerts": []}],
            }
        ],
    }
    file = scratch / "test.yml"
    file.write_text(json.dumps(wanted), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(file)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert re.search(r"SUCCESS|got:\[", told), told
    if done.returncode == 0:
        return False
    assert f'alertname="{name}"' in told
    assert rule["labels"]["severity"] in told
    return True


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_where_it_should_alone(name: str, tmp_path: Path) -> None:
    """A series by which it fires, and one by which it does not."""
    fires, stays = CASES[name]
    assert fired(name, fires, tmp_path)
    assert not fired(name, stays, tmp_path)


def test_every_alert_is_tried_and_has_a_line_for_the_operator() -> None:
    """The table of the operations page says for each what to do, and names no other."""
    assert set(CASES) == set(rules())
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split("### Alerts\n")[1].split("\n## ")[0].split("\n### ")[0]
    assert set(re.findall(r"^\| `(Ctr\w+)` \|", section, re.MULTILINE)) == set(rules())
    for rule in rules().values():
        assert rule["annotations"]["runbook"] == "docs/operations.md#alerts"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_alerts_name_metrics_that_there_are() -> None:
    """Every metric of a rule is in the page of metrics."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, rule in rules().items():
        for metric in re.findall(r"\bctr_\w+", rule["expr"]):
            assert metric.removesuffix("_bucket") in page, f"{name}: {metric}"
