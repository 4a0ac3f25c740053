"""The training loop: rows in, the best network seen out."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from app.features.layout import Layout
from model.array_files import Arrays
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.group import ALONE, Group
from model.networks import weight_bytes
from model.networks.crosses import CrossWeights
from model.networks.network import Network
from model.quality.figures import auc, log_loss
from model.training.checkpoint import Checkpoints, TrainingState
from model.training.memory import available_memory
from model.training.sampling import Sampling
from model.training.trainer import Trainer, TrainingError, named, not_finite, unnamed

PREDICT_ROWS = 8192
"""Rows scored at once, which bounds the memory of an evaluation."""

COPIES = 4
"""Arrays as large as the weights: they themselves, Adam's two moments, the best weights."""


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
    def of(cls, state: TrainingState) -> Progress:
        """Return what a checkpoint holds."""
        values = dict(state.values["progress"])
        history = [Evaluation(**evaluation) for evaluation in values.pop("history")]
        return cls(history, best_weights=unnamed("best", state.arrays), **values)


def fit(
    layout: Layout,
    train: Dataset,
    validation: Dataset,
    config: TrainConfig,
    progress: bool = True,
    begin: Callable[[Network], object] | None = None,
    crosses: Sequence[CrossWeights] = (),
    after: Callable[[Evaluation], object] | None = None,
    checkpoints: Checkpoints | None = None,
    group: Group = ALONE,
) -> FitResult:
    """Train a network and return it with its best weights, in evaluation mode.

    ``begin`` gives the new network weights to start from; then it is evaluated before the first
    step too, and may be the best. ``crosses`` are Wide & Deep's. ``after`` is given each
    evaluation, and ends the training by raising. The state goes to ``checkpoints``, which may have
    one to go on from. The same data, settings and thread count give the same weights, bit for bit,
    in one go or several. All processes of a ``group`` call it alike, and get the same network; the
    first one writes the checkpoints. Raises ``TrainingError`` where a part is too small, the
    memory does not suffice or the loss stops being finite.
    """
    sampling = Sampling.of(train, config.negative_rate)
    require_rows(sampling.rows, validation, config, group)
    require_memory(layout, config, crosses)
    batches = batch_count(sampling.rows, config.batch_size, group.size)
    steps = config.epochs * batches
    evaluations = config.epochs * config.evaluations_per_epoch
    evaluate_after = set(np.linspace(0, steps, evaluations + 1).round().astype(int).tolist())

    run = Progress()
    started = time.perf_counter()
    with (
        reproducible(config.seed, config.thread_count()),
        tqdm(
            total=config.epochs * sampling.rows,
            unit="row",
            unit_scale=True,
            disable=not progress or group.rank > 0,
        ) as bar,
    ):
        trainer = Trainer(layout, train, config, crosses, group)
        state = checkpoints.state if checkpoints else None
        if state is not None:
            run = Progress.of(state)
            trainer.restore(state)
            bar.update(state.step * sampling.rows // batches)
        elif begin is not None:
            begin(trainer.network)
            first = evaluated(trainer.network, validation, group)
            run.note(first, trainer.network, config.metric)
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
                trainer.level()
                evaluation = replace(
                    evaluated(trainer.network, validation, group),
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
            if checkpoints and group.first_says(checkpoints.due(step)):
                now = time.perf_counter()
                ours = run.state(now - resumed, now - started)
                theirs = trainer.state()
                if group.rank == 0:
                    checkpoints.write(step, ours[0] | theirs[0], ours[1] | theirs[1])
                run.seconds_since += now - resumed
                resumed = time.perf_counter()

    trainer.network.load_state_dict(run.best_weights)
    if sampling.shift:
        with torch.no_grad():
            logit = predict(trainer.network, train, group)
            trainer.network.bias.add_(sampling.correction(logit))
    return FitResult(
        network=trainer.network.eval(),
        history=tuple(run.history),
        best=run.history[run.best],
        stopped_early=run.history[-1].step < steps,
        seconds=run.seconds_before + time.perf_counter() - started,
        rows_per_second=run.training_rows / run.training_seconds,
    )


def evaluated(network: Network, validation: Dataset, group: Group = ALONE) -> Evaluation:
    """Return how good a network is before any step."""
    logit = predict(network, validation, group)
    return Evaluation(
        step=0,
        epoch=0.0,
        train_loss=None,
        log_loss=log_loss(validation.label, logit, validation.kept),
        auc=auc(validation.label, logit),
        learning_rate=0.0,
        rows_per_second=0.0,
    )


def predict(network: Network, data: Dataset, group: Group = ALONE) -> NDArray[np.float32]:
    """Return the logit [R] of every row; the network is left in evaluation mode.

    The processes of a group, whose networks are the same, share the work. All get every logit, as
    one process alone would have it.
    """
    network.eval()
    logit = np.zeros(len(data), np.float32)
    stride = PREDICT_ROWS * group.size
    with torch.inference_mode():
        for start in range(PREDICT_ROWS * group.rank, len(data), stride):
            part = data.take(slice(start, start + PREDICT_ROWS))
            logit[start : start + PREDICT_ROWS] = network(part.inputs()).numpy()
    group.add([torch.from_numpy(logit)])
    return logit


def learning_rate(progress: float, config: TrainConfig) -> float:
    """Return the rate after a share ``progress`` of all steps: linear up, then linear to zero."""
    falling = (1 - progress) / (1 - config.warmup)
    rising = progress / config.warmup if config.warmup else 1.0
    return config.learning_rate * min(rising, falling)


def batch_count(rows: int, batch_size: int, processes: int = 1) -> int:
    """Return how many batches of nearly equal size to cut; no process has a single row of one.

    (Batch norm cannot learn from one row, and a small last batch would be a noisy step.)
    """
    return max(1, min(math.ceil(rows / batch_size), rows // (2 * processes)))


def snapshot(network: Network) -> dict[str, Tensor]:
    """Return a copy of all weights and running statistics."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def require_rows(rows: int, validation: Dataset, config: TrainConfig, group: Group = ALONE) -> None:
    """Refuse parts that cannot be trained or validated on; warn of a validation AUC of none.

    ``rows`` are those of an epoch.
    """
    for name, count in (("training", rows), ("validation", len(validation))):
        if count == 0:
            raise TrainingError(f"the {name} part has no rows")
    if group.size > 1 and rows < 2 * group.size:
        raise TrainingError(f"{rows} training rows are too few for {group.size} processes")
    if config.batch_norm and rows == 1:
        raise TrainingError("batch norm needs two training rows or more, got one")
    if config.metric == "auc" and validation.label.min() == validation.label.max():
        warnings.warn(
            "the validation labels are all of one class, so there is no AUC: "
            "the best weights are those of the lowest log loss",
            stacklevel=3,
        )


def require_memory(
    layout: Layout, config: TrainConfig, crosses: Sequence[CrossWeights] = ()
) -> None:
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
