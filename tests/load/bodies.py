"""Bodies for a service's endpoints, made before the run so that the run only sends them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from tests.load.errors import UsageError
from tests.load.values import Draws, Shape, json_lines

_PART = re.compile(r"(?P<kind>(?P<endpoint>predict|rank):(?P<rows>[1-9]\d{0,5}))"
                   r"(?:=(?P<weight>\d+(?:\.\d+)?))?")  # fmt: skip
MOST_ROWS = 50_000
"""Rows in all bodies of one part of a mix: longer bodies are fewer."""
TOP_K = 20
_encode = msgspec.json.Encoder().encode


class Body(NamedTuple):
    """A request's body, where it goes, and how many scores the right answer has."""

    path: str
    content: bytes
    answers: int


class Part(NamedTuple):
    """A part of a mix: requests of one kind, with a share of all and bodies that are repeated."""

    kind: str
    share: float
    bodies: Sequence[Body]


def parse_mix(text: str) -> dict[str, float]:
    """Read ``predict:1=0.8,rank:100=0.2`` as shares by kind; weights need not add up to 1.

    Raises:
        UsageError: it is not that.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"{part.strip()!r}: expected predict:ROWS=WEIGHT or rank:ROWS=WEIGHT")
        if found["kind"] in weights:
            raise UsageError(f"{found['kind']!r} is there twice")
        weights[found["kind"]] = float(found["weight"] or 1)
        if not weights[found["kind"]]:
            raise UsageError(f"{part.strip()!r}: the weight must be above 0")
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items()}


class Maker:
    """Makes bodies out of drawn values; ``columnar`` is the share of columnar lists of /rank."""

    def __init__(
        self, shapes: Sequence[Shape], draws: Draws, distinct: int, columnar: float
    ) -> None:
        self._sides = {
            side: [shape.name for shape in shapes if shape.side == side]
            for side in ("context", "candidate")
        }
        self._draws = draws
        self._distinct = distinct
        self._columnar = columnar

    def mix(self, shares: Mapping[str, float]) -> list[Part]:
        """Make the bodies of every part of a mix."""
        return [Part(kind, share, self._bodies(kind)) for kind, share in shares.items()]

    def _bodies(self, kind: str) -> list[Body]:
        endpoint, _, size = kind.partition(":")
        rows = int(size)
        count = max(min(self._distinct, MOST_ROWS // rows), 1)
        if endpoint == "rank":
            columnar = round(count * self._columnar)
            return [self._rank(rows, number < columnar) for number in range(count)]
        instances = self._rows(["context", "candidate"], count * rows)
        return [
            Body("/predict", _encode({"instances": instances[first : first + rows]}), rows)
            for first in range(0, count * rows, rows)
        ]

    def _rank(self, rows: int, columnar: bool) -> Body:
        [context] = self._rows(["context"], 1)
        candidates: Any
        if columnar:
            columns = {name: self._draws.column(name, rows) for name in self._sides["candidate"]}
            candidates = {"id": list(range(rows)), "features": columns}
        else:
            features = self._rows(["candidate"], rows)
            candidates = [{"id": id_, "features": row} for id_, row in enumerate(features)]
        body = {"context": context, "candidates": candidates, "top_k": TOP_K}
        return Body("/rank", _encode(body), min(rows, TOP_K))

    def _rows(self, sides: Sequence[str], count: int) -> list[dict[str, Any]]:
        names = [name for side in sides for name in self._sides[side]]
        columns = [self._draws.column(name, count) for name in names]
        return [
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for row in zip(*columns, strict=True)
        ]


def read_bodies(path: Path) -> list[Part]:
    """Read bodies, one a line: ``instances`` go to /predict, ``candidates`` to /rank.

    The parts of the mix are then ``predict`` and ``rank``, in the file's proportion.

    Raises:
        UsageError: the file cannot be read, or a line is neither.
    """
    found: dict[str, list[Body]] = {}
    for where, content, body in json_lines(path):
        if isinstance(instances := body.get("instances"), list):
            found.setdefault("predict", []).append(Body("/predict", content, len(instances)))
            continue
        candidates = body.get("candidates")
        if isinstance(candidates, dict) and isinstance(candidates.get("features"), dict):
            columns = list(candidates["features"].values())
            candidates = columns[0] if columns else candidates.get("id")
        if not isinstance(candidates, list):
            raise UsageError(f"{where}: neither `instances` nor `candidates` is a list")
        top_k = body.get("top_k")
        most = top_k if isinstance(top_k, int) else len(candidates)
        found.setdefault("rank", []).append(Body("/rank", content, min(len(candidates), most)))
    total = sum(map(len, found.values()))
    return [Part(kind, len(bodies) / total, bodies) for kind, bodies in found.items()]


class Deck:
    """An endless seeded order of requests: parts by their shares, the bodies of each in turn."""

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._shares = [part.share for part in parts]
        self._turns = [self._turn(part.bodies) for part in parts]
        self._kinds = [part.kind for part in parts]

    def __iter__(self) -> Iterator[tuple[str, Body]]:
        shares = np.array(self._shares) / sum(self._shares)
        while True:
            for number in self._random.choice(len(shares), 4096, p=shares).tolist():
                yield self._kinds[number], next(self._turns[number])

    def _turn(self, bodies: Sequence[Body]) -> Iterator[Body]:
        while True:
            for place in self._random.permutation(len(bodies)).tolist():
                yield bodies[place]
