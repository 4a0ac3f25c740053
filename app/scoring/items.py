"""Items: candidates that the service knows by id, so that a request need not send their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.features.arrays import Indices
from app.scoring.job import Slots

Mask = NDArray[np.bool_]
UNKNOWN = -1
"""The place of an id that is not in the catalogue."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from ``min`` to ``max``, both included; None is no bound."""

    min: int | float | None = None
    max: int | float | None = None

    @property
    def least(self) -> float:
        """The lower bound."""
        return -inf if self.min is None else self.min

    @property
    def most(self) -> float:
        """The upper bound."""
        return inf if self.max is None else self.max


Condition = list[Any] | Range
"""A value is one of these, of a list one of its values; or it lies in a range."""


class Items(Protocol):
    """The scorer's view of a catalogue. It is touched on the event loop only."""

    def find(self, ids: Sequence[int | str]) -> Indices:
        """Return the place of each id, or ``UNKNOWN``; 7 and "7" have the same."""
        ...

    def all(self) -> Indices:
        """Return the places of all items."""
        ...

    def ids(self, places: Indices) -> list[int | str]:
        """Return the ids of the items at these places."""
        ...

    def everywhere(self) -> Mask:
        """Return True for each place."""
        ...

    def mask(self, field: str, condition: Condition) -> Mask:
        """Return for each place whether a value of the field meets a condition; missing ones do
        not.

        Raises:
            ValueProblem: the field cannot be filtered, or not by this condition.
        """
        ...

    def lease(self) -> object:
        """Return what keeps places from being given to other items for as long as it is held."""
        ...

    def held(self, places: Indices) -> Indices:
        """Return those places at which there still is an item."""
        ...

    def first_cut(self, places: Indices, context: Indices, most: int) -> Callable[[], Indices]:
        """Return work for another thread: to find ``most`` of the places, the best for a context.

        They are the best by an inner product of the network, in the order of ``places``.

        Raises:
            ValueProblem: the network has no such product, or the item parts are not held.
        """
        ...

    def slots(self, places: Indices) -> Slots | None:
        """Return where the item parts at these places are; None if none are held."""
        ...

    def rows(self, places: Indices) -> Indices:
        """Return a copy of the encoded rows at these places [N, width]."""
        ...
