"""Candidate lists that name items of the catalogue → encoded rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.errors import Detail, Invalid, TooLarge, ValueProblem
from app.features.arrays import Indices, Packed
from app.features.column_encoding import Misses
from app.features.encoder import FieldProblems, SideEncoder
from app.features.nearest import suggestion
from app.off_loop import run_off_loop
from app.scoring.decoding import check_size, condition_decoder, decode_part, where_decoder
from app.scoring.items import UNKNOWN, Items, Mask
from app.scoring.job import ListedItems, ScoringRequest, Slots
from app.scoring.limits import Limits
from app.scoring.problems import NAME_LENGTH, Problems
from app.scoring.steps import Steps
from app.scoring.wire import CandidateColumns, OnUnknown

CountLookups = Callable[[int, int], None]
"""Counts ids that were found, and ids that were not."""
_LIST = "candidates"


class _Keys(msgspec.Struct):
    candidates: dict[str, msgspec.Raw]


_keys_decoder = msgspec.json.Decoder(_Keys)


Context = Callable[[], Steps[Indices]]
"""Gives the request's context as an encoded row [1, width]."""


class ListedRows(NamedTuple):
    """The encoded rows of listed items [N, width]."""

    rows: Indices
    places: Indices | None
    """Their places in the request's ``ids``; None if it lists none."""
    slots: Slots | None
    """The places of their item parts, if any are held."""


class ItemLists:
    """Finds the rows of listed items, and encodes the values that the request has of its own."""

    def __init__(
        self,
        items: Items | None,
        candidate: SideEncoder,
        limits: Limits,
        on_unknown: OnUnknown,
        count: CountLookups,
    ) -> None:
        self._items = items
        self._candidate = candidate
        self._limits = limits
        self._on_unknown = on_unknown
        self._count = count

    def rows(
        self,
        listed: CandidateColumns,
        body: bytes,
        on_unknown: OnUnknown | None,
        request: ScoringRequest,
        context: Context,
    ) -> Steps[ListedRows]:
        """Return the row of each listed item that is there; of ``all`` those that the first cut
        leaves, if there is to be one.

        Tells the request the items and the ids that are not there.

        Raises:
            ServiceError: the list, or its context, is refused.
        """
        items = self._items
        if items is None:
            raise _invalid(_LIST, "this service has no catalogue of items: see CTR_STORE")
        _check_keys(body)
        if listed.id is not None:
            raise _invalid(f"{_LIST}.id", "items are named by ids")
        self._check_count("exclude", len(listed.exclude))
        kept = self._chosen(items, listed, body)
        if listed.all:
            return (yield from self._all(items, listed, kept, request, context))
        return self._of_ids(items, listed, kept, on_unknown, request)

    def _of_ids(
        self,
        items: Items,
        listed: CandidateColumns,
        kept: Mask | None,
        on_unknown: OnUnknown | None,
        request: ScoringRequest,
    ) -> ListedRows:
        assert listed.ids is not None
        if listed.prefilter is not None:
            raise _invalid(f"{_LIST}.prefilter", "a first cut is made of all, not of ids")
        self._check_count("ids", len(listed.ids))
        places = items.find(listed.ids)
        there = places != UNKNOWN
        if there.all() and kept is None:
            # Most requests: every id is known, and nothing is left out.
            self._count(len(places), 0)
            request.ids = [*listed.ids]
            request.listed = ListedItems(range(len(places)), (), False)
            every = np.arange(len(places), dtype=np.int32)
            return ListedRows(items.rows(places), every, items.slots(places))
        unknown = [(place, listed.ids[place]) for place in np.flatnonzero(~there).tolist()]
        self._count(len(places) - len(unknown), len(unknown))
        asked = on_unknown or self._on_unknown
        if unknown and asked == "error":
            problems = Problems()
            for place, _ in unknown:
                problems.add(f"{_LIST}.ids[{place}]", ValueProblem("unknown item"))
            problems.raise_if_any()
        if kept is not None:
            there &= kept[places]
        ranked = np.flatnonzero(there).astype(np.int32)
        places_ranked = ranked.tolist()
        request.ids = [listed.ids[place] for place in places_ranked]
        request.listed = ListedItems(places_ranked, unknown, asked == "last")
        found = places[ranked]
        return ListedRows(items.rows(found), ranked, items.slots(found))

    def _chosen(self, items: Items, listed: CandidateColumns, body: bytes) -> Mask | None:
        """Return for each place whether ``where`` and ``exclude`` leave it; None if all are."""
        kept: Mask | None = None
        if listed.where is not msgspec.UNSET:
            check_size(listed.where, self._limits.max_row_bytes, f"{_LIST}.where")
            where = decode_part(where_decoder, body, listed.where, f"{_LIST}.where")
            problems = Problems()
            for field, part in (where or {}).items():
                condition = decode_part(condition_decoder, body, part, f"{_LIST}.where", field)
                try:
                    mask = items.mask(field, condition)
                except ValueProblem as problem:
                    problems.add(f"{_LIST}.where.{field[:NAME_LENGTH]}", problem)
                else:
                    kept = mask if kept is None else kept & mask
            problems.raise_if_any()
        if listed.exclude:
            excluded = items.find(listed.exclude)
            kept = items.everywhere() if kept is None else kept
            kept[excluded[excluded != UNKNOWN]] = False
        return kept

    def _all(
        self,
        items: Items,
        listed: CandidateColumns,
        kept: Mask | None,
        request: ScoringRequest,
        context: Context,
    ) -> Steps[ListedRows]:
        if listed.ids is not None:
            raise _invalid(f"{_LIST}.all", "give all or ids, not both")
        if listed.features is not msgspec.UNSET:
            raise _invalid(f"{_LIST}.features", "values stand beside ids, not beside all")
        found = items.all()
        if kept is not None:
            found = found[kept[found]]
        most = self._limits.max_catalogue_rows
        if listed.prefilter is not None:
            if listed.prefilter > most:
                raise _invalid(f"{_LIST}.prefilter", f"expected at most {most}")
            found = yield from self._first_cut(items, found, listed.prefilter, context)
        elif len(found) > most:
            raise _invalid(
                f"{_LIST}.all",
                f"{len(found)} items would be ranked, over {most}: give prefilter or where",
            )
        request.ids = [*items.ids(found)]
        request.listed = ListedItems(None, (), False)
        return ListedRows(items.rows(found), None, items.slots(found))

    def _first_cut(
        self, items: Items, found: Indices, most: int, context: Context
    ) -> Steps[Indices]:
        """Return the places of the best items by the first cut."""
        row = yield from context()
        # Until the places are read again below, no other item takes one of them.
        lease = items.lease()
        try:
            cut = items.first_cut(found, row, most)
        except ValueProblem as problem:
            raise _invalid(f"{_LIST}.prefilter", str(problem)) from problem
        cutting = asyncio.ensure_future(run_off_loop(cut))
        yield cutting
        best = items.held(cutting.result())
        del lease
        return best

    def _check_count(self, name: str, count: int) -> None:
        if count > self._limits.max_candidates:
            raise TooLarge(f"more than {self._limits.max_candidates} candidates in {name}")

    def encode(
        self,
        listed: ListedRows,
        columns: Mapping[str, list[Any]],
        problems: Problems,
        misses: Misses | None,
        start: int,
        stop: int,
    ) -> Steps[Packed]:
        """Encode the rows from ``start`` to ``stop``.

        ``columns`` are the request's own values, one for each of its ids.
        """
        part = listed.rows[start:stop]
        if part.size and columns and listed.places is not None:
            own = listed.places[start:stop].tolist()
            given = {name: [values[place] for place in own] for name, values in columns.items()}
            try:
                yield from self._candidate.replace_steps(part, given, misses)
            except FieldProblems as wrong:
                for name, column in wrong.fields.items():
                    for row, problem in column.problems:
                        problems.add(f"{_LIST}.features.{name}[{own[row]}]", problem)
        return np.ascontiguousarray(part).data.cast("B")


def _check_keys(body: bytes) -> None:
    """Refuse keys of the list that have no meaning: a misspelt ``exclude`` would rank too much."""
    for key in _keys_decoder.decode(body).candidates:
        if key not in CandidateColumns.__struct_fields__:
            shown = key[:NAME_LENGTH]
            near = suggestion(shown, CandidateColumns.__struct_fields__)
            raise _invalid(f"{_LIST}.{shown}", f"unknown key{near}")


def _invalid(path: str, problem: str) -> Invalid:
    return Invalid("the request has invalid values", [Detail(path, problem)])
