"""A click log with weights, from the files to the figures of a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.bundle.bundle import Bundle
from model.config import TrainConfig
from model.score_files import Offline
from tests.support.samples import SPEC, Sample
from tests.support.trained import trained

pytestmark = pytest.mark.slow
CONFIG = TrainConfig(
    embedding_size=4, hidden=(8,), batch_size=256, epochs=2, learning_rate=0.02, threads=1
)


def test_weights_reach_the_figures(sample: Sample, tmp_path: Path) -> None:
    """Those of the manifest and of ``evaluate``, which scikit-learn computes too; the mean score is
    the weighted click rate, and the vocabulary that of rows."""
    from sklearn.metrics import roc_auc_score  # a second of import, wanted here only

    spec, data = tmp_path / "weighted.toml", tmp_path / "clicks.csv"
    spec.write_text(SPEC.replace('timestamp = "time"\n', 'timestamp = "time"\nweight = "worth"\n'))
    frame = pl.read_csv(sample.data, infer_schema=False)
    weight = np.where(frame["click"] == "1", 3.0, 1.0) * np.random.default_rng(1).uniform(
        0.5, 2, frame.height
    )
    frame.with_columns(pl.Series("worth", weight)).write_csv(data)
    bundle = trained(spec, data, CONFIG, tmp_path / "bundles")
    opened, offline = Bundle.open(bundle), Offline.open(bundle)
    told = opened.manifest.metrics["test"]
    found = offline.evaluate(offline.frames([data], "test"))
    for name in ("auc", "auc_lower", "auc_upper", "log_loss", "calibration", "calibration_error"):
        assert found.to_dict()[name] == pytest.approx(told[name], abs=1e-6), name
    assert found.rows == told["rows"]
    assert 0.8 < found.calibration < 1.25  # type: ignore[operator]
    tests = list(offline.frames([data], "test"))
    label = np.concatenate([each["click"].cast(pl.Int64).to_numpy() for each in tests])
    worth = np.concatenate([each["worth"].cast(pl.Float64).to_numpy() for each in tests])
    out = tmp_path / "scores.parquet"
    rows = pl.concat(each.drop("worth") for each in tests)
    rows.select(pl.exclude("^\0.*$")).write_csv(tmp_path / "test.csv")
    offline.predict([tmp_path / "test.csv"], out, 0.0)
    scores = pl.read_parquet(out)["logit"].to_numpy()
    expected = roc_auc_score(label, scores, sample_weight=worth)
    assert found.auc == pytest.approx(expected, abs=1e-5)
    plain = trained(sample.spec, sample.data, CONFIG, tmp_path / "plain")
    slots = Bundle.open(plain).vocabulary.layout.slots
    assert [each.size for each in opened.vocabulary.layout.slots] == [each.size for each in slots]
