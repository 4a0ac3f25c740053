"""Every network of the family, trained, exported and served under the one contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.bundle import Bundle
from model.config import NETWORKS, TrainConfig
from model.pipeline import Inputs, Offline, Prepared, prepare, run
from tests.conftest import Sample, StartService
from tests.parity import Check

pytestmark = pytest.mark.e2e
QUICK = TrainConfig(
    embedding_size=4, hidden=(16,), batch_size=256, epochs=2, learning_rate=0.02, threads=1
)
ROWS = 200


@pytest.fixture(scope="module")
def prepared(sample: Sample) -> Prepared:
    return prepare(sample.spec, Inputs([sample.data]))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "deepfm"])
def test_a_network_scores_the_same_offline_and_online(
    name: str, prepared: Prepared, sample: Sample, tmp_path: Path, start_service: StartService
) -> None:
    """Its golden examples reproduce, and rows agree alone, in batches, shuffled and ranked.

    (DeepFM is the network of all other tests.)
    """
    bundle = run(prepared, replace(QUICK, network=name), tmp_path, progress=False)
    assert len(Bundle.open(bundle).examples) > 0
    service = start_service(bundle)
    assert service.client.get("/model").json()["network"] == name
    offline = Offline.open(bundle)
    with httpx.Client(base_url=service.url, timeout=30) as client:
        figures = Check(offline, [sample.data], ROWS, client).run()
    assert max(figures.values()) <= offline.engine.tolerance, figures
    assert service.stop() == 0
