"""A network, trained on prepared data: the first half of a training run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.bundle.manifest import (
    FORMAT_VERSION,
)
from model.config import TrainConfig
from model.data.prepare import Prepared
from model.fingerprint import fingerprint_of
from model.group import ALONE, Group
from model.networks.crosses import CrossWeights
from model.progress import say, warn
from model.sharding.shard import Shard
from model.training.checkpoint import Checkpoints
from model.training.device import choose
from model.training.fit import FitResult, batch_count, fit
from model.training.sampling import Sampling
from model.training.trainer import TrainingError
from model.training.warm_start import WarmStart

FEW_BATCHES = 10
"""Batches of an epoch below which a smaller batch size is advised."""
CHECKPOINTS = ".checkpoints"
"""Directory, below that of bundles, in which unfinished runs keep their checkpoints."""


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """Intervals of checkpoints, in seconds and in steps (0: never), and whether to resume."""

    seconds: float = 600.0
    steps: int = 0
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network and all that its export needs."""

    prepared: Prepared
    config: TrainConfig
    result: FitResult
    start: WarmStart | None
    crosses: tuple[CrossWeights, ...]
    checkpoints: Checkpoints | None
    processes: int


def train(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    init_from: Path | None = None,
    checkpointing: CheckpointOptions | None = None,
    group: Group = ALONE,
    sharded: bool = False,
) -> Trained:
    """Train a network; all processes of a group do so together.

    ``init_from`` is a bundle of the same network, from whose weights training starts, or of an FM
    for an FNN. With ``checkpointing`` checkpoints are written below ``out``; training may resume
    from those of a killed run of the same data and settings. ``sharded`` cuts the table into a part
    for each process; what follows is then done under :func:`asking`.

    Raises:
        CrossError: the fields of a cross have too many values.
        TrainingError: the network cannot be trained on these data, or not from ``init_from``.
    """
    if not group.alike(prepared.fingerprint()):
        raise TrainingError("the processes have different data: give all of them the same files")
    if prepared.train_rows < FEW_BATCHES * config.batch_size:
        warn(
            f"{prepared.train_rows:,} rows are few for batches of {config.batch_size:,}; a smaller"
            " batch_size in the training settings may learn better"
        )
    device = choose(config.device, group)
    if device.worth_saying:
        say(f"trains on {device}")
    crosses = prepared.crosses(config)
    start = _warm_start(prepared, config, init_from)
    checkpoints = None
    if checkpointing is not None:
        checkpoints = _begin_checkpoints(
            prepared, config, out, checkpointing, start, group, sharded
        )
    result = fit(
        prepared.vocabulary.layout,
        prepared.data["train"],
        prepared.data["validation"],
        config,
        progress,
        start.begin if start else None,
        crosses,
        checkpoints=checkpoints,
        group=group,
        sharded=sharded,
    )
    if start and (obstacle := start.obstacle(result.network)):
        warn(f"the hidden layers started from random weights: {obstacle}")
    say(
        f"trained in {result.seconds:.1f} s, {result.rows_per_second:,.0f} rows/s;"
        f" best after epoch {result.best.epoch:.2f}"
    )
    return Trained(prepared, config, result, start, crosses, checkpoints, group.size)


def _warm_start(
    prepared: Prepared, config: TrainConfig, init_from: Path | None
) -> WarmStart | None:
    """Read the bundle that training starts from, if any."""
    if init_from is None:
        if config.network == "fnn":
            warn("this FNN starts from random weights; --init-from takes a trained FM's")
        return None
    before = Bundle.open(newest(init_from))
    start = WarmStart.read(before, prepared.vocabulary, prepared.data["train"], config)
    say(str(start))
    return start


def _begin_checkpoints(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    options: CheckpointOptions,
    start: WarmStart | None,
    group: Group,
    sharded: bool,
) -> Checkpoints:
    """Return the checkpoints of this run, by a fingerprint of all that decides its weights.

    Those of a sharded table are any number of processes', as long as they cut the same batches.
    """
    rows = Sampling.of(prepared.data["train"], config.negative_rate).rows
    batches = batch_count(rows, config.batch_size, group.size)
    # The format too, because the layout of the table belongs to it.
    run_id = fingerprint_of(
        *(FORMAT_VERSION, prepared.fingerprint(), config.deciding()),
        *(start and start.bundle.manifest.id, f"{batches} batches" if sharded else group.size),
    )
    directory = out / CHECKPOINTS / run_id[:16]
    shard = Shard(prepared.vocabulary.layout.table_rows, group) if sharded else None
    checkpoints = Checkpoints(directory, options.seconds, options.steps, options.resume, shard)
    # Only the first process removes those of an earlier run.
    if options.resume or group.rank == 0:
        checkpoints.begin()
    group.wait()
    if checkpoints.state is not None:
        say(f"resumed after step {checkpoints.state.step:,}")
    elif options.resume:
        say("no checkpoint of this run: training starts from the beginning")
    return checkpoints


def asking(trained: Trained) -> AbstractContextManager[None]:
    """Let the first process export a network, with what the others hold of a sharded table.

    All processes enter this; the others answer in it until the first one has left it.
    """
    elsewhere = trained.result.network.elsewhere
    return nullcontext() if elsewhere is None else elsewhere.asking()
