"""The stage of every scenario: a trained bundle, rows, and services of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path

from tests.drills.faults.drive import Request
from tests.support.samples import Sample, candidate_of, context_of, train_other, train_tiny
from tests.support.serving import APP, Service

Row = Mapping[str, object]


class Stage:
    """A bundle trained on the sample, and services over it below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = count(1)
        sample = self._sample = Sample.make(directory)
        self.rows = sample.rows
        self.bundle = train_tiny(sample, directory / "bundles")

    @cached_property
    def other(self) -> Path:
        """A later version of the bundle, with other scores."""
        return train_other(self._sample, self.bundle, self._directory / "other")

    @contextmanager
    def service(
        self,
        program: Sequence[str] = APP,
        env: Mapping[str, str] = {},
        bundle: Path | None = None,
        expected: str | None = None,
        port: int | None = None,
        **settings: object,
    ) -> Iterator[Service]:
        """Run a service; it must end with 0 and have logged no error, but for ``expected`` ones."""
        log = self._directory / f"log{next(self._number)}"
        service = Service(bundle or self.bundle, log, env, program, port, **settings)
        try:
            service.wait_ready()
            yield service
        finally:
            code = service.stop()
        assert code == 0, f"exit code {code}:\n{service.log()[-2000:]}"
        errors = [
            event for event in service.events()
            if event["level"] == "error" and not (expected and expected in event["message"])
        ]  # fmt: skip
        assert not errors, f"{len(errors)} errors in the log, the first: {errors[0]}"


def predict(*rows: Row) -> Request:
    """A /predict of rows."""
    return Request("/predict", json.dumps({"instances": rows}).encode())


def rank(context: Row, candidates: Sequence[Row]) -> Request:
    """A /rank of candidates for a context, each given by the fields of a whole row."""
    shown = [{"features": candidate_of(dict(row))} for row in candidates]
    body = {"context": context_of(dict(context)), "candidates": shown}
    return Request("/rank", json.dumps(body).encode())
