"""The problems of a request's values and field names, collected for one answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from itertools import islice
from typing import Any

from app.errors import Detail, Invalid, ValueProblem
from app.features.encoder import Encoder, SideEncoder
from app.features.nearest import suggestion
from app.features.spec import Side
from app.scoring.not_finite import MAX_DETAILS

NAME_LENGTH = 64
"""Characters of an unknown field's name that are shown and compared."""
_LOGGED_NAMES = 1_000
"""Unknown names that the log tells, each once."""
log = logging.getLogger(__name__)


class Problems:
    """The problems of one request: all are counted, the first few are kept."""

    def __init__(self) -> None:
        self.details: list[Detail] = []
        self.total = 0

    def add(self, path: str, problem: ValueProblem) -> None:
        """Add the problem of the value at ``path``."""
        place = "" if problem.position is None else f"[{problem.position}]"
        self.add_detail(lambda: Detail(path + place, problem.problem))

    def add_detail(self, detail: Callable[[], Detail]) -> None:
        """Count a problem; ``detail`` is called only where the problem is kept."""
        self.total += 1
        if len(self.details) < MAX_DETAILS:
            self.details.append(detail())

    def add_many(self, details: Iterable[Detail], count: int) -> None:
        """Count problems, and keep some of their details."""
        self.total += count
        self.details += islice(details, MAX_DETAILS - len(self.details))

    def add_row(self, side: SideEncoder, row: Mapping[str, Any], path: str) -> None:
        """Add the problems of all values of one side in the row at ``path``."""
        for name, problem in side.problems(row):
            self.add(f"{path}.{name}", problem)

    def raise_if_any(self) -> None:
        """Refuse the request if it has a problem.

        Raises:
            Invalid: it has; the error holds the details.
        """
        if self.total:
            raise Invalid("the request has invalid values", self.details, self.total)


class FieldNames:
    """Checks field names: unknown ones are refused or ignored, misplaced ones refused.

    A misplaced field stands on the wrong side of a ``/rank`` body. Ignoring it would change the
    score, so it is a problem whatever the setting.
    """

    def __init__(
        self,
        encoder: Encoder,
        known_only: bool,
        count_unknown: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``known_only`` refuses unknown fields; otherwise ``count_unknown`` counts them."""
        self._known = encoder.fields
        self._sides: dict[Side, frozenset[str]] = {
            "context": encoder.context.fields,
            "candidate": encoder.candidate.fields,
        }
        self._known_only = known_only
        self._count_unknown = count_unknown
        self._logged: set[str] = set()

    def check(self, names: Iterable[str], path: str, problems: Problems) -> None:
        """Check the names of a row that may have the fields of both sides."""
        # A name may be as long as the body; its start identifies it.
        unknown = [name[:NAME_LENGTH] for name in names if name not in self._known]
        if self._known_only:
            for name in unknown:
                problems.add_detail(partial(self._unknown_field, path, name))
            return
        self._ignore(unknown, "unknown field %r ignored")

    def check_keys(self, unknown: Sequence[str], known: Set[str], problems: Problems) -> None:
        """Refuse or ignore keys of a body that are not among the ``known``, as unknown fields."""
        names = [name[:NAME_LENGTH] for name in unknown]
        if self._known_only:
            told = (Detail(name, f"unknown key{suggestion(name, known)}") for name in names)
            problems.add_many(told, len(names))
            return
        self._ignore(names, "unknown key %r of a request ignored")

    def _ignore(self, unknown: Sequence[str], text: str) -> None:
        """Count names that are ignored; the log tells each once."""
        self._count_unknown(len(unknown))
        if len(self._logged) < _LOGGED_NAMES:
            for name in unknown[:_LOGGED_NAMES]:
                if name not in self._logged:
                    self._logged.add(name)
                    log.warning(text, name)

    def check_side(self, side: Side, names: Iterable[str], path: str, problems: Problems) -> None:
        """Check the names of a row that may have the fields of one side only."""
        other: Side = "candidate" if side == "context" else "context"
        for name in names:
            if name in self._sides[other]:
                problems.add(f"{path}.{name}", ValueProblem(f"this is a {other} field"))
        self.check(names, path, problems)

    def _unknown_field(self, path: str, name: str) -> Detail:
        return Detail(f"{path}.{name}", f"unknown field{suggestion(name, self._known)}")
