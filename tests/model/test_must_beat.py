"""A training run that must be as good as another bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import GRAPH
from app.features.encoder import Encoder
from model.must_beat import MustBeat, NotBetterError
from model.quality.offline_scoring import open_engine
from tests.support.samples import Sample
from tests.support.starting import run

SETTINGS = "embedding_size = 4\nhidden = [16]\nbatch_size = 256\nepochs = 1\nthreads = 1\n"


@pytest.mark.parametrize(
    ("bounds", "problem"),
    [
        ("[same_test]\n", None),
        ("[golden]\nmean_score_ratio = [1, 1]\nmax_changed_top = 0\n", None),
        ("[test]\nmin_auc = 1\n", "its AUC is 0"),
        ("[golden]\nmean_score_ratio = [1.5, 2]\n", "its mean score of the golden requests is 1.0"),
    ],
)
def test_a_bundle_is_judged_before_it_is_written(
    tiny_bundle: Path, tmp_path: Path, bounds: str, problem: str | None
) -> None:
    """A bundle is as good as itself; bounds that it breaks are told."""
    (tmp_path / "gate.toml").write_text(bounds)
    must_beat = MustBeat.read(tiny_bundle, tmp_path / "gate.toml")
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    engine = open_engine(tiny_bundle / GRAPH, encoder, bundle.vocabulary.layout)
    manifest = bundle.manifest
    description = {
        "metrics": manifest.metrics, "data": manifest.data, "training": manifest.training,
    }  # fmt: skip
    if problem is None:
        must_beat.check(description, bundle.examples, encoder, engine)
    else:
        with pytest.raises(NotBetterError, match=problem):
            must_beat.check(description, bundle.examples, encoder, engine)


@pytest.mark.e2e
def test_what_is_not_better_is_not_written(
    sample: Sample, tiny_bundle: Path, tmp_path: Path
) -> None:
    """The command ends with 3 and a line; no file is left where the bundle would be."""
    config, out = tmp_path / "short.toml", tmp_path / "out"
    config.write_text(SETTINGS)
    gate = tmp_path / "gate.toml"
    gate.write_text("[same_test]\nauc_lost = 1\n[test]\nmin_auc = 1\n")
    words = ("train", sample.spec, sample.data, "--config", config, "--out", out)
    ended = run("model", *words, "--must-beat", tiny_bundle, "--gate", gate)
    assert ended.returncode == 3, ended.stderr
    assert "error: the new bundle is not written: its AUC is " in ended.stderr
    assert ended.stdout == ""
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_gate_needs_a_bundle(sample: Sample, tmp_path: Path) -> None:
    ended = run("model", "train", sample.spec, sample.data, "--gate", tmp_path / "gate.toml")
    assert ended.returncode == 2
    assert "it needs --must-beat" in ended.stderr
