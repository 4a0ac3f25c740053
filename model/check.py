"""A spec and its data as training would find them: parts, values, drift, cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from app.features.layout import RESERVED_ROWS
from app.features.spec import DataPart
from app.features.vocabulary import Edges
from app.metrics.drift import Difference, difference
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.data.errors import DataError
from model.data.prepare import Prepared
from model.data.reader import LEFT_OUT
from model.data.slot_counts import SlotCounts, count_slots
from model.data.slot_statistics import FREQUENT
from model.data.split import PARTS
from model.quality.figures import Counts, few_clicks
from model.text_table import table
from model.training.device import bounded_memory, choose
from model.training.feed import feed_to
from model.training.fit import Schedule, reproducible
from model.training.learning_rate import learning_rate
from model.training.memory import available_memory
from model.training.trainer import Trainer

WARM_STEPS = 2
"""Steps that are not measured: the first ones allocate."""
MEASURED_SECONDS = 3.0
"""Time for steps whose rate tells that of a training; at least one is taken."""
ADAM_COPIES = 4
"""Weights, their two moments, and the best weights so far."""
FLOAT = 4
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """Rate and memory of a few steps that were taken, and what a training would need."""

    rows_per_second: float
    rows: int
    """Rows of all epochs."""
    parameters: int
    encoded_bytes: int
    peak_bytes: int
    """Most memory that this process had until then."""

    @property
    def seconds(self) -> float:
        """Time of all epochs, without evaluations."""
        return self.rows / self.rows_per_second

    def lines(self, config: TrainConfig) -> Iterator[str]:
        """Yield what a training takes, for people."""
        yield (
            f"training: at most {self.seconds:,.0f} s for {config.epochs} epochs of"
            f" {self.rows // config.epochs:,} rows with {config.network}, at"
            f" {self.rows_per_second:,.0f} rows/s; evaluations not counted, and patience ="
            f" {config.patience} may end it before"
        )
        state = self.parameters * FLOAT * ADAM_COPIES
        free = available_memory()
        room = "" if free is None else f"; {free / MIB:,.0f} MiB are free"
        yield (
            f"memory: {self.parameters:,} parameters, {state / MIB:,.0f} MiB with the optimiser's"
            f" state; {self.peak_bytes / MIB:,.0f} MiB for the whole process so far{room}"
        )
        yield f"disk: {self.encoded_bytes / MIB:,.0f} MiB of encoded rows"


def check(prepared: Prepared, config: TrainConfig) -> Iterator[str]:
    """Yield lines about data that were read and encoded.

    Raises:
        TrainingError: training could not begin.
    """
    yield from parts(prepared.data)
    yield ""
    yield from values(prepared)
    yield ""
    yield from measured_cost(prepared, config).lines(config)


def parts(data: Mapping[DataPart, Dataset]) -> Iterator[str]:
    """Yield the rows and clicks of each part."""
    counts = {part: Counts.of(rows.label) for part, rows in data.items()}
    cells = [
        (part, f"{count.rows:,}", f"{count.clicks:,}", f"{count.clicks / count.rows:.2%}")
        for part, count in counts.items()
    ]
    yield from table([("part", "rows", "clicks", "click rate"), *cells])
    if warning := few_clicks(counts.items()):
        yield f"warning: {warning}"


def values(prepared: Prepared) -> Iterator[str]:
    """Yield what the parts have of each slot: values, missing and OOV ones, and their drift."""
    layout, data = prepared.vocabulary.layout, prepared.data
    counts = {part: count_slots(layout, rows) for part, rows in data.items()}
    rows: list[Sequence[str]] = [
        ("field", "values", "missing", "OOV, test", "PSI, validation", "PSI, test", "")
    ]
    drifted = []
    for place, slot in enumerate(layout.slots):
        train, validation, test = (counts[part][place] for part in PARTS)
        buckets = isinstance(prepared.vocabulary.slots[slot.name], Edges)
        changes = [
            difference(bins(each, train, buckets), bins(train, train, buckets))
            for each in (validation, test)
        ]
        far = [change for change in changes if change is not None and change.drifted]
        if far:
            drifted.append(slot.name)
        rows.append(
            (
                slot.name,
                f"{slot.size - RESERVED_ROWS:,}",
                _share(int(train.indices[0]), len(data["train"])),
                _share(test.any_oov, len(data["test"])),
                *map(_psi, changes),
                "drift" if far else "",
            )
        )
    yield from table(rows)
    if drifted:
        yield (
            f"drift: {', '.join(drifted)} differ from the training part by more than chance; along"
            " time that is what serving will meet, at random it hints at repeated rows"
        )


def bins(counted: SlotCounts, train: SlotCounts, buckets: bool) -> NDArray[np.float64]:
    """Return counts by bin: missing, OOV, then buckets, or frequent values and the rest."""
    if buckets:
        return counted.indices.astype(np.float64)
    order = np.argsort(-train.indices[RESERVED_ROWS:], kind="stable")[:FREQUENT]
    known = counted.indices[RESERVED_ROWS:]
    rest = known.sum() - known[order].sum()
    return np.array([*counted.indices[:RESERVED_ROWS], *known[order], rest], np.float64)


def measured_cost(prepared: Prepared, config: TrainConfig) -> Cost:
    """Take some steps of a training and forget them; return the cost of all."""
    train = prepared.data["train"]
    device = choose(config.device).device
    with reproducible(config.seed, config.thread_count(), device), bounded_memory():
        trainer = Trainer(
            prepared.vocabulary.layout,
            train,
            config,
            prepared.crosses(config),
            feed=feed_to(device),
        )
        schedule = Schedule.of(trainer.epoch_rows, config, 1)
        steps = trainer.shuffled(schedule.batches)
        rate = learning_rate(0.0, config)
        taken, seconds = 0, 0.0
        for rows in islice(steps, min(WARM_STEPS, schedule.steps - 1)):
            trainer.step(rows, rate)
        trainer.rest()
        for rows in steps:
            begun = time.perf_counter()
            trainer.step(rows, rate)
            seconds += time.perf_counter() - begun
            taken += len(rows)
            if seconds > MEASURED_SECONDS:
                break
    columns = [
        each
        for data in prepared.data.values()
        for each in (data.context, data.candidate, *data.context_lists, *data.candidate_lists)
    ]
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(
        rows_per_second=taken / seconds,
        rows=config.epochs * trainer.epoch_rows,
        parameters=sum(each.numel() for each in trainer.network.parameters()),
        encoded_bytes=sum(each.nbytes for each in columns),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    )


def require_few_bad_lines(warnings: Sequence[str], allowed: float) -> None:
    """Check that training would not stop at lines that cannot be used.

    Raises:
        DataError: it would; ``allowed`` is the share of such lines that it takes.
    """
    left_out = [warning for warning in warnings if warning.startswith(LEFT_OUT)]
    if left_out and not allowed:
        raise DataError("training would stop at the lines that were left out: give --max-bad-lines")


def _share(count: int, rows: int) -> str:
    return f"{count / max(1, rows):.1%}"


def _psi(change: Difference | None) -> str:
    return "" if change is None else f"{change.psi:.3f}"
