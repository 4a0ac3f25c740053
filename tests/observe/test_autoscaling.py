"""What the autoscaler looks at: recording rules in idle, load, overload and drain."""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import StartService
from tests.drills.faults.slow_service import SLOW, VARIABLE
from tests.support.markdown import ROOT
from tests.support.programs import program
from tests.support.prometheus import ask, prometheus
from tests.support.samples import Sample
from tests.support.serving import wait_until

CHART = ROOT / "docker" / "chart"
RULES = CHART / "files" / "recording.yml"
ADAPTER = CHART / "examples" / "prometheus-adapter.yaml"
WAIT, REFUSED = "ctr:queue_wait_seconds:mean1m", "ctr:refused_requests:rate1m"
POD = 'namespace="ads", pod="a", job="ctr"'
Cases = dict[str, tuple[dict[str, str], dict[str, float]]]


def pod(
    wait: str, count: str, refused: str = "0x40", queued: str = "0x40", labels: str = POD
) -> dict[str, str]:
    """The series of a pod, a value each 15 seconds for ten minutes."""
    return {
        f'ctr_queue_seconds_sum{{{labels}, route="predict"}}': wait,
        f'ctr_queue_seconds_count{{{labels}, route="predict"}}': count,
        f'ctr_queue_seconds_sum{{{labels}, route="rank"}}': "0x40",
        f'ctr_queue_seconds_count{{{labels}, route="rank"}}': "0x40",
        f'ctr_requests_total{{{labels}, route="predict", outcome="429"}}': refused,
        f'ctr_requests_total{{{labels}, route="predict", outcome="200"}}': "0+4500x40",
        f"ctr_queued_rows{{{labels}}}": queued,
    }


CASES: Cases = {
    "idle": (pod("0x40", "0x40"), {WAIT: 0.0, REFUSED: 0.0}),
    "idle after load": (pod("0+9x20 180x20", "0+4500x20 90000x20"), {WAIT: 0.0, REFUSED: 0.0}),
    "load": (pod("0+9x40", "0+4500x40"), {WAIT: 0.002, REFUSED: 0.0}),
    "overload": (pod("0+180x40", "0+4500x40", "0+1500x40"), {WAIT: 0.04, REFUSED: 100.0}),
    "everything is refused": (pod("0x40", "0x40", "0+1500x40"), {WAIT: 0.0, REFUSED: 100.0}),
    # Requests of before end; then nothing comes any more, then the pod is gone.
    "drain": (pod("0+9x30 270x10", "0+4500x30 135000x10"), {WAIT: 0.0, REFUSED: 0.0}),
    "gone": (pod("0+9x30 stale", "0+4500x30 stale", "0x30 stale", "0x30 stale"), {}),
    "two pods": (
        pod("0+180x40", "0+4500x40", "0+1500x40")
        | pod("0x40", "0x40", labels=POD.replace('"a"', '"b"')),
        {f'{WAIT}{{namespace="ads", pod="a"}}': 0.04, f'{WAIT}{{namespace="ads", pod="b"}}': 0.0,
         f'{REFUSED}{{namespace="ads", pod="a"}}': 100.0,
         f'{REFUSED}{{namespace="ads", pod="b"}}': 0.0},
    ),
}  # fmt: skip
"""Series of pods, and what the rules make of them after ten minutes."""


def samples(wanted: dict[str, float], name: str) -> list[dict[str, Any]]:
    """The samples of a rule, with the labels of the pod where a case has but one."""
    return [
        {"labels": key if "{" in key else f'{key}{{namespace="ads", pod="a"}}', "value": value}
        for key, value in wanted.items()
        if key.startswith(name)
    ]


def promtool(tests: list[dict[str, Any]], scratch: Path) -> str:
    """Run tests of the rules; return what promtool says where they fail."""
    file = scratch / "test.yml"
    written = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": tests}
    file.write_text(json.dumps(written), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(file)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_rules_say_what_goes_on(case: str, tmp_path: Path) -> None:
    """Both numbers of every pod; 0 where nothing waits, and none of a pod that is gone."""
    series, wanted = CASES[case]
    test = {
        "interval": "15s",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {"expr": name, "eval_time": "10m", "exp_samples": samples(wanted, name)}
            for name in (WAIT, REFUSED)
        ],
    }
    assert promtool([test], tmp_path) == ""
    # The same with another number fails: promtool has looked.
    test["promql_expr_test"] = [
        {"expr": WAIT, "eval_time": "10m", "exp_samples": samples({WAIT: 1.5}, WAIT)}
    ]
    assert "got:" in promtool([test], tmp_path)


def test_the_adapter_asks_for_what_the_rules_record(tmp_path: Path) -> None:
    """Its questions, written out as for two pods, have an answer for each of them."""
    rules = yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]
    recorded = [
        rule["record"]
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]
    series = [re.match(r"[\w:]+", rule["seriesQuery"])[0] for rule in rules]  # type: ignore[index]
    assert series == recorded == [WAIT, REFUSED]
    hpa = (CHART / "templates" / "horizontalpodautoscaler.yaml").read_text(encoding="utf-8")
    assert re.findall(r"metric: \{name: (\w+)\}", hpa) == [rule["name"]["as"] for rule in rules]
    given, wanted = CASES["two pods"]
    asked = [
        {
            "expr": rule["metricsQuery"]
            .replace("<<.Series>>", name)
            .replace("<<.LabelMatchers>>", 'namespace="ads",pod=~"a|b"')
            .replace("<<.GroupBy>>", "pod"),
            "eval_time": "10m",
            "exp_samples": [
                {"labels": f'{{pod="{each}"}}',
                 "value": wanted[f'{name}{{namespace="ads", pod="{each}"}}']}
                for each in ("a", "b")
            ],
        }
        for name, rule in zip(series, rules, strict=True)
    ]  # fmt: skip
    test = {
        "interval": "15s",
        "input_series": [{"series": key, "values": values} for key, values in given.items()],
        "promql_expr_test": asked,
    }
    assert promtool([test], tmp_path) == ""


def test_rules_name_metrics_that_there_are() -> None:
    """Every metric of a rule is in the page of metrics."""
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for metric in re.findall(r"\bctr_\w+", RULES.read_text(encoding="utf-8")):
        assert re.sub(r"_(sum|count)$", "", metric) in page, metric


@pytest.mark.e2e
@pytest.mark.slow
def test_a_real_service_is_seen(
    start_service: StartService, sample: Sample, tmp_path: Path
) -> None:
    """0 as soon as it is scraped; above the autoscaler's bounds while it refuses requests."""
    program("prometheus")
    service = start_service(program=SLOW, env={VARIABLE: "20"}, max_batch_rows=4, max_queue_rows=50)
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    (tmp_path / "rules.yml").write_text(
        json.dumps({"groups": [{**group, "interval": "1s"} for group in groups]})
    )
    labels = {"namespace": "ads", "pod": "a"}
    job = {
        "job_name": "ctr",
        "static_configs": [{"targets": [f"127.0.0.1:{service.port}"], "labels": labels}],
    }
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(tmp_path / "rules.yml")],
        "scrape_configs": [job],
    }
    body = {"instances": sample.rows[:4]}

    with prometheus(config, tmp_path) as url:

        def values() -> list[float]:
            """The values of both rules, of the one pod."""
            found = [each for name in (WAIT, REFUSED) for each in ask(url, name)]
            assert all(labels.items() <= each["metric"].items() for each in found)
            return [float(each["value"][1]) for each in found]

        wait_until(lambda: values() == [0.0, 0.0], "an idle pod is seen", 60)
        with ThreadPoolExecutor(32) as callers:

            def overloaded() -> bool:
                list(callers.map(lambda _: service.post("/predict", body), range(64)))
                # None for a moment, where the service was asked for its metrics in vain.
                found = values()
                return len(found) == 2 and found[0] > 0.01 and found[1] > 1

            wait_until(overloaded, "an overloaded pod is seen", 60)
