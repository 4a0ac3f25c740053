"""The engine of a GPU, over the CPU in its place: the same scores, whatever comes and fails."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.errors import BundleError, DeviceLost, EngineFailed
from app.features.encoder import Encoder
from app.features.graph_inputs import Batch, Scores
from app.features.layout import Layout
from app.scoring.engine import CPU, TOLERANCE, Engine
from app.scoring.engine_cuda import LANES, CudaEngine
from app.scoring.engine_device import DeviceOptions, HostDevice
from model.config import TrainConfig
from tests.support.devices import LOSSES, SHORTAGES, FailingDevice, Step
from tests.support.graphs import FLAT, NUMBERS, dataset, engine_of, exported_below, shape
from tests.support.networks import trained, with_means
from tests.support.serving import wait_until

ALL_ON_DEVICE = DeviceOptions(largest_rows=256, small_rows=0)
MOST_ROWS = 600
"""More than two of the largest buckets, and more than there are lanes for."""
CLOSE = TOLERANCE[CPU] / 5
COMPARED = 500
"""Random batches whose scores are compared at once."""


def shapes(layout: Layout) -> tuple:
    """The shapes of both sides' rows."""
    return (
        shape(layout.context, layout.context_lists),
        shape(layout.candidate, layout.candidate_lists),
    )


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepFM over lists and numbers."""
    config = TrainConfig(embedding_size=4, hidden=(16, 8), init_std=0.5)
    network = trained("deepfm", NUMBERS, config)
    return exported_below(network, NUMBERS, tmp_path_factory.mktemp("graph"))[1]


@pytest.fixture(scope="module")
def plain(graph: Path) -> Engine:
    """The engine whose scores are right."""
    return engine_of(graph, NUMBERS)


@pytest.fixture
def device() -> FailingDevice:
    return FailingDevice()


@pytest.fixture
def engine(graph: Path, device: FailingDevice) -> CudaEngine:
    return CudaEngine(graph, NUMBERS, *shapes(NUMBERS), device, ALL_ON_DEVICE)


class Batches:
    """Random batches out of many random rows."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.context = dataset(NUMBERS, 1000, seed).context_rows
        self.candidate = dataset(NUMBERS, 1000, seed + 1).candidate_rows

    def draw(self, most: int = MOST_ROWS) -> Batch:
        """Of any size, small ones most often; sometimes with more contexts than rows."""
        rows = int(most ** self.rng.random())
        contexts = 1 if self.rng.random() < 0.4 else int(self.rng.integers(1, rows + 4))
        return Batch(
            self.context[self.rng.integers(0, 1000, contexts)],
            self.candidate[self.rng.integers(0, 1000, rows)],
            self.rng.integers(0, contexts, rows).astype(np.int32),
        )


def check_random_batches(
    engine: CudaEngine, plain: Engine, count: int, most: int = MOST_ROWS
) -> None:
    """Score random batches; nothing of one is seen in another, and memory stays."""
    batches = Batches(5)
    kept: list[tuple[Batch, Scores]] = []
    before = 0
    both: list[tuple[Scores, Scores]] = []
    for number in range(count):
        batch = batches.draw(most)
        found, expected = engine.score(batch), plain.score(batch)
        assert found.logit.shape == found.score.shape == (len(batch.candidate),)
        assert found.logit.shape == expected.logit.shape == expected.score.shape
        both.append((found, expected))
        if len(both) == COMPARED or number == count - 1:
            # All at once: comparing a few numbers takes as long as scoring them.
            check_close(both)
            both.clear()
        if number % 50 == 0 and len(kept) < 200:
            kept.append((batch, found))
        if number == count // 4:
            before = resident_bytes()
    assert resident_bytes() - before < 8 * 2**20
    for batch, first in kept:
        # Other rows have been in these buffers since, and other padding: not a bit differs.
        again = engine.score(batch)
        np.testing.assert_array_equal(again.logit, first.logit)
        np.testing.assert_array_equal(again.score, first.score)
    assert lanes_free(engine) == LANES


def check_close(both: list[tuple[Scores, Scores]]) -> None:
    """Compare the scores of batches, found and expected."""
    ours, theirs = zip(*both, strict=True)
    for name, rtol, atol in (("logit", 0.0, CLOSE), ("score", 1e-4, 0.0)):
        mine, right = (
            np.concatenate([getattr(each, name) for each in side]) for side in (ours, theirs)
        )
        np.testing.assert_allclose(mine, right, rtol=rtol, atol=atol)


def resident_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def lanes_free(engine: CudaEngine) -> int:
    return engine._free.qsize()


@pytest.mark.slow
def test_random_batches(engine: CudaEngine, plain: Engine) -> None:
    """Some hundreds of any size score as by the graph itself, bit for bit the same each time."""
    check_random_batches(engine, plain, 1_500)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_very_many_random_batches(graph: Path, plain: Engine) -> None:
    """A hundred thousand, of up to three parts; the graphs are small, so that it takes minutes."""
    options = DeviceOptions(largest_rows=16, small_rows=2)
    engine = CudaEngine(graph, NUMBERS, *shapes(NUMBERS), HostDevice(), options)
    check_random_batches(engine, plain, 100_000, most=40)


def test_company_changes_nobodys_score(engine: CudaEngine) -> None:
    """A row beside padding has, within the tolerance, its score beside other rows."""
    batches = Batches(8)
    for rows in (1, 3, 50, 64, 200):
        context = batches.context[:1]
        full = batches.candidate[:256]
        alone = engine.score(Batch(context, full[:rows], np.zeros(rows, np.int32)))
        beside = engine.score(Batch(context, full, np.zeros(256, np.int32)))
        np.testing.assert_allclose(alone.logit, beside.logit[:rows], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("contexts", [0, 1, 5])
def test_no_rows_give_no_scores(engine: CudaEngine, contexts: int) -> None:
    """As by the engine of the CPU."""
    batches = Batches(1)
    empty = Batch(batches.context[:contexts], batches.candidate[:0], np.zeros(0, np.int32))
    for scores in (engine.score(empty), engine.score_on_device(empty)):
        assert scores.logit.shape == scores.score.shape == (0,)


def test_an_index_outside_the_table_never_runs(engine: CudaEngine, device: FailingDevice) -> None:
    """It is checked on the host, before anything is copied."""
    batch = Batches(2).draw()
    runs = device.runs
    for index in (NUMBERS.table_rows, -1, 2**31 - 1):
        candidate = batch.candidate.copy()
        candidate[-1, 0] = index
        for score in (engine.score, engine.score_on_device):
            with pytest.raises(EngineFailed, match="outside the table"):
                score(batch._replace(candidate=candidate))
    assert device.runs == runs


def test_many_threads_have_their_own_scores(engine: CudaEngine, plain: Engine) -> None:
    """More callers than lanes, with batches of several parts: each is answered, and rightly."""

    def score(seed: int) -> float:
        batches = Batches(seed)
        worst = 0.0
        for _ in range(60):
            batch = batches.draw()
            found, expected = engine.score(batch), plain.score(batch)
            worst = max(worst, float(np.abs(found.logit - expected.logit).max(initial=0)))
        return worst

    with ThreadPoolExecutor(6) as pool:
        assert max(pool.map(score, range(6))) <= CLOSE
    assert lanes_free(engine) == LANES


def test_two_batches_are_in_flight(engine: CudaEngine, device: FailingDevice) -> None:
    """While one runs, the other is laid out; a third one waits for a lane."""
    batches = Batches(3)
    device.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(engine.score, batches.draw(60)) for _ in range(3)]
        wait_until(lambda: lanes_free(engine) == 0, "both lanes are taken")
        device.gate.set()
        for answer in answers:
            assert np.isfinite(answer.result(timeout=60).logit).all()
    assert lanes_free(engine) == LANES


def test_small_batches_go_to_the_cpu(graph: Path, plain: Engine, device: FailingDevice) -> None:
    """Those of fewer rows than the settings say; they score as ever, bit for bit."""
    options = DeviceOptions(largest_rows=256, small_rows=40)
    engine = CudaEngine(graph, NUMBERS, *shapes(NUMBERS), device, options)
    batches, runs = Batches(4), device.runs
    for _ in range(50):
        batch = batches.draw(39)
        for found, expected in zip(engine.score(batch), plain.score(batch), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert device.runs == runs
    engine.score(Batch(batches.context[:1], batches.candidate[:40], np.zeros(40, np.int32)))
    assert device.runs == runs + 1
    told = engine.described()
    assert told is not None
    assert told["cpu_below_rows"] == 40


def test_what_is_faster_is_measured_at_the_start(graph: Path) -> None:
    """Without a setting, a slow device is left alone with small batches."""

    class Slow(HostDevice):
        def run(self, session: object, binding: object, options: object) -> None:
            threading.Event().wait(0.02)
            super().run(session, binding, options)

    options = DeviceOptions(largest_rows=64)
    engine = CudaEngine(graph, NUMBERS, *shapes(NUMBERS), Slow(), options)
    told = engine.described()
    assert told is not None
    assert told["cpu_below_rows"] is None or told["cpu_below_rows"] > 1
    assert told["batch_rows"] == 64


@pytest.mark.parametrize("step", ["take", "run", "give"])
@pytest.mark.parametrize("says", SHORTAGES)
def test_a_failed_run_frees_its_buffers(
    engine: CudaEngine, device: FailingDevice, plain: Engine, step: Step, says: str
) -> None:
    """Out of memory no caller has a score; afterwards every batch is scored as before."""
    batches = Batches(6)
    before = [batches.draw() for _ in range(10)]
    for _ in range(3):
        device.fail(says, step)
        for batch in before:
            with pytest.raises(EngineFailed, match="out of memory") as caught:
                engine.score(batch)
            assert not isinstance(caught.value, DeviceLost)
        assert lanes_free(engine) == LANES
        device.fail(None)
        for batch in before:
            found = engine.score(batch)
            np.testing.assert_allclose(found.logit, plain.score(batch).logit, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("says", LOSSES)
def test_a_lost_device_is_told_and_left_alone(
    engine: CudaEngine, device: FailingDevice, says: str
) -> None:
    """Every later batch of the device is refused at once; the message is one line."""
    batch = Batches(7).draw()
    device.fail(says)
    with pytest.raises(DeviceLost, match="the GPU is lost") as caught:
        engine.score(batch)
    assert "\n" not in str(caught.value)
    assert lanes_free(engine) == LANES
    runs = device.runs
    device.fail(None)
    for _ in range(5):
        with pytest.raises(DeviceLost):
            engine.score(batch)
    assert device.runs == runs, "a device that is lost may give anything"


def test_failures_at_any_time_give_no_wrong_score(
    engine: CudaEngine, device: FailingDevice, plain: Engine
) -> None:
    """Threads score while memory runs out again and again: a batch fails, or is right."""
    stopped = threading.Event()

    def score(seed: int) -> tuple[int, int]:
        batches, failed, done = Batches(seed), 0, 0
        while not stopped.is_set() or not (done and failed):
            batch = batches.draw()
            try:
                found = engine.score(batch)
            except EngineFailed:
                failed += 1
                continue
            done += 1
            np.testing.assert_allclose(found.logit, plain.score(batch).logit, rtol=0, atol=CLOSE)
        return failed, done

    with ThreadPoolExecutor(4) as pool:
        counts = [pool.submit(score, seed) for seed in range(4)]
        for number in range(60):
            device.fail(
                SHORTAGES[number % 2] if number % 3 else None, ("take", "run", "give")[number % 3]
            )
            threading.Event().wait(0.01)
        stopped.set()
        device.fail(None)
        wait_until(
            lambda: all(each.done() for each in counts) or _spoil(device), "all have seen both", 60
        )
        assert all(min(each.result()) > 0 for each in counts)
    assert lanes_free(engine) == LANES


def _spoil(device: FailingDevice) -> bool:
    """Fail now and then, for the threads that have not seen it yet."""
    device.fail(None if device.says else SHORTAGES[0])
    return False


def test_a_replaced_engine_ends(graph: Path) -> None:
    """Its thread and its memory go with its last user, without a collection."""
    gc.disable()
    try:
        engine = CudaEngine(graph, NUMBERS, *shapes(NUMBERS), HostDevice(), ALL_ON_DEVICE)
        engine.score(Batches(1).draw())
        gone = weakref.ref(engine)
        threads = {each for each in threading.enumerate() if each.name == "device"}
        del engine
        assert gone() is None
    finally:
        gc.enable()
    wait_until(lambda: len([each for each in threads if each.is_alive()]) < len(threads), "it ends")


def test_the_table_is_there_once(tmp_path: Path) -> None:
    """All buckets read the same table on the device, and the memory's bound counts it once."""
    slots = FLAT.candidate[0]
    large = with_means(Layout(FLAT.context, (type(slots)("item", "item", 21, 60_000),), (), ()))
    config = TrainConfig(embedding_size=4, hidden=(16, 8), init_std=0.5)
    network = trained("deepfm", large, config)
    path = exported_below(network, large, tmp_path / "made")[1]

    class Watched(HostDevice):
        def __init__(self) -> None:
            self.tables: list[np.ndarray] = []

        def resident(self, weights: np.ndarray) -> object:
            self.tables.append(weights.copy())
            return super().resident(self.tables[-1])

    device = Watched()
    engine = CudaEngine(path, large, *shapes(large), device, ALL_ON_DEVICE)
    [table] = device.tables
    assert len(table) == large.table_rows
    data = dataset(large, 200, 1)
    batches = [
        Batch(data.context_rows[:contexts], data.candidate_rows[:rows], owners[:rows])
        for rows in (30, 200)
        for contexts, owners in (
            (1, np.zeros(200, np.int32)), (rows, np.arange(200, dtype=np.int32)),
        )
    ]  # fmt: skip
    before = [engine.score(batch).logit for batch in batches]
    table[:] = 0
    for batch, old in zip(batches, before, strict=True):
        assert not np.allclose(engine.score(batch).logit, old), "a bucket has a table of its own"
    small = DeviceOptions(largest_rows=64, memory_bytes=table.nbytes)
    with pytest.raises(BundleError, match="CTR_GPU_MEMORY_BYTES"):
        CudaEngine(path, large, *shapes(large), HostDevice(), small)


def test_a_trained_bundle_is_served_alike(tiny_bundle: Path) -> None:
    """Golden requests come out in every way in which the engine scores."""
    bundle = Bundle.open(tiny_bundle)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    words = bundle.graph, bundle.vocabulary.layout, *encoder.shapes
    engine, plain = CudaEngine(*words, HostDevice()), Engine(*words)
    assert (engine.provider, engine.fallback, engine.tolerance) == (CPU, None, TOLERANCE[CPU])
    engine.warm_up()
    assert len(engine.ways()) == 2
    for example in bundle.examples:
        context = np.frombuffer(encoder.context.row(example.context), np.int32).reshape(1, -1)
        rows = b"".join(map(encoder.candidate.row, example.candidates))
        matrix = np.frombuffer(rows, np.int32).reshape(-1, encoder.candidate.shape.width)
        batch = Batch(context, matrix, np.zeros(len(matrix), np.int32))
        for way in (*engine.ways(), engine):
            np.testing.assert_allclose(
                way.score(batch).logit, plain.score(batch).logit, rtol=0, atol=CLOSE
            )
