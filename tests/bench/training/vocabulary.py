"""Time of a training step with a table twice as large, the other half of which no row names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.training.criteo import draw_rows
from tests.bench.training.running import PRODUCT, in_turn
from tests.bench.training.work import Work, write_rows


def measure(
    scratch: Path, rows: int, turns: int, threads: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Return the product's rates with both tables and the median ratio of their step times."""
    known = draw_rows(rows)
    works = {}
    for name, times in (("used", 1), ("twice", 2)):
        rows_of = replace(known, sizes=[size * times for size in known.sizes])
        write_rows(scratch / name, rows_of)
        works[name] = partial(PRODUCT.run, Work(str(scratch / name), threads))
    found = in_turn(turns, works, tell, "vocabulary")
    rates = {name: [turn["rows_per_second"] for turn in each] for name, each in found.items()}
    pairs = zip(rates["used"], rates["twice"], strict=True)
    return {
        "table_rows": {"used": sum(known.sizes), "twice": 2 * sum(known.sizes)},
        "rows_per_second": rates,
        "step_time_ratio": median(used / twice for used, twice in pairs),
    }
