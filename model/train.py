"""The trainer: shuffled integer columns in, the best network seen out.

A step reads and writes only the table rows that its batch names, so it costs about the same
for a thousand rows as for ten million.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from app.layout import PADDING, Layout
from model.arrays import Arrays
from model.checkpoint import Checkpoints, State
from model.config import TrainConfig
from model.dataset import Dataset, Indices
from model.memory import available_memory
from model.metrics import auc, log_loss
from model.networks import build, weight_bytes
from model.networks.crosses import Cross
from model.networks.network import Inputs, Network
from model.sampling import Sampling

PREDICT_ROWS = 8192
"""Rows scored at once, which bounds the memory of an evaluation."""

COPIES = 4
"""Arrays as large as the weights: they themselves, Adam's two moments, the best weights."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The state of training after ``step`` batches; ``epoch`` is fractional."""

    step: int
    epoch: float
    train_loss: float | None
    """Mean log loss of the rows learnt from since the evaluation before; None before any."""
    log_loss: float
    """On the validation rows, as is the AUC."""
    auc: float | None
    """None if the validation rows are all of one class."""
    learning_rate: float
    rows_per_second: float
    """Training rows since the evaluation before, per second spent on training."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name, as JSON can hold them."""
        return asdict(self)

    def shown(self) -> dict[str, str]:
        """Return what a progress bar has room for."""
        auc = "none" if self.auc is None else f"{self.auc:.4f}"
        loss = "none" if self.train_loss is None else f"{self.train_loss:.4f}"
        return {"loss": loss, "auc": auc}

    def beats(self, other: Evaluation, metric: str) -> bool:
        """Tell whether this is better, by AUC and then log loss, or by log loss alone."""
        if metric == "log_loss" or self.auc is None or other.auc is None:
            return self.log_loss < other.log_loss
        return (self.auc, -self.log_loss) > (other.auc, -other.log_loss)


@dataclass(frozen=True, slots=True)
class FitResult:
    """A trained network with the weights of its best evaluation, and how it got there."""

    network: Network
    history: tuple[Evaluation, ...]
    best: Evaluation
    stopped_early: bool
    seconds: float
    """The whole fit, evaluations included."""
    rows_per_second: float
    """Training rows per second spent on training."""


@dataclass(slots=True)
class Progress:
    """What a run has come to, beside the trainer's own state."""

    history: list[Evaluation] = field(default_factory=list)
    best: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    """Of the batches since the last evaluation, as are the rows and seconds."""
    rows_since: int = 0
    seconds_since: float = 0.0
    training_rows: int = 0
    training_seconds: float = 0.0
    seconds_before: float = 0.0
    """In the processes that came before."""

    def note(self, evaluation: Evaluation, network: Network, metric: str) -> None:
        """Take an evaluation, and the weights if it is the best."""
        self.history.append(evaluation)
        if len(self.history) == 1 or evaluation.beats(self.history[self.best], metric):
            self.best = len(self.history) - 1
            self.best_weights = snapshot(network)
        self.losses, self.rows_since, self.seconds_since = [], 0, 0.0

    def state(self, since: float, before: float) -> tuple[dict[str, Any], Arrays]:
        """Return what a checkpoint holds of it, so many seconds after a resumption and a start."""
        values = {
            "history": [evaluation.to_dict() for evaluation in self.history],
            "best": self.best,
            "losses": self.losses,
            "rows_since": self.rows_since,
            "seconds_since": self.seconds_since + since,
            "training_rows": self.training_rows,
            "training_seconds": self.training_seconds,
            "seconds_before": self.seconds_before + before,
        }
        return {"progress": values}, named("best", self.best_weights)

    @classmethod
    def of(cls, state: State) -> Progress:
        """Return what a checkpoint holds."""
        values = dict(state.values["progress"])
        history = [Evaluation(**evaluation) for evaluation in values.pop("history")]
        return cls(history, best_weights=unnamed("best", state.arrays), **values)


def named(head: str, tensors: Mapping[str, Tensor]) -> Arrays:
    """Return tensors as arrays whose names begin with ``head``."""
    return {f"{head}.{name}": value.numpy() for name, value in tensors.items()}


def unnamed(head: str, arrays: Arrays) -> dict[str, Tensor]:
    """Return the tensors of arrays whose names begin with ``head``."""
    return {
        name.removeprefix(f"{head}."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(f"{head}.")
    }


def fit(
    layout: Layout,
    train: Dataset,
    validation: Dataset,
    config: TrainConfig,
    progress: bool = True,
    begin: Callable[[Network], object] | None = None,
    crosses: Sequence[Cross] = (),
    after: Callable[[Evaluation], object] | None = None,
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """Train a network and return it with its best weights, in evaluation mode.

    ``begin`` gives the new network weights to start from; then it is evaluated before the first
    step too, and may be the best. ``crosses`` are Wide & Deep's. ``after`` is given each
    evaluation, and ends the training by raising. The state goes to ``checkpoints``, which may have
    one to go on from. The same data, settings and thread count give the same weights, bit for bit,
    in one go or several. Raises ``TrainingError`` where a part is too small, the memory does not
    suffice or the loss stops being finite.
    """
    sampling = Sampling.of(train, config.negative_rate)
    require_rows(sampling.rows, validation, config)
    require_memory(layout, config, crosses)
    batches = batch_count(sampling.rows, config.batch_size)
    steps = config.epochs * batches
    evaluations = config.epochs * config.evaluations_per_epoch
    evaluate_after = set(np.linspace(0, steps, evaluations + 1).round().astype(int).tolist())

    run = Progress()
    started = time.perf_counter()
    with (
        reproducible(config.seed, config.thread_count()),
        tqdm(
            total=config.epochs * sampling.rows, unit="row", unit_scale=True, disable=not progress
        ) as bar,
    ):
        trainer = Trainer(layout, train, config, crosses)
        state = checkpoints.state if checkpoints else None
        if state is not None:
            run = Progress.of(state)
            trainer.restore(state)
            bar.update(state.step * sampling.rows // batches)
        elif begin is not None:
            begin(trainer.network)
            run.note(evaluated(trainer.network, validation), trainer.network, config.metric)
            if after is not None:
                after(run.history[0])
        resumed = time.perf_counter()
        for step, rows in enumerate(trainer.shuffled(batches), start=trainer.steps + 1):
            rate = learning_rate((step - 0.5) / steps, config)
            run.losses.append(trainer.step(rows, rate))
            run.rows_since += len(rows)
            bar.update(len(rows))
            if step in evaluate_after:
                seconds = run.seconds_since + time.perf_counter() - resumed
                evaluation = replace(
                    evaluated(trainer.network, validation),
                    step=step,
                    epoch=step / batches,
                    train_loss=math.fsum(run.losses) / len(run.losses),
                    learning_rate=rate,
                    rows_per_second=run.rows_since / seconds,
                )
                if not math.isfinite(evaluation.log_loss):
                    told = not_finite("validation loss", evaluation.log_loss, step, rate)
                    raise TrainingError(told)
                bar.set_postfix(evaluation.shown())
                if after is not None:
                    after(evaluation)
                run.training_rows += run.rows_since
                run.training_seconds += seconds
                run.note(evaluation, trainer.network, config.metric)
                if config.patience and len(run.history) - 1 - run.best == config.patience:
                    break
                resumed = time.perf_counter()
            if checkpoints and checkpoints.due(step):
                now = time.perf_counter()
                ours = run.state(now - resumed, now - started)
                theirs = trainer.state()
                checkpoints.write(step, ours[0] | theirs[0], ours[1] | theirs[1])
                run.seconds_since += now - resumed
                resumed = time.perf_counter()

    trainer.network.load_state_dict(run.best_weights)
    if sampling.shift:
        with torch.no_grad():
            trainer.network.bias.add_(sampling.correction(predict(trainer.network, train)))
    return FitResult(
        network=trainer.network.eval(),
        history=tuple(run.history),
        best=run.history[run.best],
        stopped_early=run.history[-1].step < steps,
        seconds=run.seconds_before + time.perf_counter() - started,
        rows_per_second=run.training_rows / run.training_seconds,
    )


def evaluated(network: Network, validation: Dataset) -> Evaluation:
    """Return how good a network is before any step."""
    logit = predict(network, validation)
    return Evaluation(
        step=0,
        epoch=0.0,
        train_loss=None,
        log_loss=log_loss(validation.label, logit, validation.kept),
        auc=auc(validation.label, logit),
        learning_rate=0.0,
        rows_per_second=0.0,
    )


def predict(network: Network, data: Dataset) -> NDArray[np.float32]:
    """Return the logit [R] of every row; the network is left in evaluation mode."""
    network.eval()
    logit = np.empty(len(data), np.float32)
    with torch.inference_mode():
        for start in range(0, len(data), PREDICT_ROWS):
            part = data.take(slice(start, start + PREDICT_ROWS))
            logit[start : start + PREDICT_ROWS] = network(part.inputs()).numpy()
    return logit


class Trainer:
    """A network, its optimisers and the training rows, taken one batch at a time."""

    def __init__(
        self, layout: Layout, train: Dataset, config: TrainConfig, crosses: Sequence[Cross] = ()
    ) -> None:
        self._sampling = Sampling.of(train, config.negative_rate)
        self.network = build(layout, config, self._sampling.base_rate, crosses)
        self._columns = Columns(layout, train)
        self._label = torch.from_numpy(train.label.astype(np.float32))
        self._named_rows = NamedRows(layout.table_rows)
        l2 = self._columns.row_l2(config, self._sampling) if config.embedding_l2 else None
        self._table = LazyAdam(self.network.table.detach(), l2)
        self._dense = torch.optim.Adam(
            dense_groups(self.network, config), lr=config.learning_rate, fused=True
        )
        self._random = np.random.default_rng(config.seed)
        self._epoch_random: Any = None
        self._config = config
        self.steps = 0
        """How many were taken."""

    def shuffled(self, batches: int) -> Iterator[NDArray[np.int64]]:
        """Yield the row numbers of every batch of every epoch, each epoch in a new order.

        What was restored goes on within its epoch.
        """
        epoch, done = divmod(self.steps, batches)
        for _ in range(epoch, self._config.epochs):
            now = self._random.bit_generator.state
            if done:
                self._random.bit_generator.state = self._epoch_random
            else:
                self._epoch_random = now
            order = self._sampling.draw(self._random)
            if done:
                self._random.bit_generator.state = now
            yield from np.array_split(order, batches)[done:]
            done = 0

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return all that the steps to come depend on, as a checkpoint holds it."""
        values = {
            "steps": self.steps,
            "random": self._random.bit_generator.state,
            "epoch_random": self._epoch_random,
        }
        arrays = named("network", self.network.state_dict()) | named("table", self._table.state())
        for number, parameter in enumerate(self.network.dense_parameters()):
            arrays |= named(f"dense.{number}", self._dense.state[parameter])
        return values, arrays | {"torch_random": torch.get_rng_state().numpy()}

    def restore(self, state: State) -> None:
        """Take over what :meth:`state` gave."""
        self.steps = state.values["steps"]
        self._random.bit_generator.state = state.values["random"]
        self._epoch_random = state.values["epoch_random"]
        self.network.load_state_dict(unnamed("network", state.arrays))
        self._table.restore(unnamed("table", state.arrays), self.steps)
        for number, parameter in enumerate(self.network.dense_parameters()):
            self._dense.state[parameter] = unnamed(f"dense.{number}", state.arrays)
        torch.set_rng_state(torch.from_numpy(state.arrays["torch_random"]))

    def step(self, rows: NDArray[np.int64], rate: float) -> float:
        """Learn from the given rows once and return their mean log loss before it."""
        self.steps += 1
        index = self._columns.index[rows]
        if self._config.oov_rate:
            hidden = self._random.random(index.shape, np.float32) < self._config.oov_rate
            index = np.where(hidden & self._columns.can_hide, self._columns.oov, index)
        row, position = self._named_rows.find(index)

        self.network.train()
        value = self._table.gather(row)
        columns = self._columns
        logit = self.network.logit(
            value, columns.inputs(position, rows), columns.inputs(torch.from_numpy(index), rows)
        )
        loss = functional.binary_cross_entropy_with_logits(
            logit + self._sampling.shift, self._label[torch.from_numpy(rows)]
        )
        loss_value = loss.item()
        if not math.isfinite(loss_value):
            raise TrainingError(not_finite("loss", loss_value, self.steps, rate))
        self._dense.zero_grad()
        torch.autograd.backward(loss)
        for group in self._dense.param_groups:
            group["lr"] = rate
        self._dense.step()
        self._table.step(row, value, rate)
        return loss_value


class Columns:
    """Every index of the training rows side by side, so that a batch is one gather.

    ``index`` is int32 [R, C]: the single-valued slots of both sides, then each list's places.
    ``can_hide`` [C] marks the columns of values that might have been unseen, single-valued and
    not scaled, and ``oov`` [C] has their OOV rows.
    """

    def __init__(self, layout: Layout, data: Dataset) -> None:
        parts = (data.context, data.candidate, *data.context_lists, *data.candidate_lists)
        self.index: Indices = np.concatenate(parts, axis=1)
        self._widths = [part.shape[1] for part in parts]
        self._context_lists = len(data.context_lists)
        self._table_rows = layout.table_rows
        singles = layout.context + layout.candidate
        self.can_hide = np.zeros(self.index.shape[1], np.bool_)
        self.can_hide[: len(singles)] = [not slot.scaled for slot in singles]
        self.oov = np.zeros(self.index.shape[1], np.int32)
        self.oov[: len(singles)] = [slot.oov for slot in singles]
        self._values = [
            None if value is None else torch.from_numpy(value)
            for value in (data.context_value, data.candidate_value)
        ]

    def inputs(self, index: Tensor, rows: NDArray[np.int64]) -> Inputs:
        """Cut indices [N, C] of ``rows`` into a network's inputs, every row its own context."""
        context, candidate, *lists = torch.split(index, self._widths, dim=1)
        split = self._context_lists
        values = (
            None if value is None else value[torch.from_numpy(rows)] for value in self._values
        )
        return Inputs(
            context, candidate, torch.arange(len(index)), lists[:split], lists[split:], *values
        )

    def row_l2(self, config: TrainConfig, sampling: Sampling) -> Tensor:
        """Return the decay [T] per named row that stands in for lambda on every row and step.

        A row that a share P of the batches name is decayed in those only, 1/P as hard;
        P = 1 - (1 - count / R)^batch, from the counts that training expects.
        """
        rows = sampling.rows
        single = self._expected(self.can_hide, sampling)
        listed = self._expected(~self.can_hide, sampling)
        count = single * (1 - config.oov_rate) + listed
        count[self.oov[self.can_hide]] += config.oov_rate * rows
        named = 1 - (1 - np.minimum(count / rows, 1)) ** min(config.batch_size, rows)
        l2 = np.divide(config.embedding_l2, named, out=np.zeros_like(named), where=named > 0)
        return torch.from_numpy(l2.astype(np.float32))

    def _expected(self, columns: NDArray[np.bool_], sampling: Sampling) -> NDArray[np.float64]:
        """Return how often an epoch is expected to name each table row [T] in some columns."""
        count = np.zeros(self._table_rows)
        for rows, share in ((sampling.clicks, 1.0), (sampling.others, sampling.rate)):
            index = self.index[rows][:, columns].ravel()
            count += share * np.bincount(index, minlength=self._table_rows)
        return count


def dense_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """Return Adam's groups of the parameters beside the table; weights of pairs decay as it does.

    They are updated whole at every step, so lambda needs no correction for rows unnamed.
    """
    crosses = list(network.cross_parameters())
    own = {id(value) for value in crosses}
    groups: list[dict[str, Any]] = [
        {"params": [value for value in network.dense_parameters() if id(value) not in own]}
    ]
    if crosses:
        groups.append({"params": crosses, "weight_decay": config.embedding_l2})
    return groups


class NamedRows:
    """Finds the distinct table rows of a batch by marking them, without sorting."""

    def __init__(self, table_rows: int) -> None:
        self._marked = np.zeros(table_rows, np.bool_)
        self._position = np.zeros(table_rows, np.int32)

    def find(self, index: Indices) -> tuple[Tensor, Tensor]:
        """Return the distinct rows [P], ascending, and each index's position among them.

        Padding is always there, at position 0.
        """
        self._marked[PADDING] = True
        self._marked[index] = True
        row = np.flatnonzero(self._marked)
        self._marked[row] = False
        self._position[row] = np.arange(len(row), dtype=np.int32)
        return torch.from_numpy(row), torch.from_numpy(self._position[index])


class LazyAdam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) that only ever touches the rows named.

    The moments of a row stand still while no batch names it, as in TensorFlow's LazyAdam and
    torch's SparseAdam; ``row_l2`` [T] adds row_l2 * value to a row's gradient.
    """

    BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, table_TC: Tensor, row_l2: Tensor | None) -> None:
        self._table_TC = table_TC
        self._row_l2 = row_l2
        self._mean_TC = torch.zeros_like(table_TC)
        self._square_TC = torch.zeros_like(table_TC)
        self._steps = 0

    def state(self) -> dict[str, Tensor]:
        """Return the moments [T, C] by name."""
        return {"mean": self._mean_TC, "square": self._square_TC}

    def restore(self, moments: Mapping[str, Tensor], steps: int) -> None:
        """Take over the moments after so many steps."""
        self._mean_TC.copy_(moments["mean"])
        self._square_TC.copy_(moments["square"])
        self._steps = steps

    def gather(self, row_P: Tensor) -> Tensor:
        """Return the rows [P, C] as a leaf that collects its gradient."""
        return self._table_TC.index_select(0, row_P).requires_grad_()

    @torch.no_grad()
    def step(self, row_P: Tensor, value_PC: Tensor, rate: float) -> None:
        """Move the gathered rows against their gradient, padding (the first of them) excepted."""
        gradient_PC = value_PC.grad
        assert gradient_PC is not None
        self._steps += 1
        row_P, value_PC, gradient_PC = row_P[1:], value_PC[1:], gradient_PC[1:]
        if self._row_l2 is not None:
            gradient_PC.addcmul_(value_PC, self._row_l2.index_select(0, row_P).unsqueeze(1))
        mean_PC = self._mean_TC.index_select(0, row_P).lerp_(gradient_PC, 1 - self.BETA_1)
        square_PC = self._square_TC.index_select(0, row_P).mul_(self.BETA_2)
        square_PC.addcmul_(gradient_PC, gradient_PC, value=1 - self.BETA_2)
        self._mean_TC.index_copy_(0, row_P, mean_PC)
        self._square_TC.index_copy_(0, row_P, square_PC)

        size = rate / (1 - self.BETA_1**self._steps)
        square_PC.div_(1 - self.BETA_2**self._steps).sqrt_().add_(self.EPSILON)
        self._table_TC.index_copy_(0, row_P, value_PC.addcdiv(mean_PC, square_PC, value=-size))


def learning_rate(progress: float, config: TrainConfig) -> float:
    """Return the rate after a share ``progress`` of all steps: linear up, then linear to zero."""
    falling = (1 - progress) / (1 - config.warmup)
    rising = progress / config.warmup if config.warmup else 1.0
    return config.learning_rate * min(rising, falling)


def batch_count(rows: int, batch_size: int) -> int:
    """Return how many batches of nearly equal size to cut; no batch has a single row.

    (Batch norm cannot learn from one row, and a small last batch would be a noisy step.)
    """
    return max(1, min(math.ceil(rows / batch_size), rows // 2))


def not_finite(what: str, value: float, step: int, rate: float) -> str:
    """Return what to say of a loss that ends training."""
    return f"the {what} is {value} at step {step}, at a rate of {rate:.2g}: lower learning_rate"


def snapshot(network: Network) -> dict[str, Tensor]:
    """Return a copy of all weights and running statistics."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def require_rows(rows: int, validation: Dataset, config: TrainConfig) -> None:
    """Refuse parts that cannot be trained or validated on; warn of a validation AUC of none.

    ``rows`` are those of an epoch.
    """
    for name, count in (("training", rows), ("validation", len(validation))):
        if count == 0:
            raise TrainingError(f"the {name} part has no rows")
    if config.batch_norm and rows == 1:
        raise TrainingError("batch norm needs two training rows or more, got one")
    if config.metric == "auc" and validation.label.min() == validation.label.max():
        warnings.warn(
            "the validation labels are all of one class, so there is no AUC: "
            "the best weights are those of the lowest log loss",
            stacklevel=3,
        )


def require_memory(layout: Layout, config: TrainConfig, crosses: Sequence[Cross] = ()) -> None:
    """Refuse a network whose weights and what training keeps beside them do not fit."""
    needed, available = COPIES * weight_bytes(layout, config, crosses), available_memory()
    if available is not None and needed > available:
        raise TrainingError(
            f"{config.network} over {layout.table_rows:,} table rows needs"
            f" {needed / 2**30:,.1f} GiB to train and {available / 2**30:,.1f} GiB are free: lower"
            " embedding_size, or raise the min_count of the largest fields"
        )


@contextmanager
def reproducible(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and set its threads; both are as before on leaving."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads_before)
