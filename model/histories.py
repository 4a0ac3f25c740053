"""Histories of users: the items that each row's user had clicked before that row.

Only what came strictly before counts: of rows with the same moment none is before another, because
a service that answers for one of them does not know the others yet. So nothing of a row's label,
nor of later rows, is in its history, however the rows are split along time.
"""

from __future__ import annotations

import polars as pl

HISTORY = "history"
SEPARATOR = "|"


def with_histories(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """Add a column ``history``: the user's last clicked items, the latest first, at most ``most``.

    ``rows`` have ``user_id``, ``item_id``, ``time`` (whole seconds, as text) and ``click`` ("1" for
    a click); they keep their order. Items of equal moments are in the order of the rows, later
    ones first. Of a user without earlier clicks the cell is empty.
    """
    seconds = rows["time"].cast(pl.Int64).to_list()
    users, items, clicks = (rows[name].to_list() for name in ("user_id", "item_id", "click"))
    order = sorted(range(rows.height), key=seconds.__getitem__)
    clicked: dict[str, list[str]] = {}
    histories = [""] * rows.height
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and seconds[order[stop]] == seconds[order[start]]:
            stop += 1
        moment = order[start:stop]
        for row in moment:
            histories[row] = SEPARATOR.join(clicked.get(users[row], [])[: -most - 1 : -1])
        for row in moment:
            if clicks[row] == "1":
                clicked.setdefault(users[row], []).append(items[row])
        start = stop
    return rows.with_columns(pl.Series(HISTORY, histories, pl.String))
