"""A shadow scores what was answered, and no answer is another one for it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.directory import CURRENT
from app.store.opening import open_store
from app.store.store import Item
from tests.conftest import StartService
from tests.support.admin import StartAdmin, error_of
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import logits, strict, wait_until
from tests.support.swaps import COMPANY

pytestmark = pytest.mark.e2e


@pytest.fixture
def pinned(bundles: Path, tiny_bundle: Path, other_bundle: Path) -> Path:
    """A directory whose older bundle serves, with a newer one beside it."""
    (bundles / CURRENT).write_text(f"{tiny_bundle.name}\n")
    shutil.copytree(other_bundle, bundles / other_bundle.name)
    return bundles


@pytest.mark.parametrize("workers", [1, 2])
def test_a_shadow_is_compared_with_what_was_answered(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, rows: list[Any],
    expected: dict[str, list[float]], workers: int,
) -> None:  # fmt: skip
    """Every request is the live bundle's; the figures are those of both scoring the same rows."""
    admin = start_admin(pinned, workers=workers)
    answer = admin.client.post(f"/bundles/{other_bundle.name}/shadow", json={"share": 1})
    assert answer.status_code == 200, answer.text
    assert admin.states()[other_bundle.name] == "shadow"
    few, many = rows[0], rows[1:31]
    for asked in ([few], many):
        found = strict(admin.service.post("/predict", {"instances": asked}).content)
        assert found["version"] == tiny_bundle.name
    body = {
        "context": context_of(few),
        "candidates": [{"id": str(n), "features": candidate_of(row)} for n, row in enumerate(many)],
    }
    assert len(admin.service.rank(**body)) == len(many)

    def shown() -> Any:
        return (admin.trial() or {})["shadow"]

    wait_until(lambda: sum(shown()["requests"].values()) == 3, "all have been looked at", 30)
    told = shown()
    assert told["requests"]["failed"] == 0
    if told["requests"]["scored"] == 3:
        assert told["rows"] == 2 * len(many) + 1
        assert 0 <= told["shared_top"] <= 1
        assert told["engine_ms"] > 0
    metrics = admin.service.metrics()
    name = f'version="{other_bundle.name}"'
    scored = metrics[f'ctr_shadow_requests_total{{outcome="scored",{name}}}']
    assert scored == told["requests"]["scored"]
    assert metrics[f"ctr_shadow_logit_difference_count{{{name}}}"] == told["rows"]
    assert metrics["ctr_rows_total"] <= 2 * len(many) + 1, "a shadow's rows are no answers"


def test_the_figures_of_a_shadow_are_true(
    start_admin: StartAdmin, pinned: Path, tiny_bundle: Path, other_bundle: Path, rows: list[Any],
    expected: dict[str, list[float]],
) -> None:  # fmt: skip
    """One request at a time always finds idle time."""
    admin = start_admin(pinned)
    path = f"/bundles/{other_bundle.name}"
    assert admin.client.post(f"{path}/shadow", json={"share": 1}).status_code == 200
    for number, row in enumerate(rows, 1):
        admin.service.predict([row])
        wait_until(lambda n=number: sum(shown(admin)["requests"].values()) == n, "it is scored")  # type: ignore[misc]
    told = shown(admin)
    assert told["requests"]["scored"] == len(rows)
    live, shadow = expected[tiny_bundle.name], expected[other_bundle.name]
    away = np.array(logits(shadow)) - np.array(logits(live))
    assert told["logit_shift"] == pytest.approx(away.mean(), abs=1e-4)
    assert told["mean_score"] == pytest.approx(np.mean(shadow), abs=COMPANY)
    assert told["live_mean_score"] == pytest.approx(np.mean(live), abs=COMPANY)
    for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
        exact = float(np.percentile(np.abs(away), share, method="inverted_cdf"))
        assert exact * 0.99 <= told["logit_difference"][name] <= 1.34 * exact
    assert admin.canary(other_bundle.name, share=1.0).status_code == 200, "it may become a canary"
    assert admin.states()[other_bundle.name] == "canary"
    answer = strict(admin.service.post("/predict", {"instances": [rows[0]]}).content)
    assert answer["version"] == (other_bundle if "user_id" in rows[0] else tiny_bundle).name
    assert admin.client.post(f"{path}/stop").status_code == 200


def shown(admin: Any) -> dict[str, Any]:
    return dict((admin.trial() or {})["shadow"])


def test_a_shadow_ranks_the_catalogue_of_its_own_bundle(
    start_admin: StartAdmin, start_service: StartService, pinned: Path, other_bundle: Path,
    sample: Sample, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """By id, as a canary does, whose scores are those of a service that serves it alone."""
    url = f"sqlite://{tmp_path_factory.mktemp('store')}/store.db"
    items = {str(number): candidate_of(row) for number, row in enumerate(sample.rows[:40])}
    with closing(open_store(url, create=True)) as store:
        store.put([Item(name, features) for name, features in items.items()])
    admin = start_admin(pinned, store=url)
    body = {"context": context_of(sample.rows[0]), "candidates": {"ids": list(items)}}
    body["context"]["user_id"] = 7
    path = f"/bundles/{other_bundle.name}"
    assert admin.client.post(f"{path}/shadow", json={"share": 1}).status_code == 200
    admin.service.rank(**body)
    wait_until(lambda: sum(shown(admin)["requests"].values()) == 1, "it is looked at", 30)
    assert shown(admin)["requests"]["scored"] == 1
    assert shown(admin)["rows"] == len(items)
    assert admin.canary(other_bundle.name, share=1.0).status_code == 200
    alone = start_service(other_bundle, store=url).rank(**body)
    found = admin.service.rank(**body)
    assert [each["id"] for each in found] == [each["id"] for each in alone]
    for one, two in zip(found, alone, strict=True):
        assert one["score"] == pytest.approx(two["score"], abs=COMPANY)


def test_a_share_is_asked_for(start_admin: StartAdmin, pinned: Path, other_bundle: Path) -> None:
    admin = start_admin(pinned)
    for body in ({}, {"share": 0}, {"share": 2}, {"share": 0.1, "key": "user_id"}):
        error_of(admin.client.post(f"/bundles/{other_bundle.name}/shadow", json=body), 422)
