"""Logs in several files of several kinds, with bad lines; and caches compared to the byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from tests.support import samples

Block = TypeVar("Block")
Result = TypeVar("Result")


def scatter(directory: Path, rows: int, files: int) -> list[Path]:
    """Write logs of so many rows in all, as CSV and Parquet; one line in some hundred is bad."""
    paths = []
    for number in range(files):
        path = directory / f"part-{number:02d}.csv"
        samples.write_log(path, rows // files, seed=number)
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if number % 3 == 2:
            pl.read_csv(path, infer_schema=False).write_parquet(path.with_suffix(".parquet"))
            path.unlink()
            paths.append(path.with_suffix(".parquet"))
            continue
        for line in range(7, len(lines), 131):
            lines[line] = "cut\n"
        path.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    return paths


def contents(entry: Path) -> dict[str, bytes]:
    """Return every file of a cache's entry."""
    return {
        path.relative_to(entry).as_posix(): path.read_bytes()
        for path in sorted(entry.rglob("*"))
        if path.is_file()
    }


class Backwards:
    """Places that run blocks from the last to the first, and each of them twice."""

    many = True

    def __init__(self, memory_mib: int) -> None:
        self.memory_mib = memory_mib

    def map(self, function: Callable[[Block], Result], blocks: Iterable[Block]) -> Iterator[Result]:
        """Yield the results in the order of the blocks all the same."""
        waiting: Sequence[Block] = list(blocks)
        results = [(function(block), function(block))[1] for block in reversed(waiting)]
        yield from reversed(results)
