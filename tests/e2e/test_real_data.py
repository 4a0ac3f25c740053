"""Real click logs, from the file to the answer: training and serving agree on every row."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config import TrainConfig
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.pipeline import run
from model.score_files import Offline
from tests.conftest import StartService
from tests.drills.parity import Check
from tests.support import realdata

pytestmark = pytest.mark.e2e
QUICK = TrainConfig(embedding_size=8, hidden=(32,), epochs=1, batch_size=4096, threads=1)


@pytest.mark.parametrize("name", ["criteo", "avazu", "frappe"])
def test_real_rows_score_the_same_offline_and_online(
    name: str, tmp_path: Path, start_service: StartService
) -> None:
    """1,000 real rows agree within the tolerance, alone, in batches, shuffled, ranked."""
    files = realdata.files(name, tmp_path)
    spec = realdata.SPECS / f"{name}.toml"
    bundle = run(
        prepare(spec, InputFiles(files[-1:], mode="random")), QUICK, tmp_path, progress=False
    )
    offline = Offline.open(bundle)
    service = start_service(bundle)
    figures = Check(offline, files[-1:], 1000, service.client).run()
    assert max(figures.values()) <= offline.engine.tolerance, figures
