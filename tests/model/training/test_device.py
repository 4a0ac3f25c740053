"""The device that trains: which one is taken, and that all of a step is on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from app.features.layout import Layout, Slot
from model.config import NETWORKS, TrainConfig
from model.data.dataset import Dataset
from model.group import Group
from model.networks.crosses import CrossTerm, CrossWeights, Operand, Pairs
from model.networks.network import Network
from model.training import device as module
from model.training import fit as fitting
from model.training.checkpoint import Checkpoints, TrainingState
from model.training.device import Chosen, choose, cuda_problem
from model.training.evaluation import predict
from model.training.feed import CPU, Feed
from model.training.fit import FitResult, fit, require_memory, snapshot
from model.training.trainer import CUDA_RANDOM, Rows, Trainer, TrainingError
from tests.support import clicks
from tests.support.pretended_device import THERE, pretended_device

pytestmark = pytest.mark.slow

NO_CUDA = cuda_problem()
needs_cuda = pytest.mark.skipif(NO_CUDA is not None, reason=f"no CUDA: {NO_CUDA}")
without_cuda = pytest.mark.skipif(NO_CUDA is None, reason="this machine has CUDA")

LAYOUT = Layout(
    context=(Slot("user", "user", 1, 6), Slot("age", "age", 7, 3, scaled=True)),
    candidate=(Slot("item", "item", 10, 6), Slot("maker", "maker", 16, 4)),
    context_lists=(Slot("seen", "seen", 20, 6),),
    candidate_lists=(Slot("genres", "genres", 26, 6),),
)
CONFIG = TrainConfig(
    embedding_size=4, hidden=(8, 4), dropout=0.2, batch_size=32, epochs=2, learning_rate=0.02,
    embedding_l2=0.01, oov_rate=0.1, negative_rate=0.7, patience=0, threads=1, device="cpu",
)  # fmt: skip
ROWS = 300


def dataset(rows: int = ROWS, seed: int = 0) -> Dataset:
    """Rows with lists and numbers of both kinds, and weights of their own."""
    random = np.random.default_rng(seed)

    def values(slot: Slot, columns: int = 1) -> np.ndarray:
        return random.integers(slot.first + 2, slot.first + slot.size, (rows, columns), np.int32)

    seen, genres = (values(slot, 3) for slot in (*LAYOUT.context_lists, *LAYOUT.candidate_lists))
    present = random.random((rows, 3)) < 0.6
    single = [[values(slot) for slot in slots] for slots in (LAYOUT.context, LAYOUT.candidate)]
    context, candidate = (np.ascontiguousarray(np.hstack(columns)) for columns in single)
    label = (context[:, 0] + candidate[:, 0]) % 2 ^ (random.random(rows) < 0.1)
    return Dataset(
        context, candidate, (seen * present,), (genres * present[::-1],), label.astype(np.uint8),
        context_value=random.normal(size=(rows, 1)).astype(np.float32),
        weight=random.uniform(0.5, 2, rows).astype(np.float32),
    )  # fmt: skip


def crosses(name: str) -> tuple[CrossWeights, ...]:
    """Two crosses, one of a list, for the network that has any."""
    if name != "wide_deep":
        return ()
    found = []
    for left, right in (("user", "item"), ("user", "genres")):
        pairs = Pairs(Operand.find(LAYOUT, left), Operand.find(LAYOUT, right))
        weight_of = (np.arange(pairs.numbers) % 9).astype(np.int32)
        found.append(CrossWeights(pairs, weight_of, 9))
    return tuple(found)


def trainer_of(config: TrainConfig, feed: Feed | None = None) -> Trainer:
    """Return a trainer whose weights are the same every time."""
    torch.manual_seed(1)
    return Trainer(LAYOUT, dataset(), config, crosses(config.network), feed=feed)


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """Every tensor that a trainer keeps, by name."""
    found = dict(trainer.network.state_dict(keep_vars=True))
    found |= dict(trainer.network.named_buffers())
    found |= {f"moment {name}": value for name, value in trainer._table.state().items()}
    found["optimised table"] = trainer._table._table_TC
    assert trainer._table._row_l2 is not None
    found["l2"] = trainer._table._row_l2
    found |= {f"dense {name}": value for name, value in trainer._dense.state().items()}
    for number, parameter in enumerate(trainer.network.dense_parameters()):
        if parameter.grad is not None:
            found[f"gradient {number}"] = parameter.grad
    return found


def former_adam(network: Network, config: TrainConfig) -> torch.optim.Adam:
    """The optimiser as it was when it was torch's own; weights of pairs decay, no others do."""
    crosses = list(network.cross_parameters())
    others = [each for each in network.dense_parameters() if all(each is not x for x in crosses)]
    groups: list[dict[str, Any]] = [{"params": others}]
    if crosses:
        groups.append({"params": crosses, "weight_decay": config.embedding_l2})
    return torch.optim.Adam(groups, lr=config.learning_rate, fused=True)


def former_state(adam: torch.optim.Adam, network: Network) -> dict[str, Tensor]:
    """Its part of a checkpoint."""
    return {
        f"{number}.{name}": value
        for number, parameter in enumerate(network.dense_parameters())
        for name, value in adam.state[parameter].items()
    }


def former_step(trainer: Trainer, adam: torch.optim.Adam, rows: Rows, rate: float) -> float:
    """A step as it was before there was a choice of devices, alone and on the CPU."""
    config, columns, network = trainer._config, trainer._columns, trainer.network
    trainer.steps += 1
    index = columns.take(rows)
    if config.oov_rate:
        drawn = trainer._random.random((len(rows), index.shape[1]), np.float32)
        hidden = drawn < config.oov_rate
        index = np.where(hidden & columns.can_hide, columns.oov, index)
    row, position = trainer._named_rows.find(index)
    network.learned.index_fill_(0, row, True)
    network.train()
    value = trainer._table.gather(row)
    logit = network.logit(
        value,
        columns.inputs(position, columns.values(rows)),
        columns.inputs(torch.from_numpy(index), columns.values(rows)),
    )
    assert trainer._weight is not None
    weight = torch.from_numpy(trainer._weight[rows] / np.float32(trainer._sampling.mean_weight))
    loss = functional.binary_cross_entropy_with_logits(
        logit + trainer._sampling.shift,
        torch.from_numpy(trainer._label[rows].astype(np.float32)),
        weight,
    )
    adam.zero_grad()
    torch.autograd.backward(loss)
    for settings in adam.param_groups:
        settings["lr"] = rate
    adam.step()
    trainer._table.step(row, value, rate)
    return loss.item()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cpu_computes_what_it_did(name: str) -> None:
    """Every loss, weight and moment of some steps is the former loop's, bit for bit."""
    precision = "bfloat16" if name in ("deepfm", "final_mlp") else "float32"
    config = replace(CONFIG, network=name, precision=precision)
    found, expected = trainer_of(config), trainer_of(config)
    random = torch.get_rng_state()
    losses = [loss for rows in found.shuffled(8) for loss in found.step(rows, 0.02)]
    assert found.rest() == []
    torch.set_rng_state(random)
    adam = former_adam(expected.network, config)
    assert losses == [former_step(expected, adam, rows, 0.02) for rows in expected.shuffled(8)]
    expected._dense.restore(former_state(adam, expected.network))
    for key, value in tensors_of(expected).items():
        assert torch.equal(tensors_of(found)[key], value), key


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_step_is_on_the_device(name: str, precision: str) -> None:
    """Table, moments, gradients and buffers are there, and no operation meets another device."""
    config = replace(CONFIG, network=name, precision=precision)
    with pretended_device() as feed:
        trainer = trainer_of(config, feed)
        batches = trainer.shuffled(8)
        for _ in range(2):
            trainer.step(next(batches), 0.02)
        assert {value.device for value in tensors_of(trainer).values()} == {THERE}
        logit = trainer.network.eval()(dataset(9).inputs().to(THERE))
        assert (logit.device, logit.shape, logit.dtype) == (THERE, (9,), torch.float32)
        assert {value.device for value in snapshot(trainer.network).values()} == {CPU}


@pytest.mark.parametrize("kept_back", range(7))
def test_a_tensor_that_stays_behind_is_noticed(kept_back: int) -> None:
    """The check above can fail: with any input of the step on the CPU, it does."""
    with pretended_device() as feed:
        trainer = trainer_of(replace(CONFIG, network="wide_deep"), feed)
        usual, passed = feed.put, 0

        def put(tensors: Sequence[Tensor]) -> list[Tensor]:
            nonlocal passed
            passed = len(tensors)
            there = usual(tensors)
            if kept_back < passed:
                there[kept_back] = tensors[kept_back]
            return there

        feed.put = put  # type: ignore[method-assign]
        rows = next(trainer.shuffled(8))
        if kept_back == 6:
            trainer.step(rows, 0.02)
            assert passed == 6, "another input of the step is not tried here"
            return
        with pytest.raises((RuntimeError, AssertionError), match="device"):
            trainer.step(rows, 0.02)


# The device has no values, into which those of the state could be copied.
@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_of_the_cpu_goes_to_the_device(name: str) -> None:
    """A checkpoint that the CPU wrote is restored there, and the next step is all there."""
    config = replace(CONFIG, network=name)
    before = trainer_of(config)
    batches = before.shuffled(8)
    before.step(next(batches), 0.02)
    values, arrays = before.state()
    assert CUDA_RANDOM not in arrays
    with pretended_device() as feed:
        trainer = trainer_of(config, feed)
        trainer.restore(TrainingState(1, values, arrays))
        trainer.step(next(trainer.shuffled(8)), 0.02)
        assert trainer.steps == 2
        assert {value.device for value in tensors_of(trainer).values()} == {THERE}


def test_a_state_of_a_gpu_goes_to_the_cpu(tmp_path: Path) -> None:
    """What a GPU adds to a checkpoint, its random state, does not concern the CPU."""
    config = replace(CONFIG, dropout=0.0)
    expected = trainer_of(config)
    for rows in expected.shuffled(8):
        expected.step(rows, 0.02)
    before = trainer_of(config)
    batches = before.shuffled(8)
    for _ in range(3):
        before.step(next(batches), 0.02)
    values, arrays = before.state()
    checkpoints = Checkpoints(tmp_path / "run", resume=True)
    checkpoints.write(3, values, arrays | {CUDA_RANDOM: np.zeros(16, np.uint8)})
    checkpoints.begin()
    assert checkpoints.state is not None
    assert CUDA_RANDOM in checkpoints.state.arrays
    after = trainer_of(config)
    after.restore(checkpoints.state)
    for rows in after.shuffled(8):
        after.step(rows, 0.02)
    for key, value in tensors_of(expected).items():
        assert torch.equal(tensors_of(after)[key], value), key


class Late(Feed):
    """The CPU, whose losses are read as late as those of a GPU."""

    ahead = 2


def trained(monkeypatch: pytest.MonkeyPatch, feed: type[Feed], **others: object) -> FitResult:
    """Fit quietly through a feed."""
    monkeypatch.setattr(fitting, "feed_to", feed)
    return fit(LAYOUT, dataset(), dataset(200, 1), CONFIG, False, **others)  # type: ignore[arg-type]


def test_late_losses_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """History, weights and checkpoints are those of losses that are read at once."""
    results, states = [], []
    for feed in (Feed, Late):
        checkpoints = Checkpoints(tmp_path / feed.__name__, 0, 4, resume=True)
        results.append(trained(monkeypatch, feed, checkpoints=checkpoints))
        checkpoints.begin()
        assert checkpoints.state is not None
        states.append(checkpoints.state)
    one, other = results
    for name, value in one.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], value), name
    timeless = [[replace(each, rows_per_second=0.0) for each in r.history] for r in results]
    assert timeless[0] == timeless[1]
    assert states[0].arrays.keys() == states[1].arrays.keys()
    for name, array in states[0].arrays.items():
        np.testing.assert_array_equal(states[1].arrays[name], array, name)
    losses = [state.values["progress"]["losses"] for state in states]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_a_late_loss_that_is_not_finite_names_its_step() -> None:
    """It ends the training at most two steps later, and before a state is written."""
    trainer = trainer_of(CONFIG, Late())
    batches = trainer.shuffled(8)
    assert trainer.step(next(batches), 0.02) == []
    with torch.no_grad():
        trainer.network.bias.fill_(torch.nan)
    assert trainer.step(next(batches), 0.02) == []
    with pytest.raises(TrainingError, match="nan at step 2"):
        trainer.rest()
    trainer = trainer_of(CONFIG, Late())
    batches = trainer.shuffled(8)
    with torch.no_grad():
        trainer.network.bias.fill_(torch.nan)
    trainer.step(next(batches), 0.02)
    trainer.step(next(batches), 0.02)
    with pytest.raises(TrainingError, match="nan at step 1"):
        trainer.step(next(batches), 0.02)


def test_the_cpu_is_taken_without_a_reason() -> None:
    """Who asks for the CPU gets it, with or without CUDA, and alone or not."""
    assert choose("cpu") == choose("cpu", Group(0, 2, 0)) == (CPU, "cpu", "")
    assert str(choose("cpu")) == "cpu"


@without_cuda
def test_without_cuda_auto_says_why_and_cuda_refuses() -> None:
    """Auto trains on the CPU and has the reason; cuda is refused in one line that has it too."""
    assert choose("auto") == (CPU, "cpu", NO_CUDA)
    assert str(choose("auto")) == f"cpu (not CUDA: {NO_CUDA})"
    with pytest.raises(TrainingError, match="CUDA was asked for and cannot be used: ") as caught:
        fit(LAYOUT, dataset(), dataset(), replace(CONFIG, device="cuda"), progress=False)
    assert NO_CUDA is not None
    assert NO_CUDA in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_does_not_train_is_worth_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reason is said where there is a driver; a machine without one has nothing to explain."""
    fallen, asked = Chosen(CPU, "cpu", "no code for it"), Chosen(CPU, "cpu")
    taken = Chosen(torch.device("cuda", 0), "a card")
    for driver in (tmp_path, tmp_path / "absent"):
        monkeypatch.setattr(module, "DRIVER", driver)
        assert taken.worth_saying
        assert not asked.worth_saying
        assert fallen.worth_saying == driver.exists()


def test_a_library_without_a_device_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """That torch was built with CUDA is no proof: a device must take a number."""

    def fails(*_: object, **__: object) -> Tensor:
        raise RuntimeError("Found no NVIDIA driver on your system.\nand a long text")

    monkeypatch.setattr(module.torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(module.torch, "zeros", fails)
    assert cuda_problem() == "no usable CUDA device (Found no NVIDIA driver on your system.)"


def test_several_processes_train_on_cpus() -> None:
    """A group does not take a GPU by itself, and refuses one that is asked for."""
    group = Group(1, 2, 1)
    assert choose("auto", group).why == "several processes train together on CPUs alone"
    with pytest.raises(TrainingError, match="several processes train together on CPUs alone"):
        choose("cuda", group)


def test_memory_is_asked_of_the_device_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three arrays of the weights' size on the GPU, two beside it; the error says where."""
    size = 4 * trainer_of(CONFIG).network.parameter_count()
    free = {"there": 3 * size, "here": 2 * size}
    monkeypatch.setattr(fitting, "device_memory", lambda device: free["there"])
    monkeypatch.setattr(fitting, "available_memory", lambda: free["here"])
    require_memory(LAYOUT, CONFIG, (), THERE)
    free["there"] -= 1
    with pytest.raises(TrainingError, match="GiB on the GPU to train"):
        require_memory(LAYOUT, CONFIG, (), THERE)
    free.update(there=3 * size, here=2 * size - 1)
    with pytest.raises(TrainingError, match="GiB beside the GPU to train"):
        require_memory(LAYOUT, CONFIG, (), THERE)
    with pytest.raises(TrainingError, match="GiB to train"):
        require_memory(LAYOUT, CONFIG)


def test_a_full_device_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch raises in the middle of a training becomes an error that says what to lower."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(Trainer, "step", full)
    threads = torch.get_num_threads()
    with pytest.raises(TrainingError, match=r"too little memory: CUDA out.*lower batch") as caught:
        fit(LAYOUT, dataset(), dataset(), CONFIG, progress=False)
    assert "\n" not in str(caught.value)
    assert torch.get_num_threads() == threads


def test_settings_of_a_cross_are_seen_on_the_device() -> None:
    """Wide & Deep's crosses take part in the check of the whole step."""
    network = trainer_of(replace(CONFIG, network="wide_deep")).network
    assert len([term for term in network.modules() if isinstance(term, CrossTerm)]) == 2


@needs_cuda
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_learns_what_the_cpu_does(name: str) -> None:
    """Without dropout the runs differ by rounding alone."""
    config = replace(CONFIG, network=name, dropout=0.0, negative_rate=1.0)
    data = dataset(2_000), dataset(500, 1)
    there, here = (
        fit(LAYOUT, *data, replace(config, device=each), False, crosses=crosses(name))
        for each in ("cuda", "cpu")
    )
    assert there.device == torch.cuda.get_device_name()
    assert {value.device.type for value in there.network.state_dict().values()} == {"cpu"}
    assert there.best.log_loss == pytest.approx(here.best.log_loss, abs=2e-3)
    found, expected = predict(there.network, data[1]), predict(here.network, data[1])
    np.testing.assert_allclose(found, expected, atol=0.05)


@needs_cuda
def test_a_checkpoint_changes_its_device(tmp_path: Path) -> None:
    """Begun on one device and ended on the other, a run ends near one that stayed."""
    config = replace(clicks.CONFIG, dropout=0.0, device="cpu")
    parts = clicks.dataset(400), clicks.dataset(200, 1)
    expected = fit(clicks.LAYOUT, *parts, config, False)
    for first, then in (("cuda", "cpu"), ("cpu", "cuda")):
        checkpoints = Checkpoints(tmp_path / first, 0, 5, resume=True)
        begun = replace(config, device=first)
        fit(clicks.LAYOUT, *parts, begun, False, checkpoints=checkpoints)
        checkpoints.begin()
        assert checkpoints.state is not None
        assert (CUDA_RANDOM in checkpoints.state.arrays) == (first == "cuda")
        ended = replace(config, device=then)
        found = fit(clicks.LAYOUT, *parts, ended, False, checkpoints=checkpoints)
        assert found.best.log_loss == pytest.approx(expected.best.log_loss, abs=2e-3)
