"""The known name that an unknown one was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

NEAR = 0.7
"""Similarity, by ``difflib``, from which a known name is suggested; below it names only share
letters (``class_weight``, ``learning_rate``)."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the nearest known name; empty if none is near."""
    names = list(known)
    # Other letters only in their case are nearer than any that differ.
    folded = [each for each in names if each.casefold() == name.casefold()]
    found = folded or get_close_matches(name, names, 1, NEAR)
    return f"; did you mean {found[0]!r}?" if found else ""
