"""The product's trainer at the work, as ``python -m tests.bench.training.with_product FILE``."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

import numpy as np

from app.features.layout import Layout, Slot
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.training.evaluation import Evaluation, predict
from model.training.fit import fit
from tests.bench.training.work import (
    Rows,
    Watch,
    Work,
    answer,
    field_name,
    given,
    judged,
    read_rows,
)


class Reached(Exception):
    """The target is reached, and there is nothing left to be timed."""


def layout_of(sizes: list[int], contexts: int) -> Layout:
    """Return the table's layout, the first fields being the context's."""
    firsts = np.cumsum([1, *sizes]).tolist()
    slots = tuple(
        Slot(field_name(f), field_name(f), first, size)
        for f, (first, size) in enumerate(zip(firsts, sizes, strict=False))
    )
    return Layout(slots[:contexts], slots[contexts:], (), ())


def dataset_of(rows: Rows, layout: Layout) -> Dataset:
    """Return rows as the trainer has them after encoding."""
    slots = layout.context + layout.candidate
    index = rows.index + np.array([slot.first for slot in slots], np.int32)
    contexts = len(layout.context)
    sides = (np.ascontiguousarray(index[:, :contexts]), np.ascontiguousarray(index[:, contexts:]))
    return Dataset(*sides, (), (), rows.label)


def settings(work: Work) -> TrainConfig:
    """Return the training settings; what is usual beside them is to hide some values as OOV."""
    config = TrainConfig(
        hidden=work.hidden, embedding_size=work.embedding_size, batch_size=work.batch_size,
        learning_rate=work.learning_rate, embedding_l2=work.embedding_l2, dropout=work.dropout,
        batch_norm=work.batch_norm, epochs=work.epochs, evaluations_per_epoch=1,
        precision=work.precision, device=work.device, seed=work.seed, threads=work.threads,
        network=work.network, cross_layers=work.cross_layers,
    )  # fmt: skip
    return config if work.usual else replace(config, oov_rate=0.0)


def main() -> None:
    """Train as the work says."""
    work = given()
    rows = read_rows(work.train)
    layout = layout_of(rows.sizes, round(len(rows.sizes) * 24 / 39))
    train = dataset_of(rows, layout)
    # The trainer cannot do without validation rows; two of them, when they are not wanted.
    pair = np.array([int(rows.label.argmin()), int(rows.label.argmax())])
    validation = train.take(pair)
    if work.validation:
        validation = dataset_of(read_rows(work.validation), layout)
    watch = Watch(work.target)

    def after(evaluation: Evaluation) -> None:
        if watch.note(evaluation.auc or 0.0) and work.validation:
            raise Reached

    started = perf_counter()
    try:
        result = fit(layout, train, validation, settings(work), progress=work.usual, after=after)
    except Reached:
        answer(seconds=perf_counter() - started, evaluations=watch.seen)
        return
    seconds = perf_counter() - started
    figures = {}
    if work.test:
        test = dataset_of(read_rows(work.test), layout)
        figures = judged(predict(result.network, test).astype(np.float64), test.label)
    answer(
        seconds=seconds, evaluations=watch.seen, **figures,
        rows_per_second=result.rows_per_second, train_loss=result.history[-1].train_loss,
        last_rows_per_second=result.history[-1].rows_per_second, device=result.device,
    )  # fmt: skip


if __name__ == "__main__":
    main()
