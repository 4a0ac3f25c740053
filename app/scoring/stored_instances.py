"""``/predict`` bodies with ``"stored": true`` → jobs: what instances lack comes from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from app.errors import Detail, Invalid, ValueProblem
from app.features.arrays import Indices
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, FieldProblems
from app.features.keys import TextKey
from app.scoring.decoding import check_size, decode_part, instance_decoder
from app.scoring.item_lists import CountLookups
from app.scoring.items import UNKNOWN, Items
from app.scoring.job import NO_SLOT, Job, ListedItems, ScoringRequest, Slots
from app.scoring.problems import FieldNames, Problems
from app.scoring.profiles import STEP_CONTEXTS, ProfileFiller
from app.scoring.steps import Steps
from app.scoring.wire import OnUnknown, PredictBody

STEP_ROWS = 8
"""Instances that one step decodes."""
PART_ROWS = 128
"""Items whose own values one step encodes, a field at a time."""
Instance = dict[str, Any]


class KnownItems:
    """The catalogue, and the field of an instance that has the id of an item."""

    def __init__(
        self,
        items: Items,
        field: str,
        key: TextKey,
        on_unknown: OnUnknown,
        count: CountLookups,
    ) -> None:
        self.items, self.field, self.key = items, field, key
        self.on_unknown, self.count = on_unknown, count


class StoredInstances:
    """Fills instances from profiles and items, and encodes them."""

    def __init__(
        self,
        encoder: Encoder,
        names: FieldNames,
        max_row_bytes: int,
        profiles: ProfileFiller | None,
        items: KnownItems | None,
    ) -> None:
        self._encoder = encoder
        self._names = names
        self._max_row_bytes = max_row_bytes
        self._profiles = profiles
        self._items = items

    def read(
        self, decoded: PredictBody, body: bytes, request: ScoringRequest, misses: Misses | None
    ) -> Steps[Job]:
        """Return a job with one row for each instance whose item is known.

        Tells the request the places of the rows, and the items that are not known.

        Raises:
            ServiceError: the body is refused.
        """
        if self._profiles is None and self._items is None:
            problem = "nothing is stored for instances: see CTR_PROFILE_KEY and CTR_ITEM_KEY"
            raise Invalid("the request has invalid values", [Detail("stored", problem)])
        instances = yield from self._decode(decoded.instances, body)
        if self._profiles is not None:
            yield from self._profiles.fill(instances, request)
        problems = Problems()
        found = self._find(instances, decoded.on_unknown, problems)
        rows = np.arange(len(instances)) if found is None else np.flatnonzero(found != UNKNOWN)
        # Before anything else runs: the place of an item that is deleted is used again.
        packed = None if found is None else self._rows(found[rows])
        slots = None if found is None else self._slots(found[rows])
        self._check_names(instances, problems)
        if found is not None:
            self._tell(instances, found, request)
        request.rows = len(rows)
        kept = [(place, instances[place]) for place in rows.tolist()]
        if request.trace is not None:
            request.trace.instances = [instance for _, instance in kept]
        contexts, row_context = yield from self._encode_contexts(kept, problems, misses)
        if packed is None:
            candidates = yield from self._encode_candidates(kept, problems, misses)
        else:
            stored = None if slots is None else packed.copy()
            yield from self._replace(packed, kept, problems, misses)
            candidates = packed.tobytes()
            if slots is not None and stored is not None:
                # An item part is that of the stored values; an instance may have others.
                words = self._encoder.candidate.stored_words
                same = (packed[:, words] == stored[:, words]).all(axis=1)
                slots = slots._replace(of_rows=np.where(same, slots.of_rows, np.int32(NO_SLOT)))
        problems.raise_if_any()
        # Equal contexts have one row; the context of each row is told only where they differ.
        job = Job(
            request, contexts, candidates, len(kept), row_context if len(contexts) > 1 else None
        )
        job.slots = slots
        return job

    def _decode(self, parts: Sequence[msgspec.Raw], body: bytes) -> Steps[list[Instance]]:
        instances = []
        # In a body that is no longer than a row may be, no row is longer.
        large = len(body) > self._max_row_bytes
        for row, part in enumerate(parts):
            if row % STEP_ROWS == 0 and row:
                yield None
            if large:
                check_size(part, self._max_row_bytes, "instances", row)
            instances.append(decode_part(instance_decoder, body, part, "instances", row))
        return instances

    def _find(
        self, instances: Sequence[Instance], on_unknown: OnUnknown | None, problems: Problems
    ) -> Indices | None:
        """Return the place of each instance's item in the catalogue; None without a catalogue."""
        known = self._items
        if known is None:
            return None
        keys = [known.key(each.get(known.field)) for each in instances]
        for place, key in enumerate(keys):
            if key is None:
                path = f"instances[{place}].{known.field}"
                problems.add(path, ValueProblem("expected the id of an item"))
        found = known.items.find([key or "" for key in keys])
        if (on_unknown or known.on_unknown) == "error":
            for place in np.flatnonzero(found == UNKNOWN).tolist():
                if keys[place] is not None:
                    path = f"instances[{place}].{known.field}"
                    problems.add(path, ValueProblem("unknown item"))
        problems.raise_if_any()
        return found

    def _check_names(self, instances: Sequence[Instance], problems: Problems) -> None:
        fields = self._encoder.fields
        ids = None if self._items is None else self._items.field
        for place, instance in enumerate(instances):
            if not fields.issuperset(instance):
                unknown = [name for name in instance if name != ids]
                self._names.check(unknown, f"instances[{place}]", problems)

    def _tell(self, instances: Sequence[Instance], found: Indices, request: ScoringRequest) -> None:
        """Tell the request which rows there will be, and which items are not known."""
        assert self._items is not None
        field = self._items.field
        places = np.flatnonzero(found != UNKNOWN).tolist()
        unknown = [
            (place, instances[place][field]) for place in np.flatnonzero(found == UNKNOWN).tolist()
        ]
        self._items.count(len(places), len(unknown))
        request.listed = ListedItems(places, unknown, False)

    def _encode_contexts(
        self, kept: Sequence[tuple[int, Instance]], problems: Problems, misses: Misses | None
    ) -> Steps[tuple[list[bytes], list[int]]]:
        """Return the different contexts, and which of them each row has."""
        side = self._encoder.context
        places: dict[bytes, int] = {}
        row_context: list[int] = []
        for row, (place, instance) in enumerate(kept):
            if row % STEP_CONTEXTS == 0 and row:
                yield None
            try:
                context = side.row(instance, misses)
            except ValueProblem:
                problems.add_row(side, instance, f"instances[{place}]")
            else:
                row_context.append(places.setdefault(context, len(places)))
        return list(places), row_context

    def _encode_candidates(
        self, kept: Sequence[tuple[int, Instance]], problems: Problems, misses: Misses | None
    ) -> Steps[bytes]:
        """Encode the values that the instances have; there is no catalogue."""
        side = self._encoder.candidate
        packed: list[bytes] = []
        for row, (place, instance) in enumerate(kept):
            if row % STEP_CONTEXTS == 0 and row:
                yield None
            try:
                packed.append(side.row(instance, misses))
            except ValueProblem:
                problems.add_row(side, instance, f"instances[{place}]")
        return b"".join(packed)

    def _rows(self, places: Indices) -> Indices:
        assert self._items is not None
        return self._items.items.rows(places)

    def _slots(self, places: Indices) -> Slots | None:
        assert self._items is not None
        return self._items.items.slots(places)

    def _replace(
        self,
        packed: Indices,
        kept: Sequence[tuple[int, Instance]],
        problems: Problems,
        misses: Misses | None,
    ) -> Steps[None]:
        """Put the instances' own values in the place of those of their items."""
        side = self._encoder.candidate
        alike: dict[tuple[str, ...], list[int]] = {}
        for row, (_, instance) in enumerate(kept):
            own = tuple(name for name in instance if name in side.fields)
            alike.setdefault(own, []).append(row)
        for names, rows in alike.items():
            for start in range(0, len(rows), PART_ROWS):
                part = rows[start : start + PART_ROWS]
                columns = {name: [kept[row][1][name] for row in part] for name in names}
                words = packed[part]
                try:
                    yield from side.replace_steps(words, columns, misses)
                except FieldProblems as wrong:
                    for name, column in wrong.fields.items():
                        for row, problem in column.problems:
                            problems.add(f"instances[{kept[part[row]][0]}].{name}", problem)
                packed[part] = words
