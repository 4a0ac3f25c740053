"""A mark for networks that run to be exported: some sums are then written in another way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


def is_exporting() -> bool:
    """Tell whether what runs is turned into a graph; nothing is computed then."""
    return _exporting.get()


@contextmanager
def exporting() -> Iterator[None]:
    """Have networks run as they are to be in a graph."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)
