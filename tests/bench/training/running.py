"""A library at the work, in a process and an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.training.work import Work
from tests.support.environments import ROOT, PeerProblem, environment, last_line

SECONDS = 3600
HERE = Path(__file__).parent
Figures = Mapping[str, Any]


class Failed(Exception):
    """A library that could not be measured: its name, and why."""


@dataclass(frozen=True, slots=True)
class Library:
    """A library by its name and its runner; ``pinned`` is what its environment holds.

    Without that it is the product, in the environment of this process.
    """

    name: str
    runner: str
    pinned: Path | None = None

    def python(self) -> Path:
        """Return its interpreter, making its environment on first use.

        Raises:
            PeerProblem: the environment cannot be made.
        """
        if self.pinned is None:
            return Path(sys.executable)
        return environment(self.pinned, more=True) / "bin" / "python"

    def run(self, work: Work) -> Figures:
        """Let it do the work and return its figures.

        Raises:
            Failed: it did not, or its environment cannot be made.
        """
        try:
            return self._run(self.python(), work)
        except PeerProblem as problem:
            raise Failed(f"{self.name} {problem}") from problem

    def ended(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run its program to the end."""
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)

    def _run(self, python: Path, work: Work) -> Figures:
        with tempfile.TemporaryDirectory() as name:
            described = Path(name) / "work.json"
            described.write_text(work.to_json())
            words = [str(python), "-m", f"tests.bench.training.{self.runner}", str(described)]
            try:
                done = self.ended(words)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise PeerProblem(f"does not run: {error}") from error
        if done.returncode:
            raise PeerProblem(f"does not run: {last_line(done.stderr or done.stdout)}")
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures


PRODUCT = Library("product", "with_product")
BFLOAT16 = f"{PRODUCT.name} in bfloat16"
FUXICTR = Library("fuxictr", "with_fuxictr", HERE / "fuxictr.txt")
DEEPCTR_TORCH = Library("deepctr-torch", "with_deepctr_torch", HERE / "deepctr-torch.txt")
PEERS = (FUXICTR, DEEPCTR_TORCH)


def in_turn(
    turns: int,
    works: Mapping[str, Callable[[], Figures]],
    tell: Callable[[str], None],
    title: str,
) -> dict[str, list[Figures]]:
    """Do every work once a turn, so that what else the machine does meets them all.

    Raises:
        Failed: one of them did not end; the message names it.
    """
    found: dict[str, list[Figures]] = {name: [] for name in works}
    for turn in range(turns):
        for name, work in works.items():
            try:
                figures = work()
            except Failed as problem:
                raise Failed(f"{title}, {name}: {problem}") from problem
            found[name].append(figures)
            tell(f"{title} {turn + 1}/{turns} {name}: {shown(figures)}")
    return found


def shown(figures: Figures) -> str:
    """Return figures in one line, those without a number left out."""
    return ", ".join(
        f"{name} {value:,.4g}" for name, value in figures.items() if isinstance(value, int | float)
    )
