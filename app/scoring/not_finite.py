"""NaN, Infinity and numbers that overflow, which some JSON writers produce: where they are.

The decoder stops at the first one and tells a byte position. These functions name the fields. They
run for refused bodies only, but hold the event loop, so a long body is read by another way than a
short one: json makes objects of all its values, which takes 40 times as long as msgspec's cutting a
body into its parts.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, islice

import msgspec
import numpy as np

from app.errors import Detail

MAX_DETAILS = 10
"""Problems of a request that are named."""
SHORT_BYTES = 256 * 1024
"""Bytes of a body that is read in the way of short ones."""
MAX_COUNTED = 1_000
"""Such numbers of a long body that are counted."""
MAX_DEPTH = 8
"""Steps of a path in a long body; each takes a reading of the part that it leads into."""
MAX_PATH = 256
"""Characters of a path in an error; a body may hold names of any length at any depth."""
MAX_STEP = 64
"""Characters of one name in a path."""
MAX_DIGITS = 4_300
"""Digits of the longest integer that Python reads from text."""
PROBLEM = "number is not finite"
LITERALS = b"-Infinity", b"Infinity", b"NaN"
"""The order matters: replacing the second first would spoil the first."""
_BEFORE, _AFTER = b":,[ \t\r\n", b",]} \t\r\n"
_container = msgspec.json.Decoder(list[msgspec.Raw] | dict[str, msgspec.Raw])


def find_not_finite(body: bytes, where: str = "") -> tuple[list[Detail], int]:
    """Return the first few numbers that are not finite, and how many there are.

    ``where`` is the path of a ``body`` that is a part of another one. Nothing is found in a body
    that is not JSON but for such numbers. In a long body only the literals are looked for; a number
    that overflows is found when its row is decoded.
    """
    find = _in_short if len(body) <= SHORT_BYTES else _in_long
    paths, total = find(body)
    return [Detail(_joined([where, *path]), PROBLEM) for path in paths], total


def _joined(steps: list[str]) -> str:
    """Join a path and cut it to its limit; characters that UTF-8 lacks are shown as escapes."""
    path = "".join(steps).lstrip(".") or "body"
    if len(path) > MAX_PATH:
        path = f"{path[:MAX_PATH]}…"
    return path.encode("utf-8", "backslashreplace").decode()


def _in_short(body: bytes) -> tuple[list[list[str]], int]:
    try:
        tree = json.loads(body, parse_int=_integer)
    except (ValueError, RecursionError):
        return [], 0
    paths: list[list[str]] = []
    total = 0
    # A loop, because json reads deeper nesting than Python's recursion limit allows.
    path: list[str] = []
    open_items = [iter([("", tree)])]
    while open_items:
        for step, value in open_items[-1]:
            if isinstance(value, float):
                if not math.isfinite(value):
                    total += 1
                    if len(paths) < MAX_DETAILS:
                        paths.append([*path, step])
            elif isinstance(value, dict):
                path.append(step)
                open_items.append((f".{key[:MAX_STEP]}", item) for key, item in value.items())
                break
            elif isinstance(value, list):
                path.append(step)
                open_items.append((f"[{number}]", item) for number, item in enumerate(value))
                break
        else:
            open_items.pop()
            if path:
                path.pop()
    return paths, total


def _integer(text: str) -> float:
    """Stand in for an integer; one with more digits than Python reads counts as an overflow."""
    return 0 if len(text) < MAX_DIGITS else math.inf


def _in_long(body: bytes) -> tuple[list[list[str]], int]:
    """Put zeros of the same length in the literals' places, so that the body can be cut up."""
    places = sorted(chain(*(islice(_ends(body, word), MAX_COUNTED) for word in LITERALS)))
    places = places[:MAX_COUNTED]
    if not places:
        return [], 0
    patched = body
    for word in LITERALS:
        if word in body:
            patched = patched.replace(word, b"0".rjust(len(word)))
    try:
        parts = _Parts(patched)
        return [parts.path(place) for place in places[:MAX_DETAILS]], len(places)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return [], 0


def _ends(body: bytes, literal: bytes) -> Iterator[int]:
    """Yield the last place of each literal between characters that may surround a value."""
    stop = 0
    while (start := body.find(literal, stop)) >= 0:
        stop = start + len(literal)
        if body[start - 1 : start] in _BEFORE and body[stop : stop + 1] in _AFTER:
            yield stop - 1


class _Parts:
    """The parts of a body, cut only where a place is looked for, and each only once."""

    def __init__(self, body: bytes) -> None:
        self._body = msgspec.Raw(body)
        self._base = _address(self._body)
        self._known: dict[int, tuple[list[str], list[msgspec.Raw]]] = {}

    def path(self, place: int) -> list[str]:
        """Return the steps from the body to the value at a place, down to the deepest level."""
        steps: list[str] = []
        part = self._body
        while len(steps) < MAX_DEPTH:
            names, parts = self._cut(part)
            child = bisect_right(parts, place, key=self._start) - 1
            if child < 0:
                break
            steps.append(names[child] if names else f"[{child}]")
            part = parts[child]
            if bytes(memoryview(part)[:1]) not in (b"{", b"["):
                break
        return steps

    def _cut(self, part: msgspec.Raw) -> tuple[list[str], list[msgspec.Raw]]:
        """Return the steps to a container's parts (none for a list's), and the parts in order."""
        start = self._start(part)
        if start not in self._known:
            found = _container.decode(part)
            if isinstance(found, dict):
                names = [f".{name[:MAX_STEP]}" for name in found]
                self._known[start] = names, list(found.values())
            else:
                self._known[start] = [], found
        return self._known[start]

    def _start(self, part: msgspec.Raw) -> int:
        """Return the place of a part in the body, of which it is a view."""
        return _address(part) - self._base


def _address(part: msgspec.Raw) -> int:
    address: int = np.frombuffer(part, np.uint8).__array_interface__["data"][0]
    return address
