"""A field that is known in training only, from the click log to the service."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from model.config import TrainConfig
from model.score_files import Offline
from tests.conftest import StartService
from tests.support.samples import SPEC, Sample
from tests.support.serving import strict
from tests.support.swaps import COMPANY
from tests.support.trained import trained

pytestmark = pytest.mark.slow
CONFIG = TrainConfig(
    embedding_size=4, hidden=(8,), batch_size=256, epochs=1, learning_rate=0.02, threads=1
)


@pytest.fixture(scope="module")
def bundle(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("known")
    spec = directory / "known.toml"
    spec.write_text(SPEC.replace('name = "placement"\n', 'name = "placement"\nserve = "top"\n'))
    return trained(spec, sample.data, CONFIG, directory / "bundles")


@pytest.mark.e2e
def test_a_request_has_the_value_whatever_it_says(
    start_service: StartService, bundle: Path, sample: Sample
) -> None:
    """Left out, wrong or of another type; golden requests agree, and the documentation says so."""
    service = start_service(bundle)
    row = {**sample.rows[0], "placement": "top"}
    others = [{**row, "placement": value} for value in ("side", None, 7, [], {"a": 1}, "x" * 300)]
    absent = {name: value for name, value in row.items() if name != "placement"}
    first, *rest = service.predict([row, absent, *others])
    assert rest == pytest.approx([first] * len(rest), abs=COMPANY)
    document = strict(service.client.get("/openapi.json").content)
    assert "counts as 'top'" in str(document)


def test_training_and_its_figures_have_the_rows_own_values(bundle: Path, sample: Sample) -> None:
    """The placement decides a fifth of the clicks: a figure without it would be another one."""
    opened, offline = Bundle.open(bundle), Offline.open(bundle)
    told = opened.manifest.metrics["test"]
    found = offline.evaluate(offline.frames([sample.data], "test"))
    assert found.auc == pytest.approx(told["auc"], abs=1e-6)
    assert found.log_loss == pytest.approx(told["log_loss"], abs=1e-6)
    histogram = opened.manifest.statistics["placement"].histogram
    assert histogram is not None
    assert len([count for count in histogram.counts or () if count]) == 2
