"""``python -m app items`` and ``profiles``: what a store holds is put there, shown, deleted."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

import msgspec

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.catalogue.field_counts import FieldCounts
from app.catalogue.item_lines import BadLine, may_be_lines, open_lines, read_lines
from app.catalogue.kinds import ITEMS, Kind
from app.errors import CtrError
from app.features.encoder import Encoder
from app.features.hot_values import serving_encoder
from app.files import write_file
from app.store.opening import open_store, open_to_put
from app.store.store import Damaged, Item

MOST_TOLD = 20
"""Bad lines that are named."""
MANY = 100_000
"""Entries after which a line tells the progress."""


def store_command(kind: Kind, arguments: Sequence[str]) -> int:
    """Carry out one command with entries of a kind; return the exit code."""
    given = _parser(kind).parse_args(arguments)
    if not given.store:
        return _say("no store: give --store URL or set CTR_STORE")
    try:
        code: int = given.run(given)
        return code
    except (CtrError, OSError, EOFError, ZlibError) as error:
        return _say(str(error))


def _parser(kind: Kind) -> ArgumentParser:
    name = kind.name
    parser = ArgumentParser(
        f"python -m app {name}s",
        description=f"{name.capitalize()}s are put into a store, shown, deleted and exported.",
    )
    parser.set_defaults(kind=kind)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> ArgumentParser:
        found = commands.add_parser(name, help=text, description=text)
        found.set_defaults(run=run)
        found.add_argument(
            "--store",
            default=os.environ.get("CTR_STORE"),
            metavar="URL",
            help="sqlite:///absolute/path, or redis://host (default: CTR_STORE)",
        )
        return found

    command("create", _create, "Make an empty store; one that is there stays as it is.")
    put = command("put", _put, f"Store the {name}s of JSON lines, in the place of those there.")
    put.add_argument("files", nargs="+", type=Path, metavar="FILE", help="also .gz")
    put.add_argument(
        kind.option,
        dest="id_field",
        metavar="FIELD",
        help=f"each line is the values of one {name}, and this field its id; default: lines"
        ' {"id": …, "features": {…}}, as export writes them',
    )
    put.add_argument(
        "--bundle",
        type=Path,
        default=os.environ.get("CTR_BUNDLE"),
        help="bundle, or directory of bundles, whose spec checks the values (default: CTR_BUNDLE)",
    )
    put.add_argument(
        "--max-bad-lines",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of lines that may be wrong and are left out (default: 0)",
    )
    put.add_argument(
        "--create", action="store_true", help="make the store in Redis where there is none"
    )
    get = command("get", _get, f"Print one {name}.")
    get.add_argument("id", metavar="ID", type=_identity)
    delete = command("delete", _delete, f"Delete {name}s.")
    delete.add_argument("ids", nargs="+", metavar="ID", type=_identity)
    export = command("export", _export, f"Write all {name}s as JSON lines.")
    export.add_argument("file", type=Path, metavar="FILE")
    command("count", _count, f"Print the number of {name}s.")
    return parser


def _identity(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError("an id is UTF-8") from None
    return text


def _create(given: Any) -> int:
    open_store(given.store, create=True).close()
    return 0


def _put(given: Any) -> int:
    for path in given.files:
        if not path.exists():
            return _say(f"{path}: there is no such file")
        if not path.is_file():
            # A pipe can be read once only.
            return _say(f"{path} is not an ordinary file, which put reads twice")
        if not may_be_lines(path):
            return _say(
                f"{path} is not JSON lines; CSV, TSV and Parquet are put by the trainer: python -m"
                f" model {given.kind.name}s put FILE {given.kind.option} FIELD --spec SPEC"
                " --store URL"
            )
    if given.bundle is None:
        return _say("no bundle to check the values by: give --bundle or set CTR_BUNDLE")
    bundle = Bundle.open(newest(Path(given.bundle)), mapped=True)
    encoder = serving_encoder(bundle.spec, bundle.vocabulary)
    ids: set[str] = set()
    own = encoder.candidate if given.kind is ITEMS else encoder.context
    counts = FieldCounts(own, given.id_field)
    bad = lines = 0
    for path in given.files:
        for found in _read(path, encoder, given):
            lines += 1
            if isinstance(found, BadLine):
                bad += 1
                if bad <= MOST_TOLD:
                    _say(f"{path}:{found.number}: {found}")
            else:
                ids.add(str(found.id))
                counts.add(found.values)
    if bad > given.max_bad_lines * lines:
        return _say(f"{bad:,} of {lines:,} lines are wrong; nothing is stored")
    began = time.monotonic()
    with closing(open_to_put(given.store, given.create)) as store:
        if given.kind is ITEMS:
            store.begin_load()
        stored = given.kind.of(store).put(_told(_good(encoder, given), given.kind))
        if stored and given.kind is ITEMS:
            store.declare_whole()
    seconds = time.monotonic() - began
    _say(f"stored {len(ids):,} {given.kind.name}s in {seconds:.1f} s; {bad:,} lines left out")
    if stored > len(ids):
        _say(f"{stored - len(ids):,} lines have the id of a later one, which counts")
    for line in counts.lines():
        _say(line)
    return 0


def _read(path: Path, encoder: Encoder, given: Any) -> Iterator[Item | BadLine]:
    with open_lines(path) as lines:
        yield from read_lines(lines, encoder, given.kind, given.id_field)


def _good(encoder: Encoder, given: Any) -> Iterator[Item]:
    for path in given.files:
        for found in _read(path, encoder, given):
            if isinstance(found, Item):
                yield found


def _told(entries: Iterator[Item], kind: Kind) -> Iterator[Item]:
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % MANY == 0:
            _say(f"{number:,} {kind.name}s")


def _get(given: Any) -> int:
    with closing(open_store(given.store)) as store:
        found = given.kind.of(store).get(given.id)
    if found is None:
        return _say(f"there is no {given.kind.name} {given.id!r}")
    print(json.dumps({"id": found.id, "features": found.values}, ensure_ascii=False))
    return 0


def _delete(given: Any) -> int:
    with closing(open_store(given.store)) as store:
        deleted = given.kind.of(store).delete(given.ids)
    _say(f"deleted {deleted:,} of {len(given.ids):,} {given.kind.name}s")
    return 0 if deleted == len(given.ids) else 1


def _export(given: Any) -> int:
    path: Path = given.file
    if path.exists() and not path.is_file():
        return _say(f"{path} is not an ordinary file")
    with closing(open_store(given.store)) as store:
        if store.holds(path):
            return _say(f"{path} is the store, and must stay")
        # An entry that changes meanwhile may come twice.
        lines: dict[str, bytes] = {}
        damaged = 0
        for each in given.kind.of(store).each():
            if isinstance(each.values, Damaged):
                damaged += 1
                if damaged <= MOST_TOLD:
                    _say(f"{given.kind.name} {each.id!r} is left out: {each.values.reason}")
                continue
            lines[str(each.id)] = msgspec.json.encode({"id": each.id, "features": each.values})
    content = b"\n".join([*lines.values(), b""])
    write_file(path, gzip.compress(content) if path.suffix == ".gz" else content)
    _say(f"wrote {len(lines):,} {given.kind.name}s to {path}")
    return 1 if damaged else 0


def _count(given: Any) -> int:
    with closing(open_store(given.store)) as store:
        print(given.kind.of(store).count())
    return 0


def _say(text: str) -> int:
    print(text, file=sys.stderr)
    return 1
