"""Tables of the documentation have what the program has, and no more."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import chain
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.errors import SpecError
from app.features.spec import FeatureSpec
from app.settings import Settings
from app.store.sqlite import SqliteStore
from model.config import FEW, OWN, TrainConfig
from model.draft.toml_text import field_table
from scripts.made_up_log import SHOP
from tests.conftest import StartService
from tests.docs.settings_page import PAGE, page
from tests.support.feedback import key_file
from tests.support.markdown import ROOT, table
from tests.support.redis_server import RedisServer

TRAINING = ROOT / "docs" / "training.md"
FEATURE_SPEC = ROOT / "docs" / "feature-spec.md"
METRICS = ROOT / "docs" / "metrics.md"
HTTP = ROOT / "docs" / "http.md"


def toml(value: object) -> str:
    """A default as the table of training settings writes it."""
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def test_settings_are_those_of_the_service() -> None:
    """docs/settings.md is written by ``python -m tests.docs.settings_page``."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_training_settings_are_those_of_the_trainer() -> None:
    """Every setting, in order, with its default, that for few rows and those of networks."""
    by_network: dict[str, dict[str, list[str]]] = {}
    for network, own in OWN.items():
        for name, value in own.items():
            by_network.setdefault(name, {}).setdefault(toml(value), []).append(network)
    expected = [
        [
            f"`{field.name}`",
            toml(field.default),
            toml(FEW[field.name]) if field.name in FEW else "",
            "; ".join(
                f"{', '.join(networks)} {value}"
                for value, networks in by_network.get(field.name, {}).items()
            ),
        ]
        for field in fields(TrainConfig)
    ]
    found = table(TRAINING, "Training settings")
    assert [row[:4] for row in found] == expected
    assert all(row[4] for row in found), "each says when to change it"


def test_the_errors_of_a_spec_are_as_shown() -> None:
    """The example of docs/feature-spec.md: three mistakes in a spec of the made-up log."""
    spec = "\n".join(["label = 'click'", *chain(*(field_table(each, {}) for each in SHOP.fields))])
    item = 'name = "item_id"\nkind = "categorical"\n'
    wrong = (
        spec.replace('dtype = "integer"', 'dtype = "int"', 1)
        .replace(f'{item}side = "candidate"\n', item)
        .replace('kind = "numeric"\n', 'kind = "numeric"\nbucket = 32\n')
    )
    with pytest.raises(SpecError) as caught:
        FeatureSpec.parse(wrong, "clicks.toml")
    assert f"```text\nerror: {caught.value}\n```" in FEATURE_SPEC.read_text(encoding="utf-8")


def test_limits_name_settings_that_exist() -> None:
    """The table of limits names settings of the service only."""
    named = set(re.findall(r"CTR_[A-Z_]+", HTTP.read_text(encoding="utf-8")))
    assert named <= {f"CTR_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.e2e
def test_every_metric_is_documented(
    start_service: StartService, valkey: RedisServer, tmp_path: Path
) -> None:
    """docs/metrics.md names each metric that a service with Redis and a store shows, no other."""
    SqliteStore(tmp_path / "store.db", create=True).close()
    store = f"sqlite://{tmp_path / 'store.db'}"
    everything = {
        "redis_url": valkey.url, "store": store, "profile_key": "user_id",
        "request_log": tmp_path / "requests",
        "feedback": tmp_path / "events", "feedback_key_file": key_file(tmp_path),
    }  # fmt: skip
    text = start_service(**everything).client.get("/metrics").text
    shown = set()
    for family in text_string_to_metric_families(text):
        total = "_total" if family.type == "counter" else ""
        shown.add(family.name.removesuffix("_total") + total)
    named = {
        re.sub(r"_bucket$", "", name)
        for name in re.findall(r"(?:ctr|process)_[a-z_]*[a-z]", METRICS.read_text(encoding="utf-8"))
    }
    assert shown == named - {"ctr_redis", "ctr_vocabulary"}
