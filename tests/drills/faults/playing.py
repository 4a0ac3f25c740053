"""The scenarios by name, and how they are played: alone, or several at a time."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

from tests.drills.faults.callers import departed_callers, impatient_callers
from tests.drills.faults.canaries import canaries
from tests.drills.faults.ends import killed_worker, sigterm_under_load
from tests.drills.faults.figures import Figure, Found, Skipped
from tests.drills.faults.lists import company, long_lists, wrong_lists
from tests.drills.faults.mutations import mutated_bodies
from tests.drills.faults.overload import overload
from tests.drills.faults.proxies import proxies
from tests.drills.faults.redis_outage import SCENARIOS as REDIS
from tests.drills.faults.resources import bodies, memory, threads
from tests.drills.faults.rolling_update import rolling_update
from tests.drills.faults.stage import Stage
from tests.drills.faults.swaps import swaps
from tests.drills.faults.way_back import full_disk, killed_feedback

Scenario = Callable[[Stage], Iterator[Figure | Skipped]]
Figures = list[Figure | Skipped]

SCENARIOS: dict[str, Scenario] = {
    "impatient-callers": impatient_callers,
    "departed-callers": departed_callers,
    "long-lists": long_lists,
    "wrong-lists": wrong_lists,
    "company": company,
    "overload": overload,
    "bodies": bodies,
    "mutated-bodies": mutated_bodies,
    "threads": threads,
    "memory": memory,
    "swaps": swaps,
    "canaries": canaries,
    "sigterm": sigterm_under_load,
    "killed-worker": killed_worker,
    "proxies": proxies,
    "rolling-update": rolling_update,
    "full-disk": full_disk,
    "killed-feedback": killed_feedback,
    **REDIS,
}

BESIDE = tuple(REDIS)
"""Scenarios of a few requests a second, which mostly wait: one at a time beside those that are
judged by their times."""
TOGETHER = (
    "proxies", "rolling-update", "mutated-bodies", "memory", "company", "full-disk",
    "killed-feedback", "threads", "bodies",
)  # fmt: skip
"""Scenarios that wait, or whose outcomes count more than their times; the longest first."""
AT_A_TIME = 3


def play(name: str, stage: Stage) -> Figures:
    """Run a scenario once, and say how long it took."""
    start = perf_counter()
    try:
        return list(SCENARIOS[name](stage))
    finally:
        print(f"{name}: {perf_counter() - start:.0f} s", file=sys.stderr)


def second_chance(name: str, found: Figures, stage: Stage) -> Figures:
    """Run a scenario once more if only time failed it; wrong outcomes of both runs count."""
    failed = [each for each in found if isinstance(each, Figure) and each.failed]
    wrong = [each for each in failed if each.exact]
    if len(failed) == len(wrong):
        return found
    print(f"{name}: too slow; once more", file=sys.stderr)
    return [*wrong, *play(name, stage)]


def play_on_own_stage(name: str) -> Figures:
    """Run a scenario once, in a process beside others."""
    with tempfile.TemporaryDirectory() as directory:
        return play(name, Stage(Path(directory)))


def play_all(names: Sequence[str], stage: Stage) -> tuple[Found, list[str]]:
    """Run scenarios; return their figures, and the names of those that broke off.

    Those that measure times come first, in turn; the others follow, some at a time. What was too
    slow has its second chance at the end, alone.
    """
    found: dict[str, Figures] = {}
    broken: list[str] = []

    def take(name: str, figures: Callable[[], Figures]) -> None:
        try:
            found[name] = figures()
        except Exception:
            traceback.print_exc()
            found.pop(name, None)
            broken.append(name)

    beside, together = ([name for name in kind if name in names] for kind in (BESIDE, TOGETHER))
    with several(1) as one, several(AT_A_TIME) as some:
        playing = {one.submit(play_on_own_stage, name): name for name in beside}
        for name in names:
            if name not in (*beside, *together):
                take(name, partial(play, name, stage))
        playing |= {some.submit(play_on_own_stage, name): name for name in together}
        for future in as_completed(playing):
            take(playing[future], future.result)
    for name in [name for name in names if name in found]:
        take(name, partial(second_chance, name, found[name], stage))
    return [(name, each) for name in names for each in found.get(name, [])], broken


def several(processes: int) -> ProcessPoolExecutor:
    """Return processes in which scenarios are played; none starts before it is needed."""
    return ProcessPoolExecutor(processes, get_context("spawn"))
