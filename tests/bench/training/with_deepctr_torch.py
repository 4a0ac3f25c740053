"""DeepCTR-Torch at the work, as ``python -m tests.bench.training.with_deepctr_torch FILE``."""

from __future__ import annotations

from time import perf_counter

import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import DeepFM

from tests.bench.training.work import answer, field_name, given, read_rows


def main() -> None:
    """Train as the work says; its loss is a sum over the batch, and told as a mean."""
    work = given()
    torch.set_num_threads(work.threads)
    rows = read_rows(work.train)
    columns = [
        SparseFeat(field_name(f), vocabulary_size=size, embedding_dim=work.embedding_size)
        for f, size in enumerate(rows.sizes)
    ]
    model = DeepFM(
        columns, columns, dnn_hidden_units=work.hidden, l2_reg_linear=work.embedding_l2,
        l2_reg_embedding=work.embedding_l2, dnn_dropout=work.dropout, dnn_use_bn=work.batch_norm,
        seed=work.seed,
    )  # fmt: skip
    adam = torch.optim.Adam(model.parameters(), lr=work.learning_rate)
    metrics = ["binary_crossentropy", "auc"] if work.usual else []
    model.compile(adam, "binary_crossentropy", metrics=metrics)
    values = {field_name(f): column for f, column in enumerate(rows.index.T)}
    started = perf_counter()
    history = model.fit(
        values, rows.label, batch_size=work.batch_size, epochs=work.epochs,
        verbose=int(work.usual),
    )  # fmt: skip
    seconds = perf_counter() - started
    answer(
        seconds=seconds, evaluations=[],
        rows_per_second=work.epochs * len(rows.label) / seconds,
        train_loss=history.history["loss"][-1],
    )  # fmt: skip


if __name__ == "__main__":
    main()
