"""A log of one's own gets to a served ranking by three commands, without a text editor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from app.features.spec import FeatureSpec
from tests.conftest import StartService
from tests.support import realdata
from tests.support.serving import environment
from tests.support.starting import run

pytestmark = [pytest.mark.e2e, pytest.mark.long]
CONFIG = "epochs = 2\nbatch_size = 512\nhidden = [32]\nembedding_size = 8\nthreads = 1\n"


def open_bandit(scratch: Path) -> Path:
    """Impressions of a shop beside what is known of their items, as a join writes them."""
    [log] = realdata.files("open-bandit", scratch)
    items = pl.read_csv(log.with_name("random_all_item_context.csv"), infer_schema=False)
    path = scratch / "shop.csv"
    rows = pl.read_csv(log, infer_schema=False)
    rows.join(items.drop(""), on="item_id", how="left").write_csv(path)
    return path


def renamed_avazu(scratch: Path) -> Path:
    """Avazu with the names that somebody else would give, times in words, and semicolons."""
    [log] = realdata.files("avazu", scratch)
    rows = pl.read_csv(log, infer_schema=False)
    names = {"click": "geklickt", "hour": "Zeitpunkt", "C14": "Anzeige", "site_id": "Seite"}
    path = scratch / "anzeigen.csv"
    hour = pl.col("hour").str
    moment = pl.format(
        "{}.{}.20{} {}:00", hour.slice(4, 2), hour.slice(2, 2), hour.slice(0, 2), hour.slice(6, 2)
    )
    rows.with_columns(moment.alias("hour")).rename(names).write_csv(path, separator=";")
    return path


def test_from_a_log_with_ids_to_a_ranking(tmp_path: Path, start_service: StartService) -> None:
    """``spec``, ``train`` and ``items put`` join a log with the file of its items; the service
    ranks all of them by id."""
    [log] = realdata.files("open-bandit", tmp_path)
    items = log.with_name("random_all_item_context.csv")
    (tmp_path / "quick.toml").write_text(CONFIG)
    spec, bundles = tmp_path / "own.toml", tmp_path / "bundles"
    store = f"sqlite://{tmp_path}/store.db"
    joined = ["--items", items, "--id", "item_id"]
    for words in (
        ["spec", log, "--label", "click", *joined, "--out", spec],
        ["train", spec, log, *joined, "--config", tmp_path / "quick.toml", "--out", bundles],
        ["items", "put", items, "--id", "item_id", "--spec", spec, "--store", store],
    ):
        done = run("model", *words, env=environment(), timeout=600)
        assert done.returncode == 0, done.stderr
    fields = {field.name: field.side for field in FeatureSpec.load(spec).fields}
    of_items = {name for name in pl.read_csv(items).columns if name}
    assert {fields[name] for name in of_items} == {"candidate"}
    service = start_service(bundles, unknown_fields="error", store=store)
    row = pl.read_csv(log, infer_schema=False).row(0, named=True)
    context = {name: row[name] for name, side in fields.items() if side == "context"}
    numbers = {
        field.name for field in FeatureSpec.load(spec).fields if type(field).__name__ == "Numeric"
    }
    context = {n: float(v) if n in numbers and v else v for n, v in context.items()}
    ranking = service.rank(context=context, candidates={"all": True})
    assert len(ranking) == pl.read_csv(items).height
    assert len({place["score"] for place in ranking}) > 10


@pytest.mark.parametrize(
    ("make", "label", "key"),
    [(open_bandit, "click", "item_id"), (renamed_avazu, "geklickt", "Anzeige")],
)
def test_from_a_csv_to_a_ranking(
    make: Any, label: str, key: str, tmp_path: Path, start_service: StartService
) -> None:
    """``spec``, ``train`` and the service; the values of a row of the file are a request."""
    log = make(tmp_path)
    (tmp_path / "quick.toml").write_text(CONFIG)
    spec, bundles = tmp_path / "own.toml", tmp_path / "bundles"
    for words in (
        ["spec", log, "--label", label, "--candidate", key, "--out", spec],
        ["train", spec, log, "--config", tmp_path / "quick.toml", "--out", bundles],
    ):
        done = run("model", *words, env=environment(), timeout=600)
        assert done.returncode == 0, done.stderr
    service = start_service(bundles, unknown_fields="error")
    fields = FeatureSpec.load(spec).fields
    separator = FeatureSpec.load(spec).delimiter or ","
    rows = pl.read_csv(log, infer_schema=False, separator=separator).head(20).to_dicts()

    def values(row: dict[str, Any], side: str) -> dict[str, Any]:
        numeric = {field.name for field in fields if type(field).__name__ == "Numeric"}
        own = {field.name: row[field.name] for field in fields if field.side == side}
        return {
            name: float(value) if name in numeric and value else value
            for name, value in own.items()
        }

    body = {
        "context": values(rows[0], "context"),
        "candidates": [
            {"id": n, "features": values(row, "candidate")} for n, row in enumerate(rows)
        ],
    }
    answer = service.client.post(
        "/rank", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    ranking = answer.json()["ranking"]
    assert sorted(place["id"] for place in ranking) == [*range(20)]
    assert len({place["score"] for place in ranking}) > 1
