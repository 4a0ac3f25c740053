"""Drift: what a window of served values differs by, and what is chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.bundle.manifest import SlotHistogram
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.features.layout import Slot
from app.metrics import drift
from app.metrics.drift import PIECES, SAMPLE_ROWS, Difference, Drift, SlotBins, difference
from app.workers.shared_numbers import SharedNumbers
from tests.conftest import Sample

DAYS = 20


def counts(*numbers: float) -> NDArray[np.float64]:
    return np.array(numbers, np.float64)


def test_by_hand() -> None:
    """Two bins, 9.5 and 1.5 of 11 in the window, 5.5 each in training, a half in each by itself."""
    found = difference(counts(9, 1), counts(5, 5))
    assert found is not None
    share = 9.5 / 11
    assert found.psi == pytest.approx((share - 0.5) * np.log(share / (1 - share)))
    assert difference(counts(0, 0), counts(5, 5)) is None
    assert difference(counts(3, 5), counts(0, 0)) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_distance_is_scipys(seed: int) -> None:
    """So is the PSI, as the sum of both divergences of Kullback and Leibler."""
    from scipy.spatial.distance import jensenshannon  # a second of import, wanted here only

    rng = np.random.default_rng(seed)
    bins = int(rng.integers(2, 60))
    window, trained = (rng.integers(0, 1_000, bins).astype(np.float64) for _ in range(2))
    found = difference(window, trained)
    assert found is not None
    p, q = window + 0.5, trained + 0.5
    assert found.js_distance == pytest.approx(jensenshannon(p, q, base=2), rel=1e-9)
    p, q = p / p.sum(), q / q.sum()
    assert found.psi == pytest.approx((p * np.log(p / q) + q * np.log(q / p)).sum(), rel=1e-9)


@pytest.mark.parametrize("bins", [2, 12, 53])
@pytest.mark.parametrize("rows", [200, 2_000, 100_000])
def test_windows_of_the_same_day_do_not_alarm(bins: int, rows: int) -> None:
    """Nor does a small window, whose PSI is far above 0.1 by chance alone; another one does."""
    rng = np.random.default_rng(bins * rows)
    shares = rng.dirichlet(np.full(bins, 0.5))
    trained = rng.multinomial(200_000, shares).astype(np.float64)
    for _ in range(DAYS):
        found = difference(rng.multinomial(rows, shares).astype(np.float64), trained)
        assert found is not None
        assert not found.drifted, found
    other = difference(rng.multinomial(rows, shares[::-1]).astype(np.float64), trained)
    assert other is not None
    assert other.drifted, other


def test_a_certain_change_too_small_to_matter_is_none() -> None:
    assert not Difference(0.04, 0.1, drift.WORTH).drifted
    found = difference(counts(5.1e8, 4.9e8), counts(5e8, 5e8))
    assert found is not None
    assert not found.drifted


def test_frequent_values_and_the_rest() -> None:
    """Frequent values are counted by the place of training; padding does not count."""
    histogram = SlotHistogram(missing=1, oov=2, frequent=(19, 12), counts=(9, 8), rest=7)
    bins = SlotBins(Slot("s", "s", 10, 30), slice(1, 3), histogram)
    assert bins.trained.tolist() == [1, 2, 9, 8, 7]
    rows = np.array([[5, 10, 0], [5, 11, 19], [5, 19, 12], [5, 13, 39]], np.int32)
    assert bins.count(rows).tolist() == [1, 1, 2, 1, 2]
    none = SlotBins(Slot("s", "s", 10, 2), slice(1, 3), SlotHistogram(0, 0, frequent=(), counts=()))
    assert none.count(rows[:1]).tolist() == [1, 0, 0]


def test_buckets() -> None:
    bins = SlotBins(Slot("n", "n", 20, 5), slice(0, 1), SlotHistogram(0, 0, buckets=(4, 5, 6)))
    rows = np.array([[20], [21], [22], [24], [24]], np.int32)
    assert bins.count(rows).tolist() == [1, 1, 1, 0, 2]


class Scored:
    """Rows of the sample, encoded and scored, in batches of one context each row."""

    def __init__(self, bundle: Bundle, encoder: Encoder, rows: list[dict[str, object]]) -> None:
        sides = {
            name: np.frombuffer(b"".join(side.row({k: r[k] for k in side.fields if k in r})
                                for r in rows), np.int32).reshape(len(rows), -1)
            for name, side in (("context", encoder.context), ("candidate", encoder.candidate))
        }  # fmt: skip
        self._context, self._candidate = sides["context"], sides["candidate"]

    def run(self, places: NDArray[np.int64], score: float = 0.3) -> tuple[Batch, Scores]:
        numbers = np.arange(len(places), dtype=np.int32)
        scores = np.full(len(places), score, np.float32)
        batch = Batch(self._context[places], self._candidate[places], numbers)
        return batch, Scores(scores, scores)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call counts."""
    monkeypatch.setattr(drift, "SAMPLE_SECONDS", 0.0)


@pytest.mark.usefixtures("patient")
def test_what_is_served_as_trained_has_no_drift_and_a_shuffled_field_has(
    tiny_bundle: Path, sample: Sample
) -> None:
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    rows = [dict(row) for row in sample.rows]
    rng = np.random.default_rng(5)
    watched = Drift(SharedNumbers(), bundle, encoder.context, encoder.candidate, 4_000)
    scored = Scored(bundle, encoder, rows)
    for _ in range(8):
        watched.observe([scored.run(rng.integers(0, len(rows), SAMPLE_ROWS))])
    report = watched.report()
    assert set(report["slots"]) == set(bundle.manifest.statistics)
    before = {name: slot["psi"] for name, slot in report["slots"].items()}
    assert max(before.values()) < 0.1
    assert report["score"]["drifted"], "all scores are 0.3"
    for slot in report["slots"].values():
        assert sum(slot["window"]) == pytest.approx(1, abs=1e-3)
        assert len(slot["window"]) == len(slot["trained"]) == len(slot["bins"])

    field, alike = "placement", rows[0]["placement"]
    for row in rows:
        row[field] = alike
    broken = Scored(bundle, encoder, rows)
    for _ in range(2 * PIECES):
        watched.observe([broken.run(rng.integers(0, len(rows), SAMPLE_ROWS))])
    after = watched.report()["slots"]
    assert after[field]["drifted"]
    assert after[field]["psi"] > 1
    assert max(slot["psi"] for name, slot in after.items() if name != field) < 0.1
    metrics = {family.name: family for family in watched.families()}
    shown = {each.labels["slot"]: each.value for each in metrics["ctr_drift_psi"].samples}
    assert shown[field] == pytest.approx(watched.report()["slots"][field]["psi"])


@pytest.mark.usefixtures("patient")
def test_the_window_forgets(tiny_bundle: Path, sample: Sample) -> None:
    """Its length is what was asked for, within a piece."""
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    watched = Drift(SharedNumbers(), bundle, encoder.context, encoder.candidate, 1_000)
    scored = Scored(bundle, encoder, [dict(row) for row in sample.rows[:100]])
    for _ in range(50):
        watched.observe([scored.run(np.arange(100))])
    slot = next(iter(watched.report()["slots"].values()))
    assert 900 <= slot["count"] <= 1_000


def test_little_is_counted_however_much_is_scored(tiny_bundle: Path, sample: Sample) -> None:
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    watched = Drift(SharedNumbers(), bundle, encoder.context, encoder.candidate, 100_000)
    scored = Scored(bundle, encoder, [dict(row) for row in sample.rows[:100]])
    places = np.tile(np.arange(100), 100)
    for _ in range(5):
        watched.observe([scored.run(places), scored.run(places)])
    counted = [slot["count"] for slot in watched.report()["slots"].values()]
    assert max(counted[:1]) <= SAMPLE_ROWS


def test_a_burst_is_not_missed(
    tiny_bundle: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rows that come while none is counted are counted at the next time, and no more."""
    now = 100.0
    monkeypatch.setattr(drift, "monotonic", lambda: now)
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    watched = Drift(SharedNumbers(), bundle, encoder.context, encoder.candidate, 100_000)
    scored = Scored(bundle, encoder, [dict(row) for row in sample.rows[:100]])

    def counted() -> int:
        return int(watched.report()["score"]["count"])

    watched.observe([scored.run(np.arange(1))])
    assert (counted(), watched.waiting) == (1, False)
    for _ in range(20):
        watched.observe([scored.run(np.arange(100))])
    assert (counted(), watched.waiting) == (1, True)
    now += drift.SAMPLE_SECONDS
    watched.observe([])
    assert 1 + SAMPLE_ROWS / 2 <= counted() <= 1 + SAMPLE_ROWS
    assert not watched.waiting
    watched.observe([])
    assert counted() <= 1 + SAMPLE_ROWS


@pytest.mark.usefixtures("patient")
def test_rows_that_somebody_tries_are_left_out(tiny_bundle: Path, sample: Sample) -> None:
    """Of runs that come together, those of callers are counted."""
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    watched = Drift(SharedNumbers(), bundle, encoder.context, encoder.candidate, 4_000)
    scored = Scored(bundle, encoder, [dict(row) for row in sample.rows[:100]])
    batch, scores = scored.run(np.arange(100))
    tried = batch._replace(of_page=True), scores
    watched.observe([tried])
    assert {slot["count"] for slot in watched.report()["slots"].values()} == {0}
    watched.observe([tried, scored.run(np.arange(30)), tried])
    report = watched.report()
    assert report["score"]["count"] == 30
    assert report["slots"]["placement"]["count"] == 30


@pytest.mark.usefixtures("patient")
def test_workers_add_up_and_another_bundle_begins_anew(
    tiny_bundle: Path, other_bundle: Path, sample: Sample
) -> None:
    shared = SharedNumbers(2)
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    scored = Scored(bundle, encoder, [dict(row) for row in sample.rows[:100]])
    found = []
    for worker in range(2):
        shared.begin_worker(worker)
        found.append(Drift(shared, bundle, encoder.context, encoder.candidate, 4_000))
        found[-1].observe([scored.run(np.arange(100))])
    assert {slot["count"] for slot in found[0].report()["slots"].values()} >= {200}
    later = Bundle.open(other_bundle)
    other = Encoder(later.spec, later.vocabulary)
    after = Drift(shared, later, other.context, other.candidate, 4_000)
    assert {slot["count"] for slot in after.report()["slots"].values()} == {0}
    found[1].observe([scored.run(np.arange(100))])
    assert {slot["count"] for slot in after.report()["slots"].values()} == {0}
    assert {slot["count"] for slot in found[0].report()["slots"].values()} >= {100}
