"""Raw values for requests: for every field a pool, drawn from by Zipf's law of the position.

Whatever the pools come from, the values are as that field's rules want them, so that bodies made
of them are valid.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.features.vocabulary import Edges, Integers, SlotVocabulary
from tests.load.errors import UsageError

SYNTHETIC_VALUES = 10_000
LIST_LENGTHS = (1, 2, 3, 4, 5)
_OLDEST_SECONDS = 10**8
_HOURS = 168


class Shape(msgspec.Struct, frozen=True):
    """A field as ``GET /model`` tells of it."""

    name: str
    kind: Literal["categorical", "multi_categorical", "numeric", "time"]
    side: Literal["context", "candidate"]
    required: bool = False
    dtype: str | None = None

    @property
    def is_list(self) -> bool:
        """True if its value is a list."""
        return self.kind == "multi_categorical"


class Pool(msgspec.Struct, frozen=True):
    """The values of a field, commonest first; None stands for an absent one.

    Of a list field, ``values`` are what lists are made of and ``lengths`` how long they are.
    """

    values: Sequence[Any]
    lengths: Sequence[int | None] | None = None


Pools = Mapping[str, Pool]


class Draws:
    """Seeded draws; the value at position r is as frequent as r to the power -``exponent``."""

    def __init__(self, pools: Pools, exponent: float, seed: int) -> None:
        self._pools = pools
        self._exponent = exponent
        self._random = np.random.default_rng(seed)
        self._cumulated: dict[int, NDArray[np.float64]] = {}

    def column(self, field: str, count: int) -> list[Any]:
        """Draw ``count`` values of a field."""
        pool = self._pools[field]
        if pool.lengths is None:
            return self._draw(pool.values, count)
        lengths = self._draw(pool.lengths, count)
        tokens = iter(self._draw(pool.values, sum(length or 0 for length in lengths)))
        return [
            None if length is None else [next(tokens) for _ in range(length)] for length in lengths
        ]

    def _draw(self, values: Sequence[Any], count: int) -> list[Any]:
        size = len(values)
        if size not in self._cumulated:
            weights = np.arange(1, size + 1, dtype=np.float64) ** -self._exponent
            self._cumulated[size] = np.cumsum(weights) / weights.sum()
        # Rounding may leave the last bound a little below 1.
        places = np.searchsorted(self._cumulated[size], self._random.random(count), side="right")
        return [values[place] for place in np.minimum(places, size - 1).tolist()]


def synthetic(shapes: Iterable[Shape], example: Mapping[str, Any], seed: int) -> dict[str, Pool]:
    """Make pools out of nothing but the kinds of the fields.

    Integers are valid for every categorical field that is not boolean. ``example`` is a row
    that the service is known to take: it shows how a time is written.
    """
    random = np.random.default_rng(seed)
    pools = {}
    for shape in shapes:
        numbers = range(1, SYNTHETIC_VALUES + 1)
        if shape.kind == "numeric":
            pools[shape.name] = Pool(np.round(random.lognormal(1, 1, 1000), 2).tolist())
        elif shape.kind == "time":
            pools[shape.name] = Pool(_moments(example.get(shape.name, int(time.time()))))
        else:
            values = (True, False) if shape.dtype == "boolean" else numbers
            pools[shape.name] = Pool(values, LIST_LENGTHS if shape.is_list else None)
    return pools


def _moments(moment: Any) -> list[Any]:
    """A week of hours before a moment in seconds; the moment alone in another notation."""
    if isinstance(moment, int) and moment >= _OLDEST_SECONDS:
        return [moment - 3600 * hours for hours in range(_HOURS)]
    return [moment]


def from_bundle(bundle: Bundle, shapes: Sequence[Shape], seed: int) -> dict[str, Pool]:
    """Make pools of the values that a bundle knows; times are those of its golden requests.

    Raises:
        UsageError: the bundle lacks a field of the service.
    """
    known = {field.name for field in bundle.spec.fields}
    if missing := [shape.name for shape in shapes if shape.name not in known]:
        raise UsageError(f"{bundle.path}: the bundle has no field {missing[0]!r}")
    rows = [side for each in bundle.examples for side in (each.context, *each.candidates)]
    pools = synthetic(shapes, {}, seed)
    for shape in shapes:
        if shape.kind == "time":
            seen = Counter(row[shape.name] for row in rows if row.get(shape.name) is not None)
            values: Sequence[Any] = [value for value, _ in seen.most_common()]
        else:
            values = _known(bundle.vocabulary.slots[shape.name], shape)
        if values:
            pools[shape.name] = Pool(values, pools[shape.name].lengths)
    return pools


def _known(slot: SlotVocabulary, shape: Shape) -> Sequence[Any]:
    if isinstance(slot, Edges):
        return [float(edge) for edge in slot.edges]
    keys = list(slot.lookup())
    if shape.kind == "numeric" and isinstance(slot, Integers):
        # Above 2 the key of a number is the whole part of its squared logarithm.
        return [float(key) if key <= 2 else math.exp(math.sqrt(key + 0.5)) for key in keys]
    return keys


def from_rows(path: Path, shapes: Sequence[Shape]) -> dict[str, Pool]:
    """Make pools of the values in a file of raw rows, one JSON object a line, commonest first.

    Raises:
        UsageError: the file cannot be read, or a line or a value is not what it must be.
    """
    lists = [shape.name for shape in shapes if shape.is_list]
    counts: dict[str, Counter[Any]] = {shape.name: Counter() for shape in shapes}
    lengths: dict[str, Counter[int | None]] = {name: Counter() for name in lists}
    for where, _, row in json_lines(path):
        for shape in shapes:
            value = row.get(shape.name)
            if value is None and shape.required:
                raise UsageError(f"{where}: the required field {shape.name!r} is absent")
            if shape.is_list and not isinstance(value, list | None):
                raise UsageError(f"{where}: {shape.name!r} must be a list")
            if isinstance(value, list) and None in value:
                raise UsageError(f"{where}: {shape.name!r} has a null in its list")
            if shape.is_list:
                lengths[shape.name][None if value is None else len(value)] += 1
            tokens = (value or []) if shape.is_list else [value]
            try:
                counts[shape.name].update(tokens)
            except TypeError:
                raise UsageError(f"{where}: {shape.name!r} holds a list or an object") from None
    pools = {}
    for name, counted in counts.items():
        values = [value for value, _ in counted.most_common()]
        sizes = [size for size, _ in lengths[name].most_common()] if name in lengths else None
        pools[name] = Pool(values or [None], sizes)
    return pools


class Line(NamedTuple):
    """A line of a file that holds one JSON object; ``where`` names it in messages."""

    where: str
    content: bytes
    value: dict[str, Any]


def json_lines(path: Path) -> list[Line]:
    """Read a file of one JSON object a line; empty lines are skipped.

    Raises:
        UsageError: it cannot be read, is empty, or a line is something else.
    """
    try:
        contents = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    lines = []
    for number, content in enumerate(contents, 1):
        if not content.strip():
            continue
        where = f"{path}, line {number}"
        try:
            lines.append(Line(where, content, decode(content)))
        except msgspec.DecodeError as error:
            raise UsageError(f"{where}: {error}") from error
    if not lines:
        raise UsageError(f"{path}: there is no line in it")
    return lines
