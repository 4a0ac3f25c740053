"""``items put`` and ``profiles put``: files of any kind that training reads → a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import polars as pl
from msgspec.structs import replace

from app.errors import ValueProblem
from app.features.canonical import integer_key
from app.features.nearest import suggestion
from app.features.spec import Categorical, FeatureSpec, MultiCategorical
from app.store.opening import open_to_put
from app.store.store import MOST_ID_BYTES, MOST_VALUE_BYTES, Item
from model.data.errors import DataError
from model.data.log_files import column_names
from model.data.stored_files import StoredFiles
from model.data.stored_values import StoredValues, read_stored
from model.data.wanted_columns import LogFile
from model.progress import progress_bar, say

SHOWN_NAMES = 5


def put_stored(
    spec_path: Path, files: StoredFiles, url: str, max_bad_lines: float, create: bool = False
) -> int:
    """Store the entries of files, in the place of those with the same ids; return how many.

    Nothing is stored unless all files can be used. Values are those of the spec's fields, as a
    request would have them; of several entries with one id the last one counts.
    ``create`` makes a store in Redis where there is none.

    Raises:
        DataError: a file cannot be used, the share of its bad lines is too high, or an item lacks
            a field that the spec requires.
        StoreError: the store cannot be used.
    """
    spec = FeatureSpec.load(spec_path)
    stored = read_stored(spec, files, max_bad_lines)
    _require(spec, stored)
    _check_sizes(stored)
    began = time.monotonic()
    with (
        closing(open_to_put(url, create)) as store,
        progress_bar("storing", stored.entries.height, "entries", True) as shown,
    ):
        target = store if files.kind == "item" else store.profiles
        if files.kind == "item":
            store.begin_load()
        count = target.put(_counted(_entries(spec, stored), shown.update))
        if count and files.kind == "item":
            store.declare_whole()
    say(f"stored {count:,} {files.kind}s in {time.monotonic() - began:.1f} s")
    if stored.bad.count:
        say(f"left out: {stored.bad.report()}")
    if repeated := stored.bad.total - stored.bad.count - count:
        say(f"{repeated:,} lines have the id of a later one, which counts")
    if unused := _unused(spec, files):
        more = len(unused) - SHOWN_NAMES
        say(
            f"not stored, because no {files.side} field of the spec has the name:"
            f" {', '.join(unused[:SHOWN_NAMES])}{f' and {more:,} more' if more > 0 else ''}"
        )
    return count


def _unused(spec: FeatureSpec, files: StoredFiles) -> list[str]:
    """Return the columns that are no field, as a message shows them; of JSON, the first lines'."""
    spec = replace(spec, columns=None)
    columns = dict.fromkeys(
        name
        for path in files.paths
        for name in column_names(spec, LogFile(path, path.name), files.key) or ()
    )
    fields = {field.name for field in spec.side(files.side)}
    # One that is written wrong is absent under its own name.
    absent = fields - columns.keys()
    return [
        f"{name!r}{f' ({near[2:]})' if (near := suggestion(name, absent)) else ''}"
        for name in columns
        if name not in fields and name != files.key
    ]


def _entries(spec: FeatureSpec, stored: StoredValues) -> Iterator[Item]:
    integers = {
        field.name
        for field in spec.fields
        if isinstance(field, Categorical | MultiCategorical) and field.dtype == "integer"
    }
    for key, values in stored.each():
        raw = {
            name: msgspec.Raw(_as_integers(value) if name in integers else value)
            for name, value in values.items()
        }
        yield Item(int(key) if stored.files.key in integers else key, raw)


def _as_integers(value: bytes) -> bytes:
    """Return the JSON of integers that text files have as text; a text that is none stays."""
    if b'"' not in value:
        return value
    decoded = msgspec.json.decode(value)
    try:
        if isinstance(decoded, list):
            return msgspec.json.encode([integer_key(each) for each in decoded])
        return msgspec.json.encode(integer_key(decoded))
    except ValueProblem:
        # One of the spec's null values.
        return value


def _check_sizes(stored: StoredValues) -> None:
    """Refuse entries that the store does not take, by their id."""
    keys, *columns = stored.entries.get_columns()
    lengths = keys.str.len_bytes()
    sizes = sum(
        ((each.bin.size() + len(f',"{each.name}":')).fill_null(0) for each in columns),
        start=pl.zeros(len(keys), pl.Int64, eager=True) + len("}"),
    )
    for wrong, told in (
        ((lengths == 0) | (lengths > MOST_ID_BYTES), f"an id is 1 to {MOST_ID_BYTES} bytes"),
        (sizes > MOST_VALUE_BYTES, f"values are at most {MOST_VALUE_BYTES} bytes of JSON"),
    ):
        if wrong.any():
            first = keys[int(wrong.arg_max() or 0)]
            raise DataError(
                f"{wrong.sum():,} {stored.files.kind}s are too large or have no id ({told}), the"
                f" first of them {first[:64]!r}; nothing is stored"
            )


def _counted(entries: Iterator[Item], update: Callable[[int], object]) -> Iterator[Item]:
    for entry in entries:
        yield entry
        update(1)


def _require(spec: FeatureSpec, stored: StoredValues) -> None:
    """Refuse items that no bundle of the spec would take; a request may complete a profile."""
    if stored.files.kind == "profile":
        return
    for field in spec.side("candidate"):
        lacking = stored.entries[field.name].is_null() if field.required else None
        if lacking is not None and lacking.any():
            first = stored.entries.row(int(lacking.arg_max() or 0))[0]
            raise DataError(
                f"{lacking.sum():,} items lack the required field {field.name!r}, the first of"
                f" them {first!r}; nothing is stored"
            )
