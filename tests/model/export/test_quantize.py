"""An int8 graph loses next to nothing, and a row's score in it is its own."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import GRAPH, INT8_GRAPH
from app.errors import BundleError, ProviderError
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.scoring.engine import INT8_TOLERANCE, Engine
from model.config import Quantized
from model.data.dataset import Dataset
from model.data.encode import encode
from model.export.quantize import LEAST_ROWS, Loss, Verdict, measured_loss, write_int8
from model.quality.offline_scoring import batch_of, open_engine, score_dataset
from tests.conftest import Sample
from tests.support.frames import read

pytestmark = pytest.mark.slow

ALONE = 1e-6
"""Largest difference of an int8 logit between a row alone and the row in a batch."""


@dataclass(frozen=True)
class Trained:
    """The shared bundle with both its engines, and rows to score."""

    bundle: Bundle
    encoder: Encoder
    float32: Engine
    int8: Engine
    data: Dataset


@pytest.fixture(scope="module")
def trained(tiny_bundle: Path, sample: Sample) -> Trained:
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    layout = bundle.vocabulary.layout
    return Trained(
        bundle,
        encoder,
        open_engine(bundle.graph, encoder, layout),
        open_engine(bundle.graph_in("int8"), encoder, layout, "int8"),
        encode(bundle.spec, encoder, read(bundle.spec, [sample.data])),
    )


def test_it_is_another_graph_of_nearly_the_same_function(trained: Trained) -> None:
    """Logits move, because products are rounded, but not far."""
    before = score_dataset(trained.float32, trained.data).logit
    after = score_dataset(trained.int8, trained.data).logit
    assert 0 < np.abs(after - before).max() < 0.1 * before.std()


def test_a_row_alone_is_the_row_in_a_batch(trained: Trained) -> None:
    """Scales are fixed: neighbours with large values change nothing."""
    batch = batch_of(trained.data.take(slice(0, 200)))
    together = trained.int8.score(batch).logit
    for size in (1, 2, 3, 7, 64):
        for start in range(0, 200, size):
            rows = slice(start, start + size)
            part = batch.candidate[rows]
            row_context = np.arange(len(part), dtype=np.int32)
            found = trained.int8.score(Batch(batch.context[rows], part, row_context)).logit
            assert np.abs(found - together[rows]).max() <= ALONE


def test_equal_rows_score_equal(trained: Trained) -> None:
    """A row repeated has one score, to the last bit, in batches of every size."""
    batch = batch_of(trained.data.take(slice(0, 1)))
    for size in range(1, 101):
        candidates = np.repeat(batch.candidate, size, axis=0)
        found = trained.int8.score(Batch(batch.context, candidates, np.zeros(size, np.int32)))
        assert len(set(found.logit.tolist())) == 1, f"{size} rows"


def test_golden_examples_hold_its_own_logits(trained: Trained) -> None:
    """Each golden request has a logit of the int8 graph for each of its rows."""
    for example in trained.bundle.examples:
        rows = len(example.candidates)
        found = trained.int8.score(
            Batch(
                np.array([example.context_row], np.int32),
                np.array(example.candidate_rows, np.int32).reshape(rows, -1),
                np.zeros(rows, np.int32),
            )
        )
        assert example.int8_logits is not None
        assert np.abs(found.logit - np.array(example.int8_logits)).max() <= INT8_TOLERANCE


def test_the_manifest_tells_what_was_lost(trained: Trained) -> None:
    """The decision, and each figure with its error, stand in the manifest."""
    (told,) = trained.bundle.manifest.training["int8"]
    assert told["accepted"] is True
    assert told["verdict"] == "undecided"
    assert 0 < told["clicks"] < told["rows"] < 2 * LEAST_ROWS
    assert told["worst_logit_difference"] > 0
    for name in ("auc", "mean"):
        assert abs(told[name]) < 0.1
        assert 0 <= told[f"{name}_error"] < 0.1


def test_the_same_rows_give_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    """Quantising again with the same seed makes the same file; another seed may not."""
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for path in (first, second):
        write_int8(trained.bundle.path / GRAPH, path, trained.float32, trained.data, seed=7)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.iterdir()) == [first, second]


def scores(logit: list[float]) -> Scores:
    array = np.array(logit, np.float32)
    return Scores(array, 1 / (1 + np.exp(-array)))


def test_loss_by_hand() -> None:
    """One swapped pair of four costs a quarter of the pairs; the mean is of the scores."""
    label = np.array([0, 1, 0, 1], np.uint8)
    found = measured_loss(label, scores([-2, -1, 1, 2]), scores([-1, -2, 1, 2]))
    assert (found.rows, found.clicks) == (4, 2)
    assert found.auc == pytest.approx(0.75 - 0.5)
    assert found.auc_error == pytest.approx(math.sqrt(1 / 8))
    assert found.mean == pytest.approx(0, abs=1e-6)
    # Two residuals of so much, one up and one down, beside a mean of a half.
    residual = 1 / (1 + math.exp(1)) - 1 / (1 + math.exp(2))
    assert found.mean_error == pytest.approx(math.sqrt(2 / 3) * residual, rel=1e-5)
    assert found.worst_logit_difference == 1
    assert measured_loss(label, scores([0, 0, 0, 0]), scores([1, 1, 1, 1])).mean == pytest.approx(
        2 / (1 + math.exp(-1)) - 1
    )


SMALL = Loss(10_000, 5_000, auc=0.0, auc_error=1e-5, mean=0.0, mean_error=1e-5,
             worst_logit_difference=0.1)  # fmt: skip
ACCEPTED, REFUSED, UNDECIDED = Verdict


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, ACCEPTED),
        # The bounds of the AUC: 1.645 errors above and below.
        ({"auc": 4.83e-4}, ACCEPTED),
        ({"auc": 4.84e-4}, UNDECIDED),
        ({"auc": 5.16e-4}, UNDECIDED),
        ({"auc": 5.17e-4}, REFUSED),
        ({"auc": -0.5}, ACCEPTED),
        ({"auc_error": 3.03e-4}, ACCEPTED),
        ({"auc_error": 3.05e-4}, UNDECIDED),
        # Those of the mean, in both directions.
        ({"mean": 1.98e-3}, ACCEPTED),
        ({"mean": -1.98e-3}, ACCEPTED),
        ({"mean": 1.99e-3}, UNDECIDED),
        ({"mean": -1.99e-3}, UNDECIDED),
        ({"mean": 2.02e-3}, REFUSED),
        ({"mean": -2.02e-3}, REFUSED),
        ({"mean": -2.02e-3, "auc_error": 1.0}, REFUSED),
        ({"mean": math.nan}, REFUSED),
        ({"auc": math.nan}, REFUSED),
        # Rows of each class.
        ({"clicks": 199}, UNDECIDED),
        ({"clicks": 200}, ACCEPTED),
        ({"clicks": 9_800}, ACCEPTED),
        ({"clicks": 9_801}, UNDECIDED),
        ({"clicks": 199, "auc": 0.5}, UNDECIDED),
    ],
)
def test_the_decision_follows_the_bounds(changed: dict[str, float], verdict: Verdict) -> None:
    """Accepted below both limits, refused beyond one, else undecided; as with too few rows."""
    assert replace(SMALL, **changed).verdict is verdict


@pytest.mark.parametrize(
    ("loss", "quantize", "kept", "words"),
    [
        (SMALL, Quantized.int8, True, r"^the int8 graph loses 0.00000 ± 0.00001 of AUC"),
        (SMALL, Quantized.int8_unmeasured, True, r"^the int8 graph loses"),
        (replace(SMALL, auc=1), Quantized.int8, False, "^the int8 graph is left out: it"),
        (replace(SMALL, auc=1), Quantized.int8_unmeasured, False, "is left out: it"),
        (replace(SMALL, clicks=12), Quantized.int8, False,
         r"left out: 10,000 validation rows, 12 with a click, are too few .*\(200 of each class"
         r".*more validation rows, or .* --quantize int8-unmeasured$"),
        (replace(SMALL, clicks=12), Quantized.int8_unmeasured, True,
         "^the loss of the int8 graph is not known: .* 12 with a click, are too few"),
        (replace(SMALL, auc_error=1), Quantized.int8, False,
         "left out: .* do not tell .* within the limits; .*int8-unmeasured$"),
    ],
)  # fmt: skip
def test_what_is_kept_and_said(loss: Loss, quantize: Quantized, kept: bool, words: str) -> None:
    """An undecided graph is kept where that was asked for; the log says why and what to do."""
    assert loss.kept(quantize) is kept
    assert re.search(words, loss.told(quantize))
    assert loss.described(quantize)["accepted"] is kept


def made(rows: int, noise: float, fall: float = 0.0, seed: int = 1) -> Loss:
    """Return the loss of scores with so much noise, and rows of clicks scored lower by ``fall``."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 1, rows)
    label = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
    after = logit + random.normal(0, noise, rows) - fall * (label - 0.5)
    return measured_loss(label, scores(logit.tolist()), scores(after.tolist()))


def test_more_rows_decide() -> None:
    """A harmless graph is undecided on few rows and accepted on many, a bad one refused on many.

    None is ever decided the wrong way.
    """
    counts = (100, 1_000, 10_000, 100_000)
    good = [[made(rows, 0.01, seed=seed).verdict for seed in range(10)] for rows in counts]
    bad = [
        [made(rows, 0.01, fall=0.01, seed=seed).verdict for seed in range(10)] for rows in counts
    ]
    assert {verdict for each in good for verdict in each} == {ACCEPTED, UNDECIDED}
    assert {verdict for each in bad for verdict in each} == {REFUSED, UNDECIDED}
    assert set(good[0]) == set(bad[0]) == {UNDECIDED}
    assert (set(good[-1]), set(bad[-1])) == ({ACCEPTED}, {REFUSED})
    for found, right in ((good, ACCEPTED), (bad, REFUSED)):
        decided = [each.count(right) for each in found]
        assert decided == sorted(decided)


def test_one_class_has_no_auc_to_lose() -> None:
    """A part of one class leaves the graph undecided; the manifest holds no AUC."""
    label = np.zeros(2, np.uint8)
    found = measured_loss(label, scores([-1, 1]), scores([-1, 1]))
    assert found.verdict is UNDECIDED
    assert found.described(Quantized.int8)["auc"] is None


def test_a_bundle_without_it_is_refused_by_name(trained: Trained) -> None:
    """Asked for an int8 graph that is not there, the bundle says how to get one."""
    files = {n: f for n, f in trained.bundle.manifest.files.items() if n != INT8_GRAPH}
    manifest = msgspec.structs.replace(trained.bundle.manifest, files=files)
    with pytest.raises(BundleError, match="--quantize int8"):
        replace(trained.bundle, manifest=manifest).graph_in("int8")


def test_cuda_is_refused(trained: Trained) -> None:
    """An int8 graph is for the CPU: asking for CUDA is an error, auto says why it is not used."""
    encoder, bundle = trained.encoder, trained.bundle
    words = (bundle.graph_in("int8"), bundle.vocabulary.layout, encoder.context.shape,
             encoder.candidate.shape)  # fmt: skip
    with pytest.raises(ProviderError, match="int8"):
        Engine(*words, provider="cuda", precision="int8")
    assert "int8" in str(Engine(*words, provider="auto", precision="int8").fallback)
