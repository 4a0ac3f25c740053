"""Raw values → canonical keys and numbers, the same in training and in serving.

``12345``, ``"12345"`` and ``12345.0`` of an integer field are one value everywhere. Raw values have
the types of JSON; the trainer turns the values of its files into the same types first.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timezone
from functools import lru_cache
from struct import Struct
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from app.errors import ValueProblem
from app.features.spec import Dtype, TimePart

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
_EXPONENT = r"[eE][+-]?[0-9]+"
INTEGER_TEXT = re.compile(r"(-?(?:0|[1-9][0-9]{0,19}))(?:\.0*)?", re.ASCII)
_INTEGER_WITH_EXPONENT = re.compile(
    rf"-?(?:0|[1-9][0-9]{{0,19}})(?:\.[0-9]*)?{_EXPONENT}", re.ASCII
)
NUMBER_TEXT = re.compile(rf"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:{_EXPONENT})?", re.ASCII)
"""A number as text files hold it: ``.5``, ``5.`` and ``1e+05`` are numbers too."""
SECONDS_TEXT = re.compile(rf"-?(?:0|[1-9][0-9]{{0,19}})(?:\.[0-9]*)?(?:{_EXPONENT})?", re.ASCII)
_DATE_WITH_OFFSET = re.compile(
    r"[0-9]{4}-?(?:[0-9]{2}-?[0-9]{2}|W[0-9]{2}-?[0-9])[+-][0-9]{2}(?::?[0-9]{2})?", re.ASCII
)
_AFTER_DATE = frozenset("T ")
_SPACE_BEFORE_OFFSET = re.compile(r" (?=[+-][0-9:]+\Z)", re.ASCII)
FLOAT32_BOUND = float(2**128 - 2**103)
"""Numbers of this size and larger round to infinity in float32."""
_EXACT_FLOAT = float(2**53)
SECONDS_MIN = -62_135_596_800
SECONDS_MAX = 253_402_300_799
_FLOAT32 = Struct("<f")


def kind_of(value: object) -> str:
    """Name a value's JSON type for a message, without showing the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number with a fraction"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "an object"


def integer_key(value: Any) -> int:
    """Return the exact integer that a value of an integer field stands for.

    Text with an exponent (``1e+05``) counts as the JSON number of the same spelling.

    Raises:
        ValueProblem: the value is a boolean, a fraction, other text, or out of range.
    """
    kind = type(value)
    if kind is str:
        found = INTEGER_TEXT.fullmatch(value)
        if found is not None:
            key = int(found[1])
        elif _INTEGER_WITH_EXPONENT.fullmatch(value):
            key = _whole(float(value))
        else:
            raise ValueProblem("expected an integer, got text that is not an integer")
    elif kind is int:
        key = value
    elif kind is float:
        key = _whole(value)
    else:
        raise ValueProblem(f"expected an integer, got {kind_of(value)}")
    if not INTEGER_MIN <= key <= INTEGER_MAX:
        raise ValueProblem("integer out of range")
    return key


def _whole(value: float) -> int:
    """Return the integer that a float holds exactly."""
    if not value.is_integer():
        raise ValueProblem("expected an integer, got a number with a fraction")
    if abs(value) >= _EXACT_FLOAT:
        raise ValueProblem("an integer this large must be digits alone: it would not be exact")
    return int(value)


def string_key(value: Any) -> str:
    """Return the byte-exact text that a value of a string field stands for.

    Raises:
        ValueProblem: the value is neither text nor an integer.
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is int:
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise ValueProblem("integer out of range")
        return str(value)
    raise ValueProblem(f"expected text, got {kind_of(value)}")


def boolean_key(value: Any) -> str:
    """Return ``true`` or ``false``, which a boolean, or its text in any case, stands for.

    Raises:
        ValueProblem: the value is neither.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise ValueProblem(f"expected true or false, got {kind_of(value)}")
    text = value.lower()
    if text not in ("true", "false"):
        raise ValueProblem("expected true or false, got other text")
    return text


KEYS: Mapping[Dtype, Callable[[Any], Any]] = MappingProxyType(
    {"integer": integer_key, "string": string_key, "boolean": boolean_key}
)
"""Raw value → canonical key, by the ``dtype`` of its field."""


def number(value: Any) -> float:
    """Return a JSON number as the float64 whose float32 rounding is the feature.

    Raises:
        ValueProblem: the value is not a number, or not finite in float32.
    """
    kind = type(value)
    if kind is int:
        try:
            value = float(value)
        except OverflowError:
            raise ValueProblem("number out of range") from None
    elif kind is not float:
        raise ValueProblem(f"expected a number, got {kind_of(value)}")
    if not -FLOAT32_BOUND < value < FLOAT32_BOUND:
        raise ValueProblem("number is not finite" if value != value else "number out of range")
    return value  # type: ignore[no-any-return]


def number_key(value: Any) -> float:
    """Return the float32 that a number, or the text of a number in a file, stands for.

    Raises:
        ValueProblem: the value is not a number, or not finite in float32.
    """
    if isinstance(value, str) and NUMBER_TEXT.fullmatch(value):
        value = float(value)
    return _rounded(number(value))


def float32_thresholds(edges: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return t so that, for every float64 x, float32(x) >= edge exactly if x >= t.

    A float64 halfway between two float32 numbers rounds to the one with the even last bit,
    so the threshold is that midpoint or the next float64 above it. With thresholds the hot path
    finds the bucket of a number without rounding it.
    """
    edges = np.asarray(edges, np.float32)
    below = np.nextafter(edges, np.float32(-np.inf), dtype=np.float32)
    middle = (below.astype(np.float64) + edges.astype(np.float64)) / 2
    rounds_up = middle.astype(np.float32) >= edges
    return np.where(rounds_up, middle, np.nextafter(middle, np.inf))


def _log_squared_thresholds() -> NDArray[np.float64]:
    """Return the smallest numbers above 2 whose squared natural logarithm reaches 1, 2, 3, ..."""
    top = int(math.log(3.4e38) ** 2) + 1
    exact = np.exp(np.sqrt(np.arange(1, top + 1, dtype=np.float64)))
    edges = exact[exact < float(np.finfo(np.float32).max)].astype(np.float32)
    below = np.log(edges.astype(np.float64)) ** 2 < np.arange(1, len(edges) + 1)
    return float32_thresholds(np.where(below, np.nextafter(edges, np.float32(np.inf)), edges))


LOG_SQUARED = _log_squared_thresholds()
_LOG_SQUARED_LIST: list[float] = LOG_SQUARED.tolist()
_ABOVE_TWO = float(
    float32_thresholds(np.nextafter(np.array([2], np.float32), np.float32(np.inf)))[0]
)


def log_squared_keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return floor(ln(x)²) for x > 2, else the integer part (cut toward zero), of float32(x).

    The winners of the Criteo display challenge prepared numbers so (3 Idiots, 2014), and published
    Criteo results do. Integer parts below -2^63 count as -2^63.
    """
    rounded = values.astype(np.float32).astype(np.float64)
    whole = np.maximum(np.minimum(np.trunc(rounded), 2.0), float(INTEGER_MIN)).astype(np.int64)
    buckets = np.searchsorted(LOG_SQUARED, values, side="right")
    return np.where(values >= _ABOVE_TWO, buckets, whole)


SCALED_BOUND = 10.0
"""Largest distance of a scaled number from the mean, in standard deviations; farther ones are cut.

Interactions grow with the product of two values. Without a bound one absurd number would drown
all else in a logit or overflow, and float32 could not keep the published tolerance.
"""


def _rounded(value: float) -> float:
    """Return the nearest float32."""
    found: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    return found


def scaled(value: float, mean: float, std: float) -> float:
    """Return the z-score of float32(x), cut at the bound."""
    clipped = max(-SCALED_BOUND, min(SCALED_BOUND, (_rounded(value) - mean) / std))
    # Adding zero turns -0.0, which tiny numbers round to, into 0.0: the bits must not differ.
    return _rounded(clipped) + 0.0


def scaled_column(values: NDArray[np.float64], mean: float, std: float) -> NDArray[np.float32]:
    """Return :func:`scaled` of many numbers, in float32."""
    rounded = values.astype(np.float32).astype(np.float64)
    clipped = np.clip((rounded - mean) / std, -SCALED_BOUND, SCALED_BOUND).astype(np.float32)
    found: NDArray[np.float32] = clipped + np.float32(0)
    return found


def log_squared_key(value: float) -> int:
    """Return :func:`log_squared_keys` of one number."""
    if value >= _ABOVE_TWO:
        return bisect_right(_LOG_SQUARED_LIST, value)
    return max(int(_rounded(value)), INTEGER_MIN)


def seconds(value: Any, zone: ZoneInfo, text_format: str | None = None) -> int:
    """Return the whole seconds since 1970 of a moment.

    A moment is a number of seconds, the same as text, or ISO 8601 text; with ``text_format`` it is
    text of that format only. Text without an offset is local time of ``zone``.

    Raises:
        ValueProblem: the value is none of these, or outside the years 1 to 9999.
    """
    if text_format is not None:
        # Such columns look like numbers in files ("14102100"), so a JSON integer is its text.
        try:
            moment = datetime.strptime(string_key(value), text_format)
        except ValueError:
            raise ValueProblem("text does not have the field's time format") from None
        return _to_seconds(moment, zone)
    if isinstance(value, str):
        if value[10:11] in _AFTER_DATE or not SECONDS_TEXT.fullmatch(value):
            return _to_seconds(_iso_moment(value), zone)
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueProblem(f"expected seconds or an ISO 8601 time, got {kind_of(value)}")
    if not SECONDS_MIN <= value <= SECONDS_MAX:
        raise ValueProblem("time out of range: expected seconds since 1970, not milliseconds")
    return math.floor(value)


def _iso_moment(text: str) -> datetime:
    """Return the moment of ISO 8601 text, in which a space may precede the offset, or UTC.

    The offset of a date without a time is refused: ``fromisoformat`` takes any character for the
    T before the time, and would read the offset as the time.
    """
    try:
        if text[10:11] in _AFTER_DATE:
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    spaceless = _SPACE_BEFORE_OFFSET.sub("", text)
    try:
        if text.endswith(("UTC", "GMT")):
            moment = datetime.fromisoformat(text[:-3].removesuffix(" "))
            if moment.tzinfo is None:
                return moment.replace(tzinfo=UTC)
        elif not _DATE_WITH_OFFSET.fullmatch(spaceless):
            return datetime.fromisoformat(spaceless)
    except ValueError:
        pass
    raise ValueProblem("expected seconds since 1970 or an ISO 8601 time")


def _to_seconds(moment: datetime, zone: ZoneInfo) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        return math.floor(moment.timestamp())
    except (OverflowError, ValueError):
        raise ValueProblem("time out of range") from None


@lru_cache(maxsize=65_536)
def time_parts(second: int, zone: ZoneInfo, parts: tuple[TimePart, ...]) -> tuple[int, ...]:
    """Return parts of the local date and hour at ``second`` (weekday 0 is Monday)."""
    shown: timezone | ZoneInfo = UTC if zone.key == "UTC" else zone
    try:
        local = datetime.fromtimestamp(second, shown)
    except (OverflowError, ValueError):
        raise ValueProblem("time out of range") from None
    return tuple(local.weekday() if part == "weekday" else getattr(local, part) for part in parts)
