"""An explanation, as people and programs read it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Method = Literal["exact", "sampled"]


class Pair(msgspec.Struct, frozen=True):
    """The term of a pair of fields; of parts of one field, both are that field."""

    fields: tuple[str, str]
    value: float


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of a logit before calibration.

    ``bias``, ``first_order``, ``pairs`` (largest first) and ``deep`` add up to ``logit``; they are
    absent for networks without such terms. ``baseline_logit`` and ``shapley`` add up to it for
    every network, the latter within the rounding of float32.
    """

    logit: float
    score: float
    baseline_logit: float
    shapley: dict[str, float]
    standard_error: dict[str, float]
    method: Method
    bias: float | None = None
    first_order: dict[str, float] | None = None
    pairs: tuple[Pair, ...] | None = None
    deep: float | None = None

    def shown(self) -> dict[str, Any]:
        """Return the members of an answer, in the order in which people read them."""
        order = (
            "logit",
            "score",
            "baseline_logit",
            "bias",
            "first_order",
            "pairs",
            "deep",
            "shapley",
            "standard_error",
            "method",
        )
        return {name: value for name in order if (value := getattr(self, name)) is not None}
