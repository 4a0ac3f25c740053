"""Bodies that no caller should send, made out of valid ones: what is wrong is known, or anything.

Body number n of a seed is always the same, whatever was made before it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from tests.support.samples import CANDIDATE, candidate_of, context_of

Row = dict[str, Any]
Place = tuple[Any, Any]
"""Something that holds a value, and the value's key or position in it."""


class Made(NamedTuple):
    """A body, and the one path that its refusal must name; without one it may be valid."""

    path: str
    body: bytes
    wrong: str | None


class Raw(NamedTuple):
    """Bytes that stand in a body as they are."""

    text: bytes


class Twice(NamedTuple):
    """Two values of one key."""

    first: Any
    second: Any


NUMBERS_THAT_ARE_NONE = [Raw(text) for text in (b"NaN", b"-Infinity", b"1e400", b"9" * 5_000)]
NO_NUMBER = [True, "3", "", {}, [], [1], 1e39, -1e39, 10**60, *NUMBERS_THAT_ARE_NONE]
NO_INTEGER = [True, 1.5, "abc", "007", " 7", "1e-3", {}, [], 2**64, -(2**63) - 1, "9" * 30]
NO_TEXT = [False, 1.5, {}, {"a": [1, {}]}, [], ["DE"], 2**64]
NO_TIME = [True, "yesterday", {}, [], 1e300, -(10**12), "2026-13-01"]
NO_LIST = ["news", 3, 1.5, True, {}, {"0": "news"}]
WRONG: dict[str, list[Any]] = {
    "user_id": NO_INTEGER, "country": NO_TEXT, "time": NO_TIME, "age": NO_NUMBER,
    "placement": [*NO_TEXT, None, ""], "item_id": NO_INTEGER, "tags": NO_LIST,
    "price": NO_NUMBER, "quality": NO_NUMBER,
}  # fmt: skip
NO_TAG = [None, True, 1.5, {}, []]

ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, "", "0", "é", "\x00", "\ud800", "NaN", [], {}, [[]], [None],
    {"": {}}, 2**53, 2**63, 2**64, 10**30, 10**400, -0.0, 1e-320, 1e308, "x" * 300,
    *NUMBERS_THAT_ARE_NONE, Raw(b'"\\ud800"'), Raw(b'"\\u0000"'), Raw(b'"\xff"'), Raw(b"-0"),
    Raw(b"01"), Raw(b".5"), Raw(b"+1"), Raw(b"1e5"), Raw(b"0x10"), Raw(b"'a'"), Raw(b"undefined"),
    Raw(b""), Raw(b" "), Raw(b"\xef\xbb\xbf1"), Raw(b"/* */1"), Raw(b'"\t"'), Raw(b"1" * 400),
]  # fmt: skip
KEYS = ["", "instances", "context", "candidates", "features", "id", "top_k", "user_id", "price",
        "placement", "tags", "\ud800", "\x00", "__class__", "k" * 5_000, "a.b[0]"]  # fmt: skip
SIZES = [0, 1, 2, 3, 5, 17, 65, 300]
RARE_SIZE = 6_000
MAX_LIST_BYTES = 1_000_000
GROWN = 0.15
"""Share of the bodies in which a list grows; last of all, for what it repeats is one object, and
another mutation of that would be in thousands of places."""
DEPTHS = [1, 3, 30, 500, 5_000, 100_000]
PIECES: list[bytes] = [
    b"null", b"true", b"[]", b"{}", b'""', b"0", b"-1", b"1.5", b"1e400", b"NaN", b"-Infinity",
    b'"\\ud800"', b'"\\u0000"', b"\xff", b",", b":", b"{", b"}", b"[", b"]", b'"', b"9" * 25,
    b"1e308", b"[[[[[[[[]]]]]]]]", b'{"a":{"b":[1]}}', b"18446744073709551616", b"-0", b"-0.0",
]  # fmt: skip
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|\[\]|null')


class Maker:
    """Makes bodies out of rows of the sample."""

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self._rows = rows
        self._seed = seed

    def make(self, number: int) -> Made:
        """Return body ``number``: a third have one wrong value at a known place."""
        rng = random.Random(f"{self._seed} {number}")
        path, tree = self._valid(rng)
        if number % 3 == 0:
            wrong = spoil(rng, tree)
            return Made(path, write(tree), wrong)
        for _ in range(rng.randrange(1, 4)):
            rng.choice(MUTATIONS)(rng, tree)
        if rng.random() < GROWN:
            _grow(rng, tree)
        body = write(tree)
        if number % 3 == 1:
            body = damage(rng, body)
        return Made(path, body, None)

    def _valid(self, rng: random.Random) -> tuple[str, Row]:
        """A valid request in one of its forms."""
        rows = [deepcopy(row) for row in rng.sample(self._rows, 3)]
        form = rng.randrange(4)
        if form == 0:
            return "/predict", {"instances": rows}
        if form == 1:
            return "/v1/models/ctr:predict", {"signature_name": "x", "instances": rows}
        context, candidates = context_of(rows[0]), [candidate_of(row) for row in rows]
        if form == 2:
            shown: Any = [{"id": n, "features": each} for n, each in enumerate(candidates)]
        else:
            columns = {name: [each.get(name) for each in candidates] for name in CANDIDATE}
            shown = {"id": ["a", 2, None], "features": columns}
        return "/rank", {"context": context, "candidates": shown, "top_k": 2}


def spoil(rng: random.Random, tree: Row) -> str:
    """Put one wrong value into a valid request; return the path that must be named."""
    places: list[tuple[Any, str, str]] = []
    if "instances" in tree:
        for number, row in enumerate(tree["instances"]):
            places += [(row, name, f"instances[{number}].{name}") for name in WRONG]
    else:
        context = [name for name in WRONG if name not in CANDIDATE]
        places += [(tree["context"], name, f"context.{name}") for name in context]
        candidates = tree["candidates"]
        for name in CANDIDATE:
            if isinstance(candidates, list):
                for number, each in enumerate(candidates):
                    shown = f"candidates[{number}].features.{name}"
                    places.append((each["features"], name, shown))
            else:
                shown = f"candidates.features.{name}"
                places.append((candidates["features"], name, shown))
    holder, name, path = rng.choice(places)
    value = rng.choice(WRONG[name])
    if name == "tags" and rng.random() < 0.5:
        value = ["news", rng.choice(NO_TAG)]
        item = "[1]"
    else:
        item = ""
    if "candidates.features" in path:
        position = rng.randrange(3)
        holder[name][position] = value
        return f"{path}[{position}]{item}"
    if name == "placement" and value is None and rng.random() < 0.5:
        holder.pop(name, None)
    else:
        holder[name] = value
    return path + item


def places_of(tree: Any) -> list[Place]:
    """Every place of a value in a tree."""
    found: list[Place] = []
    open_items = [tree]
    while open_items:
        node = open_items.pop()
        keys: Any = ()
        if isinstance(node, dict):
            keys = node
        elif isinstance(node, list):
            keys = range(len(node))
        for key in keys:
            found.append((node, key))
            open_items.append(node[key])
    return found


def _somewhere(rng: random.Random, tree: Row) -> Place:
    found = places_of(tree)
    return rng.choice(found) if found else (tree, "")


def _replace(rng: random.Random, tree: Row) -> None:
    holder, key = _somewhere(rng, tree)
    holder[key] = deepcopy(rng.choice(ODD))


def _remove(rng: random.Random, tree: Row) -> None:
    holder, key = _somewhere(rng, tree)
    if isinstance(holder, list) or key in holder:
        del holder[key]


def _add(rng: random.Random, tree: Row) -> None:
    holder, _ = _somewhere(rng, tree)
    if isinstance(holder, dict):
        holder[rng.choice(KEYS)] = deepcopy(rng.choice(ODD))
    else:
        holder.insert(rng.randrange(len(holder) + 1), deepcopy(rng.choice(ODD)))


def _rename(rng: random.Random, tree: Row) -> None:
    holder, key = _somewhere(rng, tree)
    if isinstance(holder, dict) and key in holder:
        holder[rng.choice(KEYS)] = holder.pop(key)


def _repeat_key(rng: random.Random, tree: Row) -> None:
    holder, key = _somewhere(rng, tree)
    if isinstance(holder, dict) and key in holder and not isinstance(holder[key], Twice):
        both = [holder[key], deepcopy(rng.choice(ODD))]
        rng.shuffle(both)
        holder[key] = Twice(*both)


def _nest(rng: random.Random, tree: Row) -> None:
    holder, key = _somewhere(rng, tree)
    depth = rng.choice(DEPTHS)
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    holder[key] = Raw(opening * depth + b"1" + closing * rng.choice([depth, depth, depth - 1]))


def _grow(rng: random.Random, tree: Row) -> None:
    lists = [node for holder, key in places_of(tree) if isinstance(node := holder[key], list)]
    if lists:
        chosen = rng.choice(lists)
        size = RARE_SIZE if rng.random() < 0.02 else rng.choice(SIZES)
        # Its items may be long by now.
        size = min(size, MAX_LIST_BYTES * len(chosen) // len(write(chosen)))
        chosen[:] = (chosen * (size // max(1, len(chosen)) + 1))[:size]


def _lengthen(rng: random.Random, tree: Row) -> None:
    holder, key = _somewhere(rng, tree)
    holder[key] = rng.choice("xé€\U0001f600") * rng.choice([100, 5_000, 40_000])


def _swap(rng: random.Random, tree: Row) -> None:
    (first, one), (second, two) = _somewhere(rng, tree), _somewhere(rng, tree)
    if one in (first if isinstance(first, dict) else range(len(first))):
        copied = deepcopy(first[one])
        second[two] = copied


MUTATIONS: list[Callable[[random.Random, Row], None]] = [
    _replace, _replace, _replace, _remove, _add, _rename, _repeat_key, _nest, _lengthen, _swap,
]  # fmt: skip


def write(node: Any) -> bytes:
    """Write a tree, with raw bytes as they are and repeated keys repeated."""
    if isinstance(node, Raw):
        return node.text
    if isinstance(node, Twice):
        # Where it has no key: in a list.
        return write(node.first)
    if isinstance(node, dict):
        members = []
        for key, value in node.items():
            values = value if isinstance(value, Twice) else (value,)
            members += [_scalar(key) + b":" + write(each) for each in values]
        return b"{" + b",".join(members) + b"}"
    if isinstance(node, list):
        return b"[" + b",".join(map(write, node)) + b"]"
    return _scalar(node)


def _scalar(value: Any) -> bytes:
    """Write what holds nothing else; a lone surrogate as its three bytes, which UTF-8 forbids."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def damage(rng: random.Random, body: bytes) -> bytes:
    """Damage a body at one to three places: bytes, or whole values."""
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(6)
        place = rng.randrange(len(body) + 1)
        if kind < 3 and (values := list(_VALUE.finditer(body[:4_096]))):
            found = rng.choice(values)
            body = body[: found.start()] + rng.choice(PIECES) + body[found.end() :]
        elif kind == 3:
            body = body[:place] + rng.choice(PIECES) + body[place:]
        elif kind == 4:
            body = body[:place] + body[place + rng.randrange(1, 20) :]
        else:
            body = body[:place] + bytes([rng.randrange(256)]) + body[place + 1 :]
    return body
