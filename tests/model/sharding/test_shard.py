"""Every row of a table has one process, and each process about as many."""

from __future__ import annotations

import numpy as np
import pytest

from model.group import Group
from model.sharding import shard as module
from model.sharding.shard import Shard


def shards(rows: int, size: int) -> list[Shard]:
    return [Shard(rows, Group(rank, size)) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 4, 10, 999, 1_000_001])
def test_the_parts_are_the_whole(rows: int, size: int) -> None:
    """One behind the other; of a table of a hundred rows a process, alike within 1 %."""
    own = [shard.own for shard in shards(rows, size)]
    assert [row for part in own for row in part] == [*range(rows)]
    assert own == [Shard(rows, Group(0, size)).of(rank) for rank in range(size)]
    if rows >= 100 * size:
        assert all(abs(len(part) - rows / size) <= 0.01 * rows / size + 1 for part in own)
    # TorchRec asks the process of a row's block.
    block = Shard(rows, Group(0, size)).block
    assert all(row // block == rank for rank, part in enumerate(own) for row in part)


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_what_is_within_is_own(size: int) -> None:
    """Ranges of rows are cut by the parts, and nothing is lost or there twice."""
    for first, count in ((0, 10), (3, 4), (9, 1), (5, 0)):
        found = [shard.within(first, count) for shard in shards(10, size)]
        assert [row for part in found for row in part] == [*range(first, first + count)]
        for shard, part in zip(shards(10, size), found, strict=True):
            assert part.start >= shard.own.start
            assert len(part) <= len(shard.own)


def test_one_process_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone nothing is sent: its rows come in pieces of the size that was set."""
    monkeypatch.setattr(module, "PIECE_BYTES", 3 * 2 * 4)
    held = np.arange(14, dtype=np.float32).reshape(7, 2)
    pieces = [*Shard(7).to_first(held)]
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(pieces), held)
    assert Shard(7).sums(1.5, 2.0) == [1.5, 2.0]
