"""The limits of a request, defined once for scorer, endpoints and OpenAPI document.

``app.main`` builds them from the settings of the same names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a request; one beyond a limit is refused with the status given here."""

    max_body_bytes: int
    """Bytes of a body; 413."""
    max_row_bytes: int
    """Bytes of an instance, a context, a candidate or a value of a column, as JSON; 413."""
    max_instances: int
    """Instances of a ``/predict``; 413."""
    max_candidates: int
    """Candidates of a ``/rank``; 413."""
    max_catalogue_rows: int
    """Items of a ``/rank`` over the whole catalogue; 422."""
    known_fields_only: bool
    """A field that the spec does not know is refused with 422 instead of ignored."""
    receive_seconds: float
    """Time in which a body must arrive (400), and in which its answer must be taken."""
    deadline_seconds: float
    """Time from the request's headers to its scores; ``X-Request-Timeout-Ms`` shortens it; 504."""
