"""Lines that cannot be used: how many, and the first of them in the order of the files.

Which are shown does not depend on the pieces in which files are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN_BAD_LINES = 10


@dataclass(slots=True)
class BadLines:
    """Lines that cannot be used: their count and the first of them; ``total`` is of all lines."""

    lines: list[tuple[str, int, str]] = field(default_factory=list)
    """File, line and problem."""
    count: int = 0
    total: int = 0

    def add(self, file: str, line: int, problem: str) -> None:
        """Note one bad line; files come one after the other, their lines in any order."""
        self.count += 1
        self._show(file, line, problem)

    def merge(self, later: BadLines) -> None:
        """Add those of lines behind these, or among them in the same file."""
        self.count += later.count
        self.total += later.total
        for each in later.lines:
            self._show(*each)

    def _show(self, file: str, line: int, problem: str) -> None:
        place = len(self.lines)
        while place and self.lines[place - 1][0] == file and self.lines[place - 1][1] > line:
            place -= 1
        self.lines.insert(place, (file, line, problem))
        del self.lines[SHOWN_BAD_LINES:]

    def report(self) -> str:
        """Count the bad lines and show the first few."""
        shown = "".join(f"\n  {f}:{n}: {why}" for f, n, why in self.lines)
        more = self.count - len(self.lines)
        return f"{self.count} of {self.total} lines are bad:{shown}" + (
            f"\n  and {more} more" if more else ""
        )
