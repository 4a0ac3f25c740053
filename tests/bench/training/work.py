"""The work that each library is given: encoded rows in files, and the network to learn from them.

Read by every library's runner in that library's own environment: numpy is all it needs.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

INDEX, LABEL, SIZES, COLUMNS = "index.npy", "label.npy", "sizes.json", "columns.npz"


@dataclass(frozen=True, slots=True)
class Work:
    """A network with Adam over the rows of ``train``, for so many epochs.

    ``usual`` leaves on what each library does beside that work when nobody asks it not to, or as
    its examples do: metrics of the training rows, a progress bar, the product's hiding of values.
    """

    train: str
    """A directory that :func:`write_rows` filled, as is ``validation``."""
    threads: int
    usual: bool = False
    validation: str = ""
    """Rows to evaluate on after each epoch; none are evaluated without."""
    test: str = ""
    """Rows to score after the training, with the best weights of the validation."""
    network: str = "deepfm"
    target: float = 1.0
    """The validation AUC at which to stop."""
    epochs: int = 1
    batch_size: int = 4096
    embedding_size: int = 16
    hidden: tuple[int, ...] = (400, 400, 400)
    cross_layers: int = 2
    """Of ``dcn_v2`` alone."""
    learning_rate: float = 0.001
    embedding_l2: float = 0.0
    dropout: float = 0.0
    batch_norm: bool = False
    seed: int = 1
    precision: str = "float32"
    """The product's alone, as is the next one."""
    device: str = "cpu"

    def to_json(self) -> str:
        """Return it as a runner reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Work:
        """Return what :meth:`to_json` gave."""
        values = json.loads(text)
        return cls(**values | {"hidden": tuple(values["hidden"])})


@dataclass(frozen=True, slots=True)
class Rows:
    """Indices [R, F] within each field, from 0, clicks [R], and how many indices fields have."""

    index: NDArray[np.int32]
    label: NDArray[np.uint8]
    sizes: list[int]


def write_rows(directory: Path, rows: Rows) -> None:
    """Write rows in the forms that the libraries read: a matrix, and columns by name."""
    directory.mkdir(parents=True)
    np.save(directory / INDEX, rows.index)
    np.save(directory / LABEL, rows.label)
    columns = {field_name(f): column for f, column in enumerate(rows.index.T)}
    np.savez(directory / COLUMNS, **columns, label=rows.label)
    (directory / SIZES).write_text(json.dumps(rows.sizes))


def read_rows(directory: str | Path) -> Rows:
    """Return what :func:`write_rows` wrote."""
    home = Path(directory)
    sizes = json.loads((home / SIZES).read_text())
    return Rows(np.load(home / INDEX), np.load(home / LABEL), sizes)


def field_name(field: int) -> str:
    """The name of a field in files and in the peers' descriptions."""
    return f"C{field}"


class Watch:
    """Notes the validation AUC of each evaluation and the seconds since the training began."""

    def __init__(self, target: float) -> None:
        self.target = target
        self.seen: list[dict[str, float]] = []
        self._started = perf_counter()

    def note(self, auc: float) -> bool:
        """Take an evaluation; tells whether the target is reached."""
        self.seen.append({"seconds": perf_counter() - self._started, "auc": auc})
        return auc >= self.target


def judged(score: NDArray[np.float64], label: NDArray[np.uint8]) -> dict[str, float]:
    """Return AUC and log loss of scores [R], as the runners of all libraries tell them.

    The AUC is the share of pairs in the right order, equal scores being half of it; the log loss
    is in nats, its scores no nearer to 0 and 1 than 1e-7.
    """
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    clicks = int(label.sum())
    above = rank[label == 1].sum() - clicks * (clicks + 1) / 2
    inside = np.clip(score, 1e-7, 1 - 1e-7)
    loss = -np.where(label == 1, np.log(inside), np.log1p(-inside)).mean()
    return {"auc": float(above / (clicks * (len(label) - clicks))), "log_loss": float(loss)}


def given() -> Work:
    """Return the work that a runner's command line names."""
    return Work.from_json(Path(sys.argv[1]).read_text())


def answer(**figures: Any) -> None:
    """Give a runner's figures to whoever started it, as the last line of standard output."""
    print("\n" + json.dumps(figures), flush=True)
