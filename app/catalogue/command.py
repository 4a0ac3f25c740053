"""``python -m app items``: items are put into a store, shown, deleted and written to a file."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

import msgspec

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.catalogue.item_lines import BadLine, open_lines, read_items
from app.errors import CtrError
from app.features.encoder import Encoder
from app.features.hot_values import serving_encoder
from app.files import write_file
from app.store.opening import open_store
from app.store.store import Item

MOST_TOLD = 20
"""Bad lines that are named."""
MANY = 100_000
"""Items after which a line tells the progress."""


def items_command(arguments: Sequence[str]) -> int:
    """Carry out one command; return the exit code."""
    given = _parser().parse_args(arguments)
    if not given.store:
        return _say("no store: give --store URL or set CTR_STORE")
    try:
        code: int = given.run(given)
        return code
    except (CtrError, OSError, EOFError, ZlibError) as error:
        return _say(str(error))


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m app items", description=__doc__.partition(": ")[2])
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
    put = command("put", _put, "Store the items of JSON lines, in the place of those there.")
    put.add_argument("files", nargs="+", type=Path, metavar="FILE", help="also .gz")
    put.add_argument(
        "--id",
        metavar="FIELD",
        help='each line is the values of an item, and this field its id; default: lines {"id": …,'
        ' "features": {…}}, as export writes them',
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
    get = command("get", _get, "Print an item.")
    get.add_argument("id", metavar="ID")
    delete = command("delete", _delete, "Delete items.")
    delete.add_argument("ids", nargs="+", metavar="ID")
    export = command("export", _export, "Write all items as JSON lines.")
    export.add_argument("file", type=Path, metavar="FILE")
    command("count", _count, "Print the number of items.")
    return parser


def _create(given: Any) -> int:
    open_store(given.store, create=True).close()
    return 0


def _put(given: Any) -> int:
    for path in given.files:
        if not path.is_file():
            # A pipe can be read once only.
            return _say(f"{path} is not an ordinary file, which put reads twice")
    if given.bundle is None:
        return _say("no bundle to check the values by: give --bundle or set CTR_BUNDLE")
    bundle = Bundle.open(newest(Path(given.bundle)), mapped=True)
    encoder = serving_encoder(bundle.spec, bundle.vocabulary)
    bad = lines = 0
    for path in given.files:
        for found in _read(path, encoder, given.id):
            lines += 1
            if isinstance(found, BadLine):
                bad += 1
                if bad <= MOST_TOLD:
                    _say(f"{path}:{found.number}: {found}")
    if bad > given.max_bad_lines * lines:
        return _say(f"{bad:,} of {lines:,} lines are wrong; nothing is stored")
    began = time.monotonic()
    with closing(open_store(given.store, create=True)) as store:
        stored = store.put(_told(_good(given.files, encoder, given.id)))
    seconds = time.monotonic() - began
    _say(f"stored {stored:,} items in {seconds:.1f} s; {bad:,} lines left out")
    return 0


def _read(path: Path, encoder: Encoder, id_field: str | None) -> Iterator[Item | BadLine]:
    with open_lines(path) as lines:
        yield from read_items(lines, encoder, id_field)


def _good(files: Sequence[Path], encoder: Encoder, id_field: str | None) -> Iterator[Item]:
    for path in files:
        for found in _read(path, encoder, id_field):
            if isinstance(found, Item):
                yield found


def _told(items: Iterator[Item]) -> Iterator[Item]:
    for number, item in enumerate(items, 1):
        yield item
        if number % MANY == 0:
            _say(f"{number:,} items")


def _get(given: Any) -> int:
    with closing(open_store(given.store)) as store:
        found = store.get(given.id)
    if found is None:
        return _say(f"there is no item {given.id!r}")
    print(json.dumps({"id": found.id, "features": found.values}, ensure_ascii=False))
    return 0


def _delete(given: Any) -> int:
    with closing(open_store(given.store)) as store:
        deleted = store.delete(given.ids)
    _say(f"deleted {deleted:,} of {len(given.ids):,} items")
    return 0 if deleted == len(given.ids) else 1


def _export(given: Any) -> int:
    path: Path = given.file
    if path.exists() and not path.is_file():
        return _say(f"{path} is not an ordinary file")
    with closing(open_store(given.store)) as store:
        if store.holds(path):
            return _say(f"{path} is the store, and must stay")
        _, items = store.items()
        lines = [msgspec.json.encode({"id": item.id, "features": item.values}) for item in items]
    content = b"\n".join([*lines, b""])
    write_file(path, gzip.compress(content) if path.suffix == ".gz" else content)
    _say(f"wrote {len(lines):,} items to {path}")
    return 0


def _count(given: Any) -> int:
    with closing(open_store(given.store)) as store:
        print(store.count())
    return 0


def _say(text: str) -> int:
    print(text, file=sys.stderr)
    return 1
