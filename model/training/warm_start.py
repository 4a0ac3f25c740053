"""Warm start: training starts from the weights of an exported network, over today's values.

Values seen before keep their weights; new values start from the OOV weights; values that are no
longer present are OOV from now on. So before the first step a row scores as it did in the old
bundle, unless one of its values is no longer present. All weights are read from the exported graph.
Batch norm, which the export folds into the linear layers, is set up to return its input, by the
statistics of today's rows. Rows that nothing had trained in the old bundle are not taken for
trained: unless a step names them, they become the mean of today's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.bundle.bundle import Bundle
from app.features.layout import PADDING, RESERVED_ROWS, Layout, Slot
from app.features.vocabulary import Edges, Integers, Scale, SlotVocabulary, Texts, Vocabulary
from model.config import TrainConfig
from model.data.dataset import Dataset
from model.export.weights import read_weights
from model.networks.crosses import MEAN, RARE, CrossTerm, Operand, Pairs
from model.networks.fnn import FNN
from model.networks.network import Network
from model.training.trainer import TrainingError

NEW = -1
"""Stands for an old row where there was none."""
STATISTICS_ROWS = 16_384
"""Rows of the training part whose mean and variance batch norm starts from."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """An exported network, and the rows of today's values in its table."""

    bundle: Bundle
    weights: Mapping[str, Tensor]
    data: Dataset
    rows: Rows
    """For each row [T] of today's table the old one's, or ``NEW``."""
    learned: Tensor
    """Marks the rows of the old table that training had named."""
    values: Mapping[str, int]
    """Counts of values that were ``known``, are ``new`` and have ``gone``."""
    other_fields: bool

    @classmethod
    def read(
        cls, bundle: Bundle, vocabulary: Vocabulary, data: Dataset, config: TrainConfig
    ) -> WarmStart:
        """Read a bundle's network for training on ``data``.

        Raises:
            TrainingError: it is neither the same network nor an FM that an FNN starts from, or
                its table has other columns.
        """
        name, before = bundle.manifest.network, bundle.manifest.training["config"]
        where = f"init_from: {bundle.version}"
        if name != config.network and (name, config.network) != ("fm", "fnn"):
            raise TrainingError(
                f"{where} is of {name} and this is {config.network}; a network starts from one of"
                " its own kind, or an fnn from an fm"
            )
        size = before["embedding_size"]
        if config.network != "lr" and size != config.embedding_size:
            raise TrainingError(f"{where} has embedding_size {size}, not {config.embedding_size}")
        old = bundle.vocabulary
        other = _fields(old.layout) != _fields(vocabulary.layout)
        if other and config.network == "ffm":
            raise TrainingError(f"{where} has other fields, and an ffm's vectors are toward fields")
        rows = old_rows(vocabulary, old)
        weights = read_weights(bundle.graph, name, old.layout)
        learned = learned_rows(bundle, weights["table"])
        return cls(bundle, weights, data, rows, learned, _count(vocabulary, old, rows), other)

    @torch.no_grad()
    def begin(self, network: Network) -> None:
        """Give a new network the old weights that fit."""
        known = torch.from_numpy(np.flatnonzero(self.rows != NEW))
        old = torch.from_numpy(self.rows[self.rows != NEW])
        network.table[known] = self.weights["table"][old]
        network.learned[known] = self.learned[old]
        if isinstance(network, FNN) and self.bundle.manifest.network == "fm":
            network.global_weight.copy_(self.weights["bias"])
            return
        network.bias.copy_(self.weights["bias"])
        self._begin_crosses(network)
        if self.obstacle(network) is not None:
            return
        for name, value in network.named_parameters():
            if _is_dense(name, value):
                value.copy_(self.weights[name])
        pass_on(network, self.data)

    def obstacle(self, network: Network) -> str | None:
        """Return why the hidden layers start from random weights; None if they do not."""
        if self.bundle.manifest.network == "fm":
            return None
        if self.other_fields:
            return "the fields are others"
        for name, value in network.named_parameters():
            if not _is_dense(name, value):
                continue
            found = self.weights.get(name)
            if found is None or found.shape != value.shape:
                shape = "absent" if found is None else list(found.shape)
                return f"{name} is {shape} there and {list(value.shape)} here"
        extra = {name for name in self.weights if name.startswith("mlp.")} - {
            name for name, _ in network.named_parameters()
        }
        return f"{min(extra)} is not here" if extra else None

    def described(self, network: Network) -> dict[str, Any]:
        """Return its description for the manifest."""
        manifest = self.bundle.manifest
        return {
            "network": manifest.network,
            "version": self.bundle.version,
            "id": manifest.id,
            "values": dict(self.values),
            "anew": self.obstacle(network),
        }

    def __str__(self) -> str:
        known, new, gone = (self.values[name] for name in ("known", "new", "gone"))
        return (
            f"starts from {self.bundle.version}: {known:,} values were known, {new:,} are new and"
            f" {gone:,} have gone"
        )

    def _begin_crosses(self, network: Network) -> None:
        """Give each pair the weight that it had, or that of all rare pairs."""
        terms = [term for term in network.modules() if isinstance(term, CrossTerm)]
        before = {cross.fields: place for place, cross in enumerate(self.bundle.spec.crosses)}
        old_layout = self.bundle.vocabulary.layout
        for term in terms:
            names = (term.pairs.left.slot.name, term.pairs.right.slot.name)
            place = before.get(names)
            if place is None:
                continue
            old = Pairs(*(Operand.find(old_layout, name) for name in names))
            number = np.arange(term.pairs.numbers)
            left = self._numbers(term.pairs.left.slot, old.left.slot)
            right = self._numbers(term.pairs.right.slot, old.right.slot)
            width = term.pairs.right.numbers
            was = left[number // width] * old.right.numbers + right[number % width]
            weight_of = self.weights[f"crosses.{place}.weight_of"].numpy()
            old_weight = self.weights[f"crosses.{place}.weight"].numpy()
            found = np.where(was < 0, 0.0, old_weight[weight_of[np.maximum(was, 0)], 0])
            # Whichever pair writes a shared weight last, all of them had the same.
            own = term.weight_of.numpy()
            weight = np.zeros((len(term.weight), 1), np.float32)
            weight[own[own > MEAN], 0] = found[own > MEAN]
            weight[RARE] = old_weight[RARE]
            term.weight.copy_(torch.from_numpy(weight))

    def _numbers(self, slot: Slot, old: Slot) -> Rows:
        """Return the old numbers of a slot's values in pairs; far below zero if there are none."""
        rows = self.rows[slot.first : slot.first + slot.size]
        numbers = np.where(rows == NEW, -(2**40), rows - old.first + 1)
        means = [] if slot.mean is None else [PADDING]
        return np.concatenate([[PADDING], numbers, means])


def old_rows(new: Vocabulary, old: Vocabulary) -> Rows:
    """Return for each row [T] of a vocabulary's table the row that another has for the same.

    A value that the other does not know has its OOV row; all rows of a slot that is not there,
    or is of another kind or of other buckets, are ``NEW``.
    """
    rows = np.full(new.layout.table_rows, NEW, np.int64)
    rows[PADDING] = PADDING
    before = {slot.name: slot for slot in old.layout.slots}
    for slot in new.layout.slots:
        past = before.get(slot.name) if slot.shares is None else None
        if past is None or not _alike(new.slots[slot.name], old.slots[slot.name]):
            continue
        own = rows[slot.first : slot.first + slot.size]
        own[:RESERVED_ROWS] = past.missing, past.oov
        vocabulary, other = new.slots[slot.name], old.slots[slot.name]
        if isinstance(vocabulary, Edges | Scale):
            own[RESERVED_ROWS:] = np.arange(past.first + RESERVED_ROWS, past.first + past.size)
            continue
        assert isinstance(other, Integers | Texts)
        known = other.lookup()
        for key, row in vocabulary.lookup().items():
            rows[row] = known.get(key, past.oov)
    return rows


def learned_rows(bundle: Bundle, table_TC: Tensor) -> Tensor:
    """Return which rows [T] of a bundle's table its training had named, as bool.

    The export gives the others their slot's mean. In a bundle of format 1 they had their random
    start; there the shares of missing and OOV values tell, if they are zero.
    """
    learned = torch.ones(len(table_TC), dtype=torch.bool)
    oov_rate = bundle.manifest.training["config"].get("oov_rate", 0.0)
    hidden = {
        slot.name
        for slot in bundle.vocabulary.layout.context + bundle.vocabulary.layout.candidate
        if oov_rate and not slot.scaled
    }
    # The first weight of a DeepFM's row is read from a difference, which may round otherwise.
    compared = table_TC[:, 1:] if table_TC.shape[1] > 1 else table_TC
    for slot in bundle.vocabulary.layout.slots:
        if slot.shares is not None and slot.mean is not None:
            learned[slot.mean] = False
        elif slot.mean is not None:
            own = compared[slot.first : slot.first + slot.size]
            learned[slot.first : slot.first + slot.size] = (own != compared[slot.mean]).any(1)
            learned[slot.mean] = False
        elif share := bundle.manifest.statistics.get(slot.name):
            learned[slot.missing] = share.missing > 0
            learned[slot.oov] = share.oov > 0 or slot.name in hidden
    return learned


@torch.no_grad()
def pass_on(network: Network, data: Dataset) -> None:
    """Set up batch norm so that in inference its output is its input.

    Its statistics are those of rows of ``data``; its scale and offset undo them, so that in
    training too it changes little.
    """

    def follow(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        var, mean = torch.var_mean(given[0], 0, correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.bias.copy_(mean)
        norm.weight.copy_((var + norm.eps).sqrt())

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    hooks = [norm.register_forward_pre_hook(follow) for norm in norms]
    if norms:
        step = max(1, len(data) // STATISTICS_ROWS)
        network.eval()
        network(data.take(slice(0, None, step)).inputs())
    for hook in hooks:
        hook.remove()


def _is_dense(name: str, value: Tensor) -> bool:
    """Return whether a parameter belongs to the hidden layers or to what feeds them.

    A parameter without numbers (the kernels of a side's pairs where it has one field) is in no
    graph.
    """
    outside = name in ("table", "bias") or name.startswith("crosses.")
    return not outside and ".norms." not in name and value.numel() > 0


def _fields(layout: Layout) -> Sequence[Sequence[tuple[str, bool]]]:
    return [
        [(slot.name, slot.scaled) for slot in side]
        for side in (
            layout.context,
            layout.context_lists,
            layout.candidate,
            layout.candidate_lists,
        )
    ]


def _alike(new: SlotVocabulary, old: SlotVocabulary) -> bool:
    """Return whether the rows of two slots can stand for the same values."""
    match new, old:
        case Edges(edges), Edges(before):
            return np.array_equal(edges, before)
        case Scale(), Scale():
            return True
        case ((Integers() | Texts()), (Integers() | Texts())):
            return True
    return False


def _count(new: Vocabulary, old: Vocabulary, rows: Rows) -> dict[str, int]:
    """Count values: the rows beyond the reserved ones."""
    before = {slot.name: slot for slot in old.layout.slots}
    values = _values(new.layout)
    known = 0
    for slot in new.layout.slots:
        if slot.name in before and slot.shares is None:
            own = rows[slot.first + RESERVED_ROWS : slot.first + slot.size]
            known += int((own >= before[slot.name].first + RESERVED_ROWS).sum())
    return {"known": known, "new": values - known, "gone": _values(old.layout) - known}


def _values(layout: Layout) -> int:
    return sum(slot.size - RESERVED_ROWS for slot in layout.slots if slot.shares is None)
