"""Lines that cannot be used."""

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
        """Note one bad line."""
        self.count += 1
        if len(self.lines) < SHOWN_BAD_LINES:
            self.lines.append((file, line, problem))

    def report(self) -> str:
        """Count the bad lines and show the first few."""
        shown = "".join(f"\n  {f}:{n}: {why}" for f, n, why in self.lines)
        more = self.count - len(self.lines)
        return f"{self.count} of {self.total} lines are bad:{shown}" + (
            f"\n  and {more} more" if more else ""
        )
