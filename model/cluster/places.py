"""Places where the blocks of a large piece of work run: this process, or a cluster.

What is computed is the same code either way; only :meth:`Places.map` differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Block = TypeVar("Block")
Result = TypeVar("Result")


MEMORY_MIB = 1024
"""Memory that a block may take, by default."""


class Places(Protocol):
    """Runs a function on blocks of work."""

    many: bool
    """True if several blocks run at once."""
    memory_mib: int
    """About how much memory a block may take."""

    def map(self, function: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
        """Yield what the function returns for each block, in the order of the blocks.

        The function may run more than once for a block, in other processes too, and be killed in
        between: what it leaves outside of its result, it writes whole and under a name that the
        block decides (:func:`app.files.write_file`). It is a function of a module, and blocks and
        results are small and can be pickled; large data go through files that all places see. An
        error of the first block that has one is raised here, and later blocks may not be run.
        """
        ...


class ThisProcess:
    """Runs each block when its result is asked for."""

    many = False

    def __init__(self, memory_mib: int = MEMORY_MIB) -> None:
        self.memory_mib = memory_mib

    def map(self, function: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
        """See :meth:`Places.map`."""
        for block in blocks:
            yield function(block)


THIS_PROCESS = ThisProcess()
