"""Files with the values of items → columns beside those of a log that has their ids alone.

As in training, a log's own value wins, and a row whose item is unknown cannot be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from app.features.keys import text_key
from app.features.nearest import suggestion
from app.features.spec import Categorical, FeatureSpec
from model.data.errors import DataError
from model.data.json_lines import is_json
from model.data.stored_values import row_keys
from model.draft.column import Column
from model.draft.look import Items, Look, look_at

MOST_ITEMS = 10_000_000
"""Lines that are looked at. All are held in memory, as in training."""
_KEY, _FOUND = "\0key", "\0found"


def with_items(look: Look, paths: Sequence[Path], key: str, progress: bool = True) -> Look:
    """Return a look at the rows of a log with the values of their items.

    ``key`` is the column with an item's id, in the log and in the files.

    Raises:
        DataError: a file cannot be read, the id's column is missing, or no row has an item.
    """
    if key == look.layout.label:
        raise DataError(f"--id: {key!r} is the label")
    _require(look, key, "the data")
    items = look_at(paths, look.layout.label, None, MOST_ITEMS, progress, key)
    _require(items, key, "--items")
    if items.layout.delimiter != look.layout.delimiter:
        raise DataError(
            "the delimiters of the data and of --items differ, and training reads both with one:"
            " write one of them anew"
        )
    named = [name for name in items.columns if name not in (key, look.layout.label)]
    added = [name for name in named if name not in look.columns]
    frame = _joined(look.frame, items.frame, key, named)
    if not frame.height:
        raise DataError(f"--id: no row of the data has the {key!r} of an item of --items")
    found = Items(items.names, key, frozenset(added), look.frame.height - frame.height, items.bad)
    unusable = {
        name: why for name, why in items.unusable.items() if name not in look.columns and name
    }
    return replace(
        look,
        frame=frame,
        columns=(*look.columns, *added),
        unusable=look.unusable | unusable,
        items=found,
    )


def _require(look: Look, key: str, where: str) -> None:
    if key not in look.columns:
        known = ", ".join(map(repr, look.columns))
        raise DataError(
            f"--id: there is no column {key!r} in {where}{suggestion(key, look.columns)}; the"
            f" columns are {known}"
        )


def _joined(log: pl.DataFrame, items: pl.DataFrame, key: str, named: Sequence[str]) -> pl.DataFrame:
    """Return the rows of a log that have an item, with the values that they lack of it."""
    # 7, "7" and 7.0 are one id where the log's are integers.
    whole = Column(log[key]).content[0] == "integer"
    field = Categorical(name=key, side="candidate", dtype="integer" if whole else "string")
    text = text_key(FeatureSpec(label="", fields=(field,)), key)
    entries = items.select(
        row_keys(items[key], text).alias(_KEY), *named, pl.lit(True).alias(_FOUND)
    )
    entries = entries.drop_nulls(_KEY).unique(_KEY, keep="last")
    keys = row_keys(log[key], text).alias(_KEY).to_frame()
    found = keys.join(entries, on=_KEY, how="left", maintain_order="left")
    columns = []
    for name in named:
        if name not in log.columns:
            columns.append(found[name])
        elif is_json(own := log[name]) and is_json(found[name]):
            columns.append(own.zip_with(own.is_not_null(), found[name]))
    return log.with_columns(columns).filter(found[_FOUND].fill_null(False))
