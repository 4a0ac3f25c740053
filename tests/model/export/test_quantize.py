"""An int8 graph loses next to nothing, and a row's score in it is its own."""

from __future__ import annotations

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
from model.data.dataset import Dataset
from model.data.encode import encode
from model.export.quantize import LARGEST_AUC_LOSS, LARGEST_MEAN_CHANGE, Loss, loss, write_int8
from model.quality.offline_scoring import batch_of, open_engine, score_dataset
from tests.conftest import Sample
from tests.support.frames import read

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
    """Loss of AUC, change of the mean and the worst logit stand in the manifest."""
    (told,) = trained.bundle.manifest.training["int8"]
    assert told["accepted"] is True
    assert told["auc"] <= LARGEST_AUC_LOSS
    assert abs(told["mean"]) <= LARGEST_MEAN_CHANGE
    assert told["worst_logit_difference"] > 0


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
    found = loss(label, scores([-2, -1, 1, 2]), scores([-1, -2, 1, 2]))
    assert found.auc == pytest.approx(0.75 - 0.5)
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.worst_logit_difference == 1
    assert not found.accepted


def test_what_loses_too_much_is_not_accepted() -> None:
    """Each bound counts by itself, and nothing that is no number passes."""
    good = Loss(auc=LARGEST_AUC_LOSS, mean=-LARGEST_MEAN_CHANGE, worst_logit_difference=1.0)
    assert good.accepted
    assert not replace(good, auc=1.01 * LARGEST_AUC_LOSS).accepted
    assert not replace(good, mean=1.01 * LARGEST_MEAN_CHANGE).accepted
    assert not replace(good, mean=-1.01 * LARGEST_MEAN_CHANGE).accepted
    assert not replace(good, mean=float("nan")).accepted


def test_one_class_has_no_auc_to_lose() -> None:
    """A part of zeros alone is judged by its mean."""
    label = np.zeros(2, np.uint8)
    assert loss(label, scores([-1, 1]), scores([-1, 1])).accepted


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
