"""Training by the processes of a Ray cluster, started again from the last saved state."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

from app.errors import CtrError
from app.files import remove_abandoned, unfinished_directory, write_file
from model.cluster.ray_engine import ClusterError, connected
from model.group import joined
from model.must_beat import NotBetterError
from model.result_places import reason_of

BEGUN, BUNDLE, FAILED, TOLD = "begun", "bundle", "failed.json", "told"
"""Files that the processes of a run share: that it has begun, where its bundle is, why there is
none, and its messages."""
GROUP = ".group-"
"""Prefix of the names of their directories, below the encoded data."""
LOOK_SECONDS = 0.2
"""Time between two looks for messages."""


class GroupError(CtrError):
    """A training that ended in one of its processes; the message is that process'."""


class Asked(NamedTuple):
    """The work of each process of a group: a command with its options."""

    command: Callable[..., None]
    options: Mapping[str, Any]
    place: Path
    """A directory of this run, which all machines share."""


def train_on_cluster(
    address: str,
    processes: int,
    memory_mib: int,
    cache: Path,
    command: Callable[..., None],
    options: Mapping[str, Any],
) -> str:
    """Run a command in so many processes that train together; return what the first one prints.

    What they say is printed as it comes. Where one of them dies, all begin again from the last
    saved state.

    Raises:
        GroupError, NotBetterError: the command fails, as it would without a cluster.
        ClusterError: the cluster cannot run them.
    """
    # Those of commands that were killed.
    remove_abandoned(cache.absolute(), f"{GROUP}*/")
    with unfinished_directory(cache.absolute() / f"{GROUP}{token_hex(8)}") as place:
        (place / TOLD).touch()
        asked = Asked(command, _everywhere(options), place)
        with connected(address, processes, memory_mib) as places, _followed(place / TOLD):
            try:
                places.together(work, asked, processes, place / "ray")
            except ClusterError:
                if not (place / FAILED).exists():
                    raise
        if (place / FAILED).exists():
            why = json.loads((place / FAILED).read_bytes())
            held_back = why["exit_code"] == NotBetterError.exit_code
            raise (NotBetterError if held_back else GroupError)(why["message"])
        return (place / BUNDLE).read_text(encoding="utf-8").rstrip("\n")


def work(asked: Asked) -> None:
    """Be one of the processes of a group: run the command, and tell how it ended.

    Raises:
        CtrError: the command fails; the others must not wait for this process.
    """
    place = asked.place
    # Ray has the loggers of all libraries tell everything.
    logging.disable(logging.INFO)
    with joined() as group:
        # After an error of the command nothing is gained by another try.
        if group.first_says((place / FAILED).exists()):
            return
        again = group.first_says((place / BEGUN).exists())
        group.wait()
        if group.rank == 0:
            (place / BEGUN).touch()
        options = {**asked.options, "resume": asked.options["resume"] or again}
        printed = io.StringIO()
        # The messages of each line come whole: the file is opened to append to.
        with (
            (place / TOLD).open("a", encoding="utf-8", buffering=1) as told,
            redirect_stderr(told),
            redirect_stdout(printed),
        ):
            try:
                asked.command(**options)
            except (CtrError, OSError) as error:
                _fail(place, error)
                raise
        if group.rank == 0:
            write_file(place / BUNDLE, printed.getvalue().encode())


def _fail(place: Path, error: CtrError | OSError) -> None:
    message = reason_of(error) if isinstance(error, OSError) else str(error)
    code = error.exit_code if isinstance(error, CtrError) else 1
    why = {"message": message, "exit_code": code}
    write_file(place / FAILED, json.dumps(why).encode())


def _everywhere(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose paths are the same from every directory."""

    def same(value: Any) -> Any:
        if isinstance(value, Path):
            return value.absolute()
        return [same(each) for each in value] if isinstance(value, list) else value

    return {name: same(value) for name, value in options.items()}


@contextmanager
def _followed(path: Path) -> Iterator[None]:
    """Print what is written to a file, as it comes."""
    ended = threading.Event()

    def follow() -> None:
        with path.open(encoding="utf-8") as file:
            while True:
                last = ended.is_set()
                if text := file.read():
                    sys.stderr.write(text)
                    sys.stderr.flush()
                if last:
                    return
                ended.wait(LOOK_SECONDS)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
