"""Calibrated scores are right on average, in the logits' order, and the graph's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.bundle.manifest import Precision
from app.errors import BundleError
from app.features.encoder import Encoder
from app.serving.golden import verify_examples
from model.config import ConfigError, TrainConfig
from model.data.dataset import Dataset
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.pipeline import run
from model.quality.calibration import (
    BINS,
    STEEPEST,
    CalibratedLogit,
    Calibration,
    CalibrationError,
)
from model.quality.figures import auc, log_loss, reliability, sigmoid
from model.quality.offline_scoring import open_engine, score_dataset
from model.score_files import Offline
from tests.conftest import Sample, StartService
from tests.drills.parity import Check
from tests.support.trained import trained

pytestmark = pytest.mark.slow

METHODS = ("platt", "isotonic")
QUICK = TrainConfig(
    embedding_size=4, hidden=(16,), batch_size=256, epochs=3, learning_rate=0.02, threads=1,
)  # fmt: skip

FLAT = replace(QUICK, epochs=1, learning_rate=0.005)
"""Ends before its scores are as far apart as the click rates: calibration gains 0.01."""


def rows_of(label: NDArray[np.uint8]) -> Dataset:
    """Rows of which only the labels matter."""
    index = np.zeros((len(label), 1), np.int32)
    return Dataset(index, index, (), (), label)


def overconfident(rows: int, seed: int) -> tuple[Dataset, NDArray[np.float32]]:
    """Rows whose true logit is half of the one given, less one."""
    random = np.random.default_rng(seed)
    logit = random.normal(-2, 1.5, rows)
    label = random.random(rows) < sigmoid(0.5 * logit - 1)
    return rows_of(label.astype(np.uint8)), logit.astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_wrong_in_the_logits_is_put_right(method: str) -> None:
    """On other rows the scores have nearly the loss and the mean of the truth, and its bins."""
    calibration = Calibration.fit(method, *overconfident(20_000, 1))
    data, logit = overconfident(50_000, 2)
    found = calibration.apply(logit)
    truth = log_loss(data.label, 0.5 * logit - 1)
    assert log_loss(data.label, logit) > 1.05 * truth
    assert log_loss(data.label, found) < 1.002 * truth
    bins = reliability(data.label, found)
    assert np.abs(bins.predicted / bins.observed - 1).max() < 0.25
    assert sigmoid(found).mean() == pytest.approx(data.label.mean(), rel=0.03)
    assert auc(data.label, found) == pytest.approx(auc(data.label, logit), abs=1e-6)


def test_platt_finds_the_line() -> None:
    """Slope and intercept are those that the labels were drawn with."""
    calibration = Calibration.fit("platt", *overconfident(100_000, 1))
    assert calibration.slopes == pytest.approx((0.5, 0.5), abs=0.02)
    assert calibration.apply(np.zeros(1)) == pytest.approx([-1], abs=0.04)


def test_isotonic_follows_what_no_line_does() -> None:
    """A rate that rises in two steps is found where a line stays off."""
    random = np.random.default_rng(1)
    logit = random.normal(0, 2, 40_000).astype(np.float32)
    rate = np.where(logit < -1, 0.05, np.where(logit < 1, 0.3, 0.35))
    data = rows_of((random.random(40_000) < rate).astype(np.uint8))
    losses = [
        log_loss(data.label, Calibration.fit(method, data, logit).apply(logit))
        for method in METHODS
    ]
    assert losses[1] < losses[0] - 0.002
    assert 3 <= len(Calibration.fit("isotonic", data, logit).knots) <= BINS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.02, 0.1, 10.0])
@pytest.mark.parametrize("moved", [-5.0, 0.0, 3.0])
def test_squeezed_logits_get_the_same_scores(method: str, factor: float, moved: float) -> None:
    """Calibration has no scale of its own: a tenth of every logit gives the same scores."""
    data, logit = overconfident(20_000, 1)
    other, given = overconfident(50_000, 2)
    expected = Calibration.fit(method, data, logit).apply(given)
    found = Calibration.fit(method, data, moved + factor * logit).apply(moved + factor * given)
    np.testing.assert_allclose(sigmoid(found), sigmoid(expected), rtol=0.01)
    assert log_loss(other.label, found) == pytest.approx(log_loss(other.label, expected), rel=1e-5)
    assert log_loss(other.label, found) < 1.002 * log_loss(other.label, 0.5 * given - 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("squeezed", [1.0, 0.02])
@pytest.mark.parametrize("seed", range(3))
def test_the_graph_keeps_the_order_of_any_two_logits(
    method: str, squeezed: float, seed: int
) -> None:
    """Neighbouring float32 logits never change places, at the knots and far beyond them."""
    data, logit = overconfident(3_000, seed)
    logit = (logit * squeezed).astype(np.float32)
    calibration = Calibration.fit(method, data, logit)
    assert max(calibration.slopes) * logit.std() < STEEPEST
    assert min(calibration.slopes) > 0
    knots = np.array(calibration.knots, np.float32)
    near = [np.nextafter(knots, np.float32(way)) for way in (-np.inf, np.inf)]
    wide = np.linspace(-60, 60, 100_001, dtype=np.float32)
    every = np.sort(np.concatenate([logit, knots, *near, wide]))
    found = CalibratedLogit(calibration)(torch.from_numpy(every)).numpy()
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found, calibration.apply(every), rtol=1e-6, atol=2e-5)
    # Each row alone gets what it gets among others, to the last bit.
    module = CalibratedLogit(calibration)
    alone = [module(torch.from_numpy(every[i : i + 1])).item() for i in range(0, len(every), 999)]
    assert alone == found[::999].tolist()


def test_rows_left_out_count() -> None:
    """Of thinned rows the rate is that of all: a tenth of the negatives there, each for ten."""
    data, logit = overconfident(100_000, 3)
    kept = np.flatnonzero((data.label == 1) | (np.arange(len(data)) % 10 == 0))
    thinned = replace(data.take(kept), kept=0.1)
    for method in METHODS:
        calibration = Calibration.fit(method, thinned, logit[kept])
        assert sigmoid(calibration.apply(logit)).mean() == pytest.approx(
            data.label.mean(), rel=0.03
        )


def test_no_rate_is_impossible() -> None:
    """A lowest bin without a click and a highest of nothing else give no score of 0 or 1."""
    logit = np.linspace(-3, 3, 1_000, dtype=np.float32)
    data = rows_of((logit > 0).astype(np.uint8))
    score = sigmoid(Calibration.fit("isotonic", data, logit).apply(logit))
    assert 0 < score.min() < 0.02
    assert 0.98 < score.max() < 1


@pytest.mark.parametrize("method", METHODS)
def test_a_part_that_tells_nothing_is_refused(method: str) -> None:
    """One class, logits all alike, clicks rarer with the logit: an error says which it is."""
    data, logit = overconfident(2_000, 1)
    with pytest.raises(CalibrationError, match="one class"):
        Calibration.fit(method, rows_of(np.zeros(9, np.uint8)), logit[:9])
    for factor in (-1, -0.02):
        with pytest.raises(CalibrationError, match=r"must be above 0|not become more frequent"):
            Calibration.fit(method, data, factor * logit)
    for flat in (np.full_like(logit, -2), logit / 10_000):
        with pytest.raises(CalibrationError, match="are all alike: their standard deviation is"):
            Calibration.fit(method, data, flat)
    apart = np.where(data.label == 1, 3, -3) + logit / 100
    if method == "platt":
        with pytest.raises(CalibrationError, match="and at most 8"):
            Calibration.fit(method, data, apart)


def test_few_rows_move_the_logits_alone() -> None:
    """Too few rows for two bins give a shift, which is all that they are worth."""
    data, logit = overconfident(80, 1)
    calibration = Calibration.fit("isotonic", data, logit)
    assert calibration.slopes == (1.0, 1.0)
    assert calibration.apply(np.array(calibration.knots)) == pytest.approx(
        np.log(data.label.mean() / (1 - data.label.mean()))
    )


def test_an_unknown_method_is_refused() -> None:
    """The message names the setting and what it may be."""
    with pytest.raises(ConfigError, match="calibration: must be one of none, platt, isotonic"):
        TrainConfig(calibration="beta")


@pytest.fixture(scope="module")
def prepared(sample: Sample) -> Prepared:
    return prepare(sample.spec, InputFiles([sample.data]))


MakeBundle = Callable[[str], Path]


@pytest.fixture(scope="module")
def bundle_of(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Bundles that differ in calibration alone, each made once; all have an int8 graph."""
    made: dict[str, Path] = {}

    def make(method: str) -> Path:
        if method not in made:
            config = replace(FLAT, calibration=method)
            out = tmp_path_factory.mktemp(method)
            made[method] = trained(sample.spec, sample.data, config, out, int8=True)
        return made[method]

    return make


@pytest.mark.parametrize("method", METHODS)
def test_only_the_score_is_calibrated(bundle_of: MakeBundle, method: str, sample: Sample) -> None:
    """Logits and AUC are those without; the validation part's score has its click rate."""
    plain, found = Bundle.open(bundle_of("none")), Offline.open(bundle_of(method))
    manifest = found.bundle.manifest
    assert [each.logits for each in plain.examples] == [
        each.logits for each in found.bundle.examples
    ]
    for part in ("train", "validation", "test"):
        before, after = plain.manifest.metrics[part], manifest.metrics[part]
        assert after["auc"] == pytest.approx(before["auc"], abs=1e-6)
        assert found.evaluate(found.frames([sample.data], part)).to_dict() == after
    assert manifest.metrics["validation"]["calibration"] == pytest.approx(1, abs=0.02)
    assert (
        manifest.metrics["validation"]["log_loss"]
        < plain.manifest.metrics["validation"]["log_loss"]
    )
    assert manifest.training["calibration"]["method"] == method
    assert plain.manifest.training["calibration"] is None
    assert {each.scores for each in plain.examples} == {None}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_golden_scores_are_checked(
    bundle_of: MakeBundle, method: str, precision: Precision, tmp_path: Path
) -> None:
    """Each precision reproduces its own calibrated scores; others are refused."""
    bundle = Bundle.open(bundle_of(method))
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    layout = bundle.vocabulary.layout
    engine = open_engine(bundle.graph_in(precision), encoder, layout, precision)
    assert verify_examples(bundle, encoder, engine, engine.tolerance, precision) <= engine.tolerance
    first = bundle.examples[0]
    assert bundle.steepest == pytest.approx(max(bundle.manifest.training["calibration"]["slopes"]))
    moved = [score * 1.05 for score in first.expected_scores(precision) or []]
    name = "scores" if precision == "float32" else "int8_scores"
    wrong = replace(
        bundle, examples=(msgspec.structs.replace(first, **{name: moved}), *bundle.examples[1:])
    )
    with pytest.raises(BundleError, match="golden example 1 has another calibrated score"):
        verify_examples(wrong, encoder, engine, engine.tolerance, precision)


@pytest.mark.e2e
@pytest.mark.parametrize("method", METHODS)
def test_training_prediction_and_ranking_agree(
    bundle_of: MakeBundle, method: str, sample: Sample, start_service: StartService
) -> None:
    """Calibrated scores are the same offline and by every way of asking; /rank has their order."""
    bundle = bundle_of(method)
    service = start_service(bundle)
    offline = Offline.open(bundle)
    figures = Check(offline, [sample.data], 200, service.client).run()
    document = service.client.get("/openapi.json").json()
    allowed = offline.bundle.steepest * offline.engine.tolerance
    assert max(figures.values()) <= allowed, figures
    operation = document["paths"]["/predict"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["example"]
    shown = operation["responses"]["200"]["content"]["application/json"]["example"]
    answer = service.post("/predict", msgspec.json.encode(asked)).json()
    assert answer["predictions"] == pytest.approx(shown["predictions"], abs=1e-5)
    assert service.stop() == 0


@pytest.mark.parametrize("name", ["lr", "fnn", "wide_deep"])
def test_any_network_is_calibrated(name: str, prepared: Prepared, tmp_path: Path) -> None:
    """Each network's graph carries the calibration; its scores are those of the manifest."""
    config = replace(QUICK, network=name, calibration="isotonic", negative_rate=0.5)
    offline = Offline.open(run(prepared, config, tmp_path, progress=False))
    scores = score_dataset(offline.engine, prepared.data["validation"])
    assert offline.calibration is not None
    expected = sigmoid(offline.calibration.apply(scores.logit))
    np.testing.assert_allclose(scores.score, expected, rtol=1e-5)
    assert float(np.abs(sigmoid(scores.logit) - scores.score).max()) > 1e-4
