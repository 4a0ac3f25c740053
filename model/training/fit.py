"""The training loop: rows in, the best network seen out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.features.layout import Layout
from model.array_files import Arrays
from model.config import Metric, TrainConfig
from model.data.dataset import Dataset
from model.group import ALONE, Group
from model.networks import weight_bytes
from model.networks.crosses import CrossWeights
from model.networks.network import Network, holding
from model.progress import Bar, progress_bar
from model.quality.figures import weights
from model.sharding.shard import Shard
from model.training.checkpoint import Checkpoints, TrainingState
from model.training.device import bounded_memory, choose
from model.training.evaluation import Evaluation, evaluated, predict, telling_metric
from model.training.feed import CPU, feed_to
from model.training.intercept import bias_to_add
from model.training.learning_rate import learning_rate
from model.training.mean_rows import set_mean_rows
from model.training.memory import available_memory, device_memory
from model.training.sampling import Sampling
from model.training.trainer import Trainer, TrainingError, named, not_finite, unnamed

COPIES = 4
"""Arrays as large as the weights: the weights, Adam's two moments, the best weights."""
COPIES_THERE, COPIES_HERE = 3, 2
"""Of them, those on a GPU; the best weights are here, and the network itself before and after."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """A trained network with the weights of its best evaluation, and how it got there."""

    network: Network
    bias_added: float
    """Added to the bias at the end: the mean score of the training part is its click rate."""
    history: tuple[Evaluation, ...]
    """Evaluations during training, before anything is added to the bias."""
    best: Evaluation
    stopped_early: bool
    seconds: float
    """The whole fit, evaluations included."""
    rows_per_second: float
    """Training rows per second spent on training."""
    device: str = "cpu"
    """The GPU that trained, or ``cpu``."""


@dataclass(slots=True)
class Progress:
    """The progress of a fit, beside the trainer's own state; a checkpoint holds both."""

    history: list[Evaluation] = field(default_factory=list)
    best: int = 0
    """Place in the history of the evaluation whose weights are kept."""
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    """Losses of the batches since the last evaluation, as are the next two."""
    rows_since: int = 0
    seconds_since: float = 0.0
    training_rows: int = 0
    training_seconds: float = 0.0
    seconds_before: float = 0.0
    """Seconds of the processes whose checkpoints this one resumed."""

    def note(self, evaluation: Evaluation, network: Network, metric: Metric) -> None:
        """Add an evaluation, and keep the weights if they are the best so far."""
        self.history.append(evaluation)
        if len(self.history) == 1 or evaluation.beats(self.history[self.best], metric):
            self.best = len(self.history) - 1
            self.best_weights = snapshot(network)
        self.training_rows += self.rows_since
        self.training_seconds += self.seconds_since
        self.losses, self.rows_since, self.seconds_since = [], 0, 0.0

    def state(self, seconds: float) -> tuple[dict[str, Any], Arrays]:
        """Return its values and arrays for a checkpoint; ``seconds`` are this process' so far."""
        values = {
            "history": [evaluation.to_dict() for evaluation in self.history],
            "best": self.best,
            "losses": self.losses,
            "rows_since": self.rows_since,
            "seconds_since": self.seconds_since,
            "training_rows": self.training_rows,
            "training_seconds": self.training_seconds,
            "seconds_before": self.seconds_before + seconds,
        }
        return {"progress": values}, named("best", self.best_weights)

    @classmethod
    def of(cls, state: TrainingState) -> Progress:
        """Return the progress that a checkpoint holds."""
        values = dict(state.values["progress"])
        history = [Evaluation(**evaluation) for evaluation in values.pop("history")]
        return cls(history, best_weights=unnamed("best", state.arrays), **values)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps of a fit: batches of an epoch, steps in all, and those it evaluates after."""

    batches: int
    steps: int
    evaluated: frozenset[int]

    @classmethod
    def of(cls, rows: int, config: TrainConfig, processes: int) -> Schedule:
        """Plan the steps over ``rows`` an epoch; evaluations are evenly spaced."""
        batches = batch_count(rows, config.batch_size, processes)
        steps = config.epochs * batches
        evaluations = config.epochs * config.evaluations_per_epoch
        places = np.linspace(0, steps, evaluations + 1).round().astype(int)
        return cls(batches, steps, frozenset(places.tolist()))


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
    sharded: bool = False,
) -> FitResult:
    """Train a network and return it with its best weights, in evaluation mode.

    On a CPU the same data, settings and thread count give the same weights, bit for bit, in one go
    or resumed any number of times. On a GPU sums of gradients differ in rounding from run to run,
    and dropout draws other units; the rows of each batch and all else that is drawn are the same.
    What follows the last step is done on the CPU, where the network is that is returned.

    All processes of a ``group`` call this alike and get the same network; the first one writes the
    checkpoints.

    Args:
        begin: sets the weights to start from; the network is then evaluated before the first step
            too, and may be the best already.
        crosses: weights of pairs, for Wide & Deep.
        after: is given each evaluation; by raising it ends the fit.
        checkpoints: where the state is written, and perhaps one to resume from.
        sharded: each process holds its part of the table alone, as does its result.

    Raises:
        TrainingError: a part is too small, memory does not suffice, the device that the settings
            name cannot be used, or the loss is not finite.
    """
    sampling = Sampling.of(train, config.negative_rate)
    require_rows(sampling.rows, validation, config, group)
    device, name, _ = choose(config.device, group)
    shard = Shard(layout.table_rows, group) if sharded else None
    require_memory(layout, config, crosses, device, shard)
    config = replace(config, metric=telling_metric(config.metric, validation.label))
    started = time.perf_counter()
    total, shown = config.epochs * sampling.rows, progress and group.rank == 0
    with (
        reproducible(config.seed, config.thread_count(), device),
        progress_bar("training", total, "rows", shown) as bar,
        bounded_memory(),
    ):
        resumed = checkpoints is not None and checkpoints.state is not None
        started_from = None if resumed else begin
        trainer = Trainer(
            layout, train, config, crosses, group, feed_to(device), started_from, shard
        )
        loop = _Loop(
            trainer,
            validation,
            config,
            Schedule.of(sampling.rows, config, group.size),
            after,
            checkpoints,
            group,
            bar,
            started,
        )
        loop.begin(evaluate=started_from is not None)
        loop.run()
        progressed, network = loop.progress, trainer.network.cpu()
        network.load_state_dict(progressed.best_weights)
        set_mean_rows(network, layout, train, shard)
        added = put_intercept_right(network, train, sampling.base_rate, group)
    return FitResult(
        network=network.eval(),
        bias_added=added,
        history=tuple(progressed.history),
        best=progressed.history[progressed.best],
        stopped_early=progressed.history[-1].step < loop.schedule.steps,
        seconds=progressed.seconds_before + time.perf_counter() - started,
        rows_per_second=progressed.training_rows / progressed.training_seconds,
        device=name,
    )


@dataclass(slots=True)
class _Loop:
    """The steps of one fit in this process: train, evaluate, write checkpoints, stop."""

    trainer: Trainer
    validation: Dataset
    config: TrainConfig
    schedule: Schedule
    after: Callable[[Evaluation], object] | None
    checkpoints: Checkpoints | None
    group: Group
    bar: Bar
    started: float
    progress: Progress = field(default_factory=Progress)
    _resumed: float = 0.0
    """The end of the last pause, by ``perf_counter``: evaluations and checkpoints are pauses, which
    do not count as time spent on training."""

    def begin(self, evaluate: bool) -> None:
        """Resume from the checkpoint, or start; given weights are evaluated first."""
        state = self.checkpoints.state if self.checkpoints else None
        if state is not None:
            self.progress = Progress.of(state)
            self.trainer.restore(state)
            self.bar.update(state.step * self.trainer.epoch_rows // self.schedule.batches)
        elif evaluate:
            self._take(evaluated(self.trainer.network, self.validation, self.group))
        self._resumed = time.perf_counter()

    def run(self) -> None:
        """Take every step that is left, unless ``patience`` runs out before."""
        trainer, schedule, progress = self.trainer, self.schedule, self.progress
        for step, rows in enumerate(trainer.shuffled(schedule.batches), start=trainer.steps + 1):
            rate = learning_rate((step - 0.5) / schedule.steps, self.config)
            progress.losses += trainer.step(rows, rate)
            progress.rows_since += len(rows)
            self.bar.update(len(rows))
            if step in schedule.evaluated:
                self._pause()
                self._evaluate(step, rate)
                self._resumed = time.perf_counter()
                since_best = len(progress.history) - 1 - progress.best
                if self.config.patience and since_best == self.config.patience:
                    break
            if self.checkpoints and self.group.first_says(self.checkpoints.due(step)):
                self._pause()
                self._write_checkpoint(step, self.checkpoints)
                self._resumed = time.perf_counter()

    def _pause(self) -> None:
        """Wait for the device, and count the time spent on training so far."""
        self.progress.losses += self.trainer.rest()
        self.progress.seconds_since += time.perf_counter() - self._resumed

    def _evaluate(self, step: int, rate: float) -> None:
        progress, trainer = self.progress, self.trainer
        trainer.level()
        evaluation = replace(
            evaluated(trainer.network, self.validation, self.group),
            step=step,
            epoch=step / self.schedule.batches,
            train_loss=math.fsum(progress.losses) / len(progress.losses),
            learning_rate=rate,
            rows_per_second=progress.rows_since / progress.seconds_since,
        )
        if not math.isfinite(evaluation.log_loss):
            raise TrainingError(not_finite("validation loss", evaluation.log_loss, step, rate))
        self.bar.set_postfix(evaluation.shown())
        self._take(evaluation)

    def _take(self, evaluation: Evaluation) -> None:
        """Show an evaluation to the caller, who may end the fit, and add it to the history."""
        if self.after is not None:
            self.after(evaluation)
        self.progress.note(evaluation, self.trainer.network, self.config.metric)

    def _write_checkpoint(self, step: int, checkpoints: Checkpoints) -> None:
        """Write the state; every process gives its part, the first one writes."""
        values, arrays = self.progress.state(time.perf_counter() - self.started)
        trainer_values, trainer_arrays = self.trainer.state()
        if self.group.rank == 0 or checkpoints.shard is not None:
            checkpoints.write(step, values | trainer_values, arrays | trainer_arrays)


@torch.no_grad()
def put_intercept_right(
    network: Network, train: Dataset, rate: float, group: Group = ALONE
) -> float:
    """Make the mean score of the training rows their click rate; return what the bias gained."""
    logit = predict(network, train, group)
    added = bias_to_add(logit, weights(train.label, train.kept, train.weight), rate)
    network.bias.add_(added)
    return added


def batch_count(rows: int, batch_size: int, processes: int = 1) -> int:
    """Return how many batches of nearly equal size to cut; no process has a single row of one.

    (Batch norm cannot learn from one row, and a small last batch would be a noisy step.)
    """
    return max(1, min(math.ceil(rows / batch_size), rows // (2 * processes)))


def snapshot(network: Network) -> dict[str, Tensor]:
    """Return a copy of all weights and running statistics, on the CPU."""
    return {name: value.to(CPU, copy=True) for name, value in network.state_dict().items()}


def require_rows(rows: int, validation: Dataset, config: TrainConfig, group: Group = ALONE) -> None:
    """Refuse parts that cannot be trained or validated on; ``rows`` are those of an epoch."""
    for name, count in (("training", rows), ("validation", len(validation))):
        if count == 0:
            raise TrainingError(f"the {name} part has no rows")
    if group.size > 1 and rows < 2 * group.size:
        raise TrainingError(f"{rows} training rows are too few for {group.size} processes")
    if config.batch_norm and rows == 1:
        raise TrainingError("batch norm needs two training rows or more, got one")


def require_memory(
    layout: Layout,
    config: TrainConfig,
    crosses: Sequence[CrossWeights] = (),
    device: torch.device = CPU,
    shard: Shard | None = None,
) -> None:
    """Refuse a network whose weights and optimiser state do not fit into memory."""
    with nullcontext() if shard is None else holding(shard.own):
        size = weight_bytes(layout, config, crosses)
    demands = [(COPIES, available_memory(), "")]
    if device.type != "cpu":
        demands = [
            (COPIES_THERE, device_memory(device), " on the GPU"),
            (COPIES_HERE, available_memory(), " beside the GPU"),
        ]
    for copies, available, where in demands:
        if available is not None and copies * size > available:
            raise TrainingError(
                f"{config.network} over {layout.table_rows:,} table rows needs"
                f" {copies * size / 2**30:,.1f} GiB{where} to train and {available / 2**30:,.1f}"
                " GiB are free: lower embedding_size, or raise the min_count of the largest fields"
            )


@contextmanager
def reproducible(seed: int, threads: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch and set its threads; both are as before on leaving."""
    gpus = [device] if device.type == "cuda" else []
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads_before)
