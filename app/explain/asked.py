"""``/explain`` bodies: what is asked, decoded and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from app.errors import Detail, Invalid, ServiceError
from app.explain.players import Baseline, FieldWords, Players
from app.features.nearest import suggestion
from app.scoring.decoding import decode
from app.scoring.problems import NAME_LENGTH
from app.scoring.wire import CandidateColumns, RankBody

MOST_CANDIDATES = 2
"""Candidates of a request: one, or one beside another."""


class ExplainBody(msgspec.Struct, frozen=True):
    """Body of ``POST /explain``; other keys are ignored.

    ``candidate`` are the features of one; ``candidates`` one or two, as ``/rank`` takes them.
    """

    context: msgspec.Raw
    candidate: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    candidates: list[msgspec.Raw] | CandidateColumns | msgspec.UnsetType = msgspec.UNSET
    baseline: Baseline = "mean"
    groups: dict[str, list[str]] = {}

    def __post_init__(self) -> None:
        if (self.candidate is msgspec.UNSET) == (self.candidates is msgspec.UNSET):
            raise ValueError("expected either candidate or candidates")


_decoder = msgspec.json.Decoder(ExplainBody)


class Asked(NamedTuple):
    """A decoded body."""

    rank: RankBody
    """Context and candidates, as ``/rank`` takes them."""
    alone: bool
    """There is one candidate, under the key ``candidate``."""
    baseline: Baseline
    players: Players


def read_asked(body: bytes, words: FieldWords) -> Asked:
    """Decode a body; context and candidates are decoded later.

    Raises:
        ServiceError: it is not JSON, or not of this form.
    """
    decoded = decode(_decoder, body)
    alone = decoded.candidate is not msgspec.UNSET
    candidates: list[msgspec.Raw] | CandidateColumns
    if decoded.candidate is not msgspec.UNSET:
        candidates = [msgspec.Raw(b'{"features":' + bytes(decoded.candidate) + b"}")]
    else:
        assert decoded.candidates is not msgspec.UNSET
        candidates = decoded.candidates
        _check(candidates)
    return Asked(
        RankBody(decoded.context, candidates, on_unknown="error"),
        alone,
        decoded.baseline,
        Players(words, _checked_groups(decoded.groups, words.fields)),
    )


def _check(candidates: Sequence[msgspec.Raw] | CandidateColumns) -> None:
    """Refuse lists that are too long before they are encoded, and the whole catalogue."""
    if isinstance(candidates, CandidateColumns):
        if candidates.all:
            raise _invalid("candidates.all", "name one or two items by ids")
        if candidates.ids is not None:
            check_count(len(candidates.ids), "candidates.ids")
    else:
        check_count(len(candidates), "candidates")


def check_count(candidates: int, path: str = "candidates") -> None:
    """Refuse any number but one and two.

    Raises:
        Invalid: it is another.
    """
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise _invalid(path, f"expected one or two candidates, got {candidates}")


def _checked_groups(groups: dict[str, list[str]], fields: Sequence[str]) -> dict[str, list[str]]:
    seen: set[str] = set()
    for name, members in groups.items():
        path = f"groups.{name[:NAME_LENGTH]}"
        if not members:
            raise _invalid(path, "expected at least one field")
        for place, field in enumerate(members):
            shown = field[:NAME_LENGTH]
            if field not in fields:
                raise _invalid(f"{path}[{place}]", f"unknown field{suggestion(shown, fields)}")
            if field in seen:
                raise _invalid(f"{path}[{place}]", "this field is in a group already")
            seen.add(field)
    for name, members in groups.items():
        if name in fields and name not in members:
            raise _invalid(f"groups.{name[:NAME_LENGTH]}", "this is the name of another field")
    return groups


def as_asked(error: ServiceError) -> ServiceError:
    """Return an error about the only candidate of a list as one about ``candidate``."""
    error.details = tuple(
        each._replace(path=re.sub(r"^candidates\[0\](\.features)?", "candidate", each.path))
        for each in error.details
    )
    return error


def _invalid(path: str, problem: str) -> Invalid:
    return Invalid("the request has invalid values", [Detail(path, problem)])
