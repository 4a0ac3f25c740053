"""A network trained on a part of the rows without a click predicts the rate of all rows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from app.errors import SpecError
from app.features.layout import Layout, Slot
from app.features.spec import DataPart, FeatureSpec
from model.config import SHALLOW, TrainConfig
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.pipeline import run
from model.quality.figures import auc, log_loss, sigmoid
from model.score_files import Offline
from model.training.evaluation import predict
from model.training.fit import fit
from model.training.sampling import Sampling
from model.training.trainer import cut
from tests.support.networks import long_but
from tests.support.samples import SPEC, Sample

pytestmark = pytest.mark.slow

USERS, ITEMS, GENRES = 20, 30, 5
LAYOUT = Layout(
    context=(Slot("user", "user", 1, 2 + USERS),),
    candidate=(Slot("item", "item", 23, 2 + ITEMS),),
    context_lists=(),
    candidate_lists=(Slot("genres", "genres", 55, 2 + GENRES),),
)
CONFIG = TrainConfig(
    embedding_size=4, hidden=(8,), dropout=0.1, batch_size=512, epochs=1,
    metric="log_loss", threads=1,
)  # fmt: skip
RATE = 0.1


def clicks(rows: int, seed: int) -> Dataset:
    """Rows of which about one in sixteen is a click, by user, item and genres."""
    random, taste = np.random.default_rng(seed), np.random.default_rng(0)
    user, item = random.integers(0, USERS, rows), random.integers(0, ITEMS, rows)
    genres = random.integers(0, GENRES, (rows, 2))
    logit = (
        -3.3
        + taste.normal(0, 0.6, USERS)[user]
        + taste.normal(0, 0.6, ITEMS)[item]
        + taste.normal(0, 0.5, GENRES)[genres].mean(1)
    )
    return Dataset(
        (user[:, None] + 3).astype(np.int32), (item[:, None] + 25).astype(np.int32), (),
        ((genres + 57).astype(np.int32),), (random.random(rows) < sigmoid(logit)).astype(np.uint8),
    )  # fmt: skip


def thinned(data: Dataset, rate: float) -> Dataset:
    """The rows that are left when a log keeps a share of those without a click."""
    kept = np.random.default_rng(9).random(len(data)) < rate
    return replace(data.take(np.flatnonzero(kept | (data.label == 1))), kept=rate)


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset, Dataset]:
    """Training, validation and test rows."""
    return clicks(100_000, 1), clicks(20_000, 2), clicks(40_000, 3)


def settings(name: str) -> TrainConfig:
    rate, l2 = (0.02, 0.001) if name in SHALLOW else (0.003, 0.01)
    return replace(CONFIG, network=name, learning_rate=rate, embedding_l2=l2)


SEEDS = 3
"""Trainings of which the best is compared: one alone may end 0.01 of AUC below what its network
can learn (PNN*: a standard deviation of 0.005)."""


class Full(NamedTuple):
    """A network that has learnt from all rows, and the best AUC of its seeds on the test rows."""

    name: str
    auc: float


@pytest.fixture(scope="module", params=long_but("fm"))
def full(request: pytest.FixtureRequest, parts: tuple[Dataset, Dataset, Dataset]) -> Full:
    train, validation, test = parts
    areas = []
    for seed in range(SEEDS):
        config = replace(settings(request.param), seed=seed)
        result = fit(LAYOUT, train, validation, config, progress=False)
        area = auc(test.label, predict(result.network, test))
        assert area is not None
        assert area > 0.65, "nothing was learnt"
        areas.append(area)
    return Full(request.param, max(areas))


@pytest.mark.parametrize("where", ["in training", "in the files"])
def test_a_tenth_of_the_negatives_teaches_the_true_rate(
    full: Full, where: str, parts: tuple[Dataset, Dataset, Dataset]
) -> None:
    """The mean score is within 5 % of the click rate, and the AUC within noise of that of all."""
    every, validation, test = parts
    train = every
    config = replace(settings(full.name), epochs=6, batch_size=256)
    if where == "in training":
        config = replace(config, negative_rate=RATE)
    else:
        train, validation = thinned(train, RATE), thinned(validation, RATE)
    result = fit(LAYOUT, train, validation, config, progress=False)
    for part in (every, test):
        true = part.label.mean(dtype=np.float64)
        assert 0.03 < true < 0.08
        assert sigmoid(predict(result.network, part)).mean() == pytest.approx(true, rel=0.05)
    areas = [auc(test.label, predict(result.network, test))]
    for seed in range(1, SEEDS):
        other = fit(LAYOUT, train, validation, replace(config, seed=seed), progress=False)
        areas.append(auc(test.label, predict(other.network, test)))
    assert max(filter(None, areas)) == pytest.approx(full.auc, abs=0.01)
    # What is said of the validation part is true of all its rows, those left out included.
    told = log_loss(parts[1].label, predict(result.network, parts[1]))
    assert result.best.log_loss == pytest.approx(told, rel=0.03)


def test_every_epoch_has_all_clicks_and_other_negatives() -> None:
    """A third of the rows without a click, each at most once, other ones in the next epoch."""
    data = clicks(3_000, 5)
    sampling, random = Sampling.of(data, 1 / 3), np.random.default_rng(1)
    first, second = (np.concatenate(list(sampling.draw(random))) for _ in range(2))
    negatives = int((data.label == 0).sum())
    for rows in (first, second):
        assert len(np.unique(rows)) == len(rows) == sampling.rows
        assert data.label[rows].sum() == data.label.sum()
        assert len(rows) - data.label.sum() == round(negatives / 3)
    assert set(first.tolist()) != set(second.tolist())
    assert sampling.shift == pytest.approx(math.log(3), abs=1e-3)


@pytest.mark.parametrize("rate", [1.0, 1 / 3])
def test_many_rows_are_shuffled_block_by_block(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is of a few blocks; an epoch has every row of all, or the promised share."""
    monkeypatch.setattr("model.training.sampling.BLOCK", 16)
    monkeypatch.setattr("model.training.sampling.WINDOW", 64)
    data = clicks(1_000, 5)
    sampling, random = Sampling.of(data, rate), np.random.default_rng(1)
    pieces = list(sampling.draw(random))
    assert len(pieces) == math.ceil(math.ceil(1_000 / 16) / 4)
    for rows in pieces:
        assert len(np.unique(rows // 16)) <= 4
        assert len(rows) < 3 or rows.tolist() != sorted(rows.tolist())
    rows = np.concatenate(pieces)
    assert len(np.unique(rows)) == len(rows) == sampling.rows
    assert data.label[rows].sum() == data.label.sum()
    assert np.concatenate(list(sampling.draw(random))).tolist() != rows.tolist()


@pytest.mark.parametrize("sizes", [[10], [3, 7], [1] * 10, [9, 1], [0, 10, 0]])
@pytest.mark.parametrize("batches", [1, 3, 5, 10])
def test_pieces_are_cut_into_equal_batches(sizes: list[int], batches: int) -> None:
    """However the rows come, batches are those of the whole."""
    whole = np.random.default_rng(1).permutation(10)
    pieces = np.split(whole, np.cumsum(sizes)[:-1])
    found = [batch.tolist() for batch in cut(pieces, 10, batches)]
    assert found == [batch.tolist() for batch in np.array_split(whole, batches)]


def test_all_negatives_need_no_correction() -> None:
    """Without sampling an epoch is a shuffle of all rows and no logit is moved."""
    data = clicks(100, 5)
    sampling = Sampling.of(data, 1.0)
    expected = np.random.default_rng(1).permutation(100)
    (drawn,) = sampling.draw(np.random.default_rng(1))
    assert drawn.tolist() == expected.tolist()
    assert sampling.shift == 0
    assert sampling.base_rate == data.label.mean(dtype=np.float64)


def test_the_base_rate_counts_what_was_left_out() -> None:
    """Ten clicks beside ninety rows that stand for nine hundred are a rate of 10 in 910."""
    data = replace(clicks(100, 5), label=np.repeat(np.array([1, 0], np.uint8), [10, 90]), kept=0.1)
    assert Sampling.of(data, 1.0).base_rate == pytest.approx(10 / 910)
    assert Sampling.of(replace(data, label=np.zeros(100, np.uint8)), 1.0).base_rate == 0.005


def test_a_rate_that_would_leave_nothing_leaves_one() -> None:
    """However small the rate, there is a row without a click to learn from."""
    sampling = Sampling.of(clicks(50, 5), 1e-9)
    assert sampling.drawn == 1
    assert math.isfinite(sampling.shift)


def test_the_spec_says_which_parts_are_thinned(sample: Sample, tmp_path: Path) -> None:
    """Figures of a thinned part are those of all rows; the manifest says what was corrected."""
    spec = tmp_path / "thinned.toml"
    spec.write_text(SPEC + '[negatives]\nkept = 0.25\nparts = ["train"]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"negatives: .* give files for each part"):
        prepare(spec, InputFiles([sample.data]))

    lines = sample.data.read_text(encoding="utf-8").splitlines()
    files: dict[DataPart, list[Path]] = {}
    for part, rows in (
        ("train", lines[1:2401]),
        ("validation", lines[2401:2701]),
        ("test", lines[2701:]),
    ):
        if part == "train":
            others = [row for row in rows if row.endswith(",0")]
            rows = [row for row in rows if row.endswith(",1")] + others[::4]
        files[part] = [tmp_path / f"{part}.csv"]
        files[part][0].write_text("\n".join([lines[0], *rows]) + "\n", encoding="utf-8")
    prepared = prepare(spec, InputFiles(parts=files))
    assert [prepared.data[part].kept for part in files] == [0.25, 1.0, 1.0]
    config = replace(CONFIG, batch_size=64, epochs=6, negative_rate=0.5, learning_rate=0.01)
    bundle = run(prepared, config, tmp_path / "bundles", progress=False)
    offline = Offline.open(bundle)
    manifest = offline.bundle.manifest
    told = manifest.training["negatives"]
    assert told["kept"] == 0.25
    assert told["rate"] == pytest.approx(0.5, abs=0.001)
    assert told["logit_shift"] == pytest.approx(math.log(0.125), abs=0.002)
    assert manifest.metrics["train"]["calibration"] == pytest.approx(1, abs=1e-3)
    for part in files:
        assert 0.8 < manifest.metrics[part]["calibration"] < 1.25
        frames = offline.frames(files[part])
        figures = offline.evaluate(frames, offline.bundle.spec.kept(part)).to_dict()
        assert figures == manifest.metrics[part]
    wrong = offline.evaluate(offline.frames(files["train"]))
    assert wrong.calibration is not None
    assert wrong.calibration < 0.7, "the rows left out were not missed"


@pytest.mark.parametrize("rate", ["0", "-0.1", "1.5", '"half"'])
def test_an_impossible_share_is_refused(rate: str) -> None:
    """A share is above 0 and at most 1; the message names the key."""
    with pytest.raises(SpecError, match=r"\[negatives\]: `kept` must be"):
        FeatureSpec.parse(f"{SPEC}[negatives]\nkept = {rate}\n")


def test_no_part_or_an_unknown_one_is_refused() -> None:
    """The parts are those of a run, and one at least."""
    for parts in ("[]", '["train", "tests"]'):
        with pytest.raises(SpecError, match=r"\[negatives\]: `parts` must be"):
            FeatureSpec.parse(f"{SPEC}[negatives]\nkept = 0.5\nparts = {parts}\n")
    with pytest.raises(SpecError, match="did you mean 'kept'"):
        FeatureSpec.parse(f"{SPEC}[negatives]\nkeept = 0.5\n")
