"""Every network of the family, trained, exported and served under the one contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.store.sqlite import SqliteStore
from app.store.store import Item
from model.config import NETWORKS, TrainConfig
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.networks import build
from model.pipeline import run
from model.score_files import Offline
from tests.conftest import Sample, StartService
from tests.drills.parity import Check
from tests.support.samples import candidate_of, context_of
from tests.support.serving import Service
from tests.support.trained import trained

pytestmark = pytest.mark.e2e
QUICK = TrainConfig(
    embedding_size=4, hidden=(16,), batch_size=256, epochs=2, learning_rate=0.02, threads=1
)
ROWS = 200


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "deepfm"])
def test_a_network_scores_the_same_offline_and_online(
    name: str, sample: Sample, tmp_path: Path, start_service: StartService
) -> None:
    """Its golden examples reproduce, and rows agree alone, in batches, shuffled and ranked.

    (DeepFM is the network of all other tests.)
    """
    bundle = trained(sample.spec, sample.data, replace(QUICK, network=name), tmp_path)
    assert len(Bundle.open(bundle).examples) > 0
    served_as_trained(bundle, name, sample, start_service)


def served_as_trained(bundle: Path, name: str, sample: Sample, start_service: StartService) -> None:
    parts, store = bundle.parent / "parts", bundle.parent / "items.db"
    parts.mkdir()
    stored = SqliteStore(store, create=True)
    stored.put([Item(n, candidate_of(row)) for n, row in enumerate(sample.rows[:ROWS])])
    stored.close()
    service = start_service(bundle, store=f"sqlite://{store}", parts_dir=parts)
    assert service.client.get("/model").json()["network"] == name
    check_ids(service, name, sample)
    offline = Offline.open(bundle)
    figures = Check(offline, [sample.data], ROWS, service.client).run()
    assert max(figures.values()) <= offline.engine.tolerance, figures
    assert service.stop() == 0
    assert list(parts.iterdir()) == []


def check_ids(service: Service, name: str, sample: Sample) -> None:
    """Items have the scores that their values have; the network's part of them is held."""
    catalogue = service.client.get("/ready").json()["catalogue"]
    assert catalogue["item_parts"] == catalogue["items"] == ROWS
    values = {n: candidate_of(row) for n, row in enumerate(sample.rows[:ROWS])}
    for row in sample.rows[:20]:
        asked = {"context": context_of(row)}
        by_id, by_values = (
            service.client.post("/rank", json={**asked, "candidates": candidates}).json()
            for candidates in (
                {"ids": list(values)},
                [{"id": number, "features": each} for number, each in values.items()],
            )
        )
        expected = {each["id"]: each["score"] for each in by_values["ranking"]}
        found = {each["id"]: each["score"] for each in by_id["ranking"]}
        assert found == pytest.approx(expected, rel=1e-4)
    body = {**asked, "candidates": {"all": True, "prefilter": 20}}
    answer = service.client.post("/rank", json=body)
    if name in ("fm", "ffm", "deepfm"):
        cut = [each["score"] for each in answer.json()["ranking"]]
        assert len(cut) == 20
        if name != "deepfm":
            # Their first cut is exact.
            assert cut == pytest.approx(sorted(expected.values(), reverse=True)[:20], rel=1e-4)
    else:
        assert answer.status_code == 422
        assert "this network has no first cut" in answer.text


CROSSES = """
[[crosses]]
fields = ["user_id", "item_id"]
min_count = 3

[[crosses]]
fields = ["placement", "time.hour"]

[[crosses]]
fields = ["tags", "country"]

[[crosses]]
fields = ["price", "quality"]
"""


def test_crosses_score_the_same_offline_and_online(
    sample: Sample, tmp_path: Path, start_service: StartService
) -> None:
    """A service that knows nothing of crosses serves them: of both sides, of one, of a list."""
    spec = tmp_path / "crossed.toml"
    spec.write_text(sample.spec.read_text(encoding="utf-8") + CROSSES, encoding="utf-8")
    crossed = prepare(spec, InputFiles([sample.data]))
    config = replace(QUICK, network="wide_deep")
    bundle = run(crossed, config, tmp_path, progress=False)
    training = Bundle.open(bundle).manifest.training
    assert [cross["fields"] for cross in training["crosses"]] == [
        ["user_id", "item_id"], ["placement", "time.hour"], ["tags", "country"],
        ["price", "quality"],
    ]  # fmt: skip
    assert all(cross["pairs"] > 10 for cross in training["crosses"])
    weights = sum(cross["pairs"] + 3 for cross in training["crosses"])
    without = build(crossed.vocabulary.layout, config).parameter_count()
    assert training["parameters"] == without + weights
    served_as_trained(bundle, "wide_deep", sample, start_service)


def test_other_networks_leave_crosses_alone(sample: Sample, tmp_path: Path) -> None:
    """The same bundle comes of a spec with crosses, but for the spec's text."""
    spec = tmp_path / "crossed.toml"
    spec.write_text(sample.spec.read_text(encoding="utf-8") + CROSSES, encoding="utf-8")
    files = []
    for path in (sample.spec, spec):
        found = prepare(path, InputFiles([sample.data]))
        bundle = Bundle.open(run(found, replace(QUICK, network="lr"), tmp_path, progress=False))
        assert bundle.manifest.training["crosses"] == []
        files.append({name: record.sha256 for name, record in bundle.manifest.files.items()})
    plain, crossed = files
    assert {name for name in plain if plain[name] != crossed[name]} == {"features.toml"}
