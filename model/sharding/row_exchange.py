"""Rows of a table asked from the processes that hold them: TorchRec's row-wise sharding.

The only importer of torchrec, which is no part of what ``[train]`` installs. Used are the two
exchanges that it gives an ``EmbeddingCollection`` sharded by rows: row numbers to those who hold
the rows, and the rows back, whose gradients go the opposite way. What is between, the rows and
their optimiser, is this project's: fbgemm's kernels have no Adam on a CPU, and those that they have
would take the step there and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from app.errors import CtrError
from model.sharding.shard import Shard

VERSION = "1.8.0"
"""Of torchrec and of fbgemm-gpu-cpu: those that belong to the version of torch."""
_KEY = "table"


class ShardingError(CtrError):
    """A table that cannot be sharded; the message says why and what to do."""


def require_torchrec() -> None:
    """Import TorchRec, which takes seconds.

    Raises:
        ShardingError: it is not installed, or cannot be loaded.
    """
    _torchrec()


class _TorchRec(NamedTuple):
    """The classes of it that are used here."""

    keyed_tensor: Any
    asking: Any
    answering: Any
    context: Any


def _torchrec() -> _TorchRec:
    # It would say in each process that nothing is traced.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        import fbgemm_gpu  # noqa: F401
        from torchrec.distributed.comm_ops import set_gradient_division
        from torchrec.distributed.sharding.rw_sequence_sharding import RwSequenceEmbeddingDist
        from torchrec.distributed.sharding.rw_sharding import RwSparseFeaturesDist
        from torchrec.distributed.sharding.sequence_sharding import SequenceShardingContext
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
    except (ImportError, OSError, RuntimeError) as error:
        raise ShardingError(
            f"--sharded needs TorchRec {VERSION}, which cannot be loaded ({error}); install it"
            " with: .venv/bin/pip install -c constraints.txt '.[sharded]' && .venv/bin/pip install"
            f" --no-deps torchrec=={VERSION}"
        ) from error
    # Each process' loss is its part of the mean, so gradients add up.
    set_gradient_division(False)
    return _TorchRec(
        KeyedJaggedTensor, RwSparseFeaturesDist, RwSequenceEmbeddingDist, SequenceShardingContext
    )


class RowExchange:
    """The way from row numbers to rows that other processes hold, and of gradients back."""

    def __init__(self, shard: Shard) -> None:
        """Prepare the exchanges; the group is that of all processes, over gloo.

        Raises:
            ShardingError: TorchRec cannot be loaded.
        """
        torchrec = _torchrec()
        self._features, self._context = torchrec.keyed_tensor, torchrec.context
        group, device = dist.group.WORLD, torch.device("cpu")
        self._ask = torchrec.asking(
            pg=group,
            num_features=1,
            feature_hash_sizes=[shard.rows],
            device=device,
            is_sequence=True,
        )
        self._answer = torchrec.answering(group, 1, device)
        self._shard = shard

    def look_up(self, row_P: Tensor, held: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the rows [P, C] of any row numbers [P]; all processes call this together.

        ``held`` returns those of this process for their places [Q] among its own, whichever
        processes ask for them: one after another, so a row may be there several times.
        """
        shard = self._shard
        asked = self._features([_KEY], row_P, lengths=torch.tensor([len(row_P)]))
        found = self._ask(asked).wait().wait()
        # The numbers of rows that go to each process, and come from each.
        sent = torch.bincount(row_P // shard.block, minlength=shard.group.size)
        lengths = found.lengths().view(-1, found.stride())
        context = self._context(
            features_before_input_dist=asked,
            input_splits=sent.tolist(),
            output_splits=found.lengths().tolist(),
            unbucketize_permute_tensor=self._ask.unbucketize_permute_tensor,
            lengths_after_input_dist=lengths,
        )
        rows_PC: Tensor = self._answer(held(found.values()), context).wait()
        return rows_PC
