"""The commands over the service's request log and events: ``join``, ``replay``."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from app.files import write_file
from model.progress import say, warn
from model.result_places import require_file
from model.threads import limit_torch

Directories = Annotated[
    list[Path],
    typer.Argument(help="Directories of the service: CTR_REQUEST_LOG and CTR_FEEDBACK."),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="File to write the outcome to, as JSON.")
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if found is None:
        raise typer.BadParameter("--window: expected a number and s, m, h or d, such as 30m")
    return float(found[1]) * _UNITS[found[2]]


def _moment(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError:
        raise typer.BadParameter("--until: expected seconds since 1970, or ISO 8601") from None


def join_command(
    directories: Directories,
    out: Annotated[Path, typer.Option(help="File to write: .parquet.")],
    window: Annotated[
        str, typer.Option(help="Time after a request in which a click counts: 90s, 30m, 2h, 1d.")
    ] = "30m",
    shown: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Candidates of a ranking that were seen, where no event says shown. Default: all.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Moment up to which events are there. Default: now."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Make training rows of logged requests and of events.

    A candidate is 1 if an event within the window says so, 0 if the window has passed, and left out
    if it has not.
    """
    from model.feedback.join import join
    from model.score_table import require_table_name

    inputs = [path for each in directories if each.is_dir() for path in each.iterdir()]
    for path in (out, json_file):
        if path is not None:
            require_file(path, inputs)
    require_table_name(out)
    counts = join(directories, out, _seconds(window), _moment(until), shown)
    if json_file is not None:
        write_file(json_file, (json.dumps(counts.to_dict(), indent=1) + "\n").encode())
    for line in counts.lines():
        say(line)
    if counts.unusable:
        warn(f"no column can hold the values of {', '.join(counts.unusable)}: left out")
    print(out)


def replay_command(
    directories: Directories,
    bundle: Annotated[Path, typer.Option(help="A bundle, or a directory of them.")],
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Difference of a logit that is none. Default: the engine's."),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Score with the int8 graph.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Encode and score logged requests again, and compare with what was served.

    The exit code is 3 if rows that were served whole by this bundle are not the same offline.
    """
    from model.feedback.replay import SkewFound, replay

    limit_torch()
    if json_file is not None:
        inputs = [path for each in directories if each.is_dir() for path in each.iterdir()]
        require_file(json_file, inputs, bundle)
    report = replay(directories, bundle, tolerance, "int8" if int8 else "float32")
    if json_file is not None:
        write_file(json_file, (json.dumps(report.to_dict(), indent=1) + "\n").encode())
    for line in report.lines():
        print(line)
    if report.skewed:
        raise SkewFound("what was served differs from what the bundle gives offline")
