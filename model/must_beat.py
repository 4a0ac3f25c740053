"""The gate of a training run: as good as another bundle, or the new one is not written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from app.bundle.bundle import Bundle, Example
from app.bundle.directory import newest
from app.bundle.manifest import GRAPH
from app.errors import CtrError, EngineFailed, ValueProblem
from app.features.encoder import Encoder
from app.rollout.gate import Figures, Gate, SameTest
from app.rollout.golden_change import Scorer, golden_change
from app.scoring.engine import Engine
from model.quality.offline_scoring import open_engine

AT_LEAST_AS_GOOD = Gate(same_test=SameTest())
"""The bounds without a file of them: on the same test data no AUC is lost, no log loss added."""


class NotBetterError(CtrError):
    """A new bundle breaks a bound of the gate: nothing is written."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class MustBeat:
    """A bundle, and the bounds that a new one has to keep beside it."""

    bundle: Bundle
    gate: Gate

    @classmethod
    def read(cls, bundle: Path, gate: Path | None) -> Self:
        """Read both; ``bundle`` may be a directory of bundles, of which it is the one to serve.

        Raises:
            BundleError: there is none, or it is not whole.
            GateError, TomlError: the file of bounds cannot be used.
        """
        bounds = AT_LEAST_AS_GOOD if gate is None else Gate.load(gate)
        return cls(Bundle.open(newest(bundle)), bounds)

    def check(
        self,
        description: Mapping[str, Any],
        examples: Sequence[Example],
        encoder: Encoder,
        engine: Engine,
    ) -> None:
        """Compare a new bundle, before it is written, with the other one.

        ``description`` has the manifest's fields, ``examples`` are the golden requests.

        Raises:
            NotBetterError: it breaks a bound; the message says which.
        """
        used = Figures.of(self.bundle.manifest)
        new = Figures.described(
            "the new bundle",
            description["metrics"],
            description["data"],
            description["training"]["split"],
        )
        problems = self.gate.figure_problems(new, used)
        if self.gate.golden is not None:
            other = self.bundle
            before = Encoder(other.spec, other.vocabulary)
            graph = open_engine(other.path / GRAPH, before, other.vocabulary.layout)
            try:
                change = golden_change(examples, Scorer(encoder, engine), Scorer(before, graph))
            except (EngineFailed, ValueProblem) as error:
                problems.append(f"{used.name} cannot score its golden requests: {error}")
            else:
                problems += self.gate.golden_problems(change, used.name)
        if problems:
            raise NotBetterError(f"the new bundle is not written: {'; '.join(problems)}")
