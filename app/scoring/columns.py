"""Columns of values of both sides → a job with a row for each place."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from struct import Struct

from app.features.arrays import Column
from app.features.column_encoding import Misses
from app.features.encoder import Encoder, FieldProblems, SideEncoder
from app.scoring.job import WORD_BYTES, Job, ScoringRequest
from app.scoring.problems import FieldNames, Problems
from app.scoring.steps import Steps

PART_ROWS = 256
"""Rows of a column that one step encodes."""
PLACE = "inputs"
"""Path of the columns in a body."""


class ColumnReader:
    """Encodes columns that callers send instead of rows."""

    def __init__(self, encoder: Encoder, names: FieldNames) -> None:
        self._encoder = encoder
        self._names = names

    def read(
        self,
        columns: Mapping[str, Column],
        rows: int,
        request: ScoringRequest,
        misses: Misses | None,
    ) -> Steps[Job]:
        """Return the job of ``rows`` values of each column, and tell the request their number.

        Raises:
            Invalid: values break a rule of their field, or a field is unknown and must not be.
        """
        request.rows = rows
        encoder, problems = self._encoder, Problems()
        if not encoder.fields.issuperset(columns):
            self._names.check(columns, PLACE, problems)
        sides = []
        for side in (encoder.context, encoder.candidate):
            sides.append((yield from self._encode(side, columns, rows, problems, misses)))
        problems.raise_if_any()
        contexts, candidates = sides
        width = encoder.context.shape.width * WORD_BYTES
        # Equal contexts have one row.
        places: dict[bytes, int] = {}
        words = Struct(f"{width}s").iter_unpack(contexts) if width else repeat((b"",), rows)
        row_context = [places.setdefault(each, len(places)) for (each,) in words]
        different = list(places)
        return Job(
            request, different, candidates, rows, row_context if len(different) > 1 else None
        )

    def _encode(
        self,
        side: SideEncoder,
        columns: Mapping[str, Column],
        rows: int,
        problems: Problems,
        misses: Misses | None,
    ) -> Steps[bytes]:
        """Return the packed rows of a side; add the problems of its values."""
        own = {name: columns[name] for name in side.fields if name in columns}
        packed: list[bytes] = []
        for start in range(0, rows, PART_ROWS):
            stop = min(rows, start + PART_ROWS)
            part = {name: values[start:stop] for name, values in own.items()}
            try:
                encoded = yield from side.column_steps(part, stop - start, misses)
                packed.append(encoded.tobytes())
            except FieldProblems as wrong:
                for name, column in wrong.fields.items():
                    for row, problem in column.problems:
                        problems.add(f"{PLACE}.{name}[{start + row}]", problem)
        return b"".join(packed)
