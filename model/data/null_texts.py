"""Texts by which other programs mean that a value is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from app.features.spec import Categorical, FeatureSpec, MultiCategorical
from app.features.vocabulary import Texts, Vocabulary
from model.data.dataset import Dataset
from model.data.slot_counts import slot_columns

NULL_TEXTS = (
    "\\N",
    "NULL",
    "Null",
    "null",
    "(null)",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "NAN",
    "None",
    "nil",
    "undefined",
    ".",
    "-",
    "?",
)
"""Of Hive and MySQL, SQL, R, pandas, spreadsheets, Python, JavaScript, SAS and web servers."""
FREQUENT = 0.01
"""Share of the rows from which on such a text is worth a warning."""


def null_hint(value: Any) -> str:
    """Return what to write into the spec if a value that breaks a rule stands for a missing one."""
    texts = [text for text in (value if isinstance(value, list) else [value]) if text in NULL_TEXTS]
    return (
        f"; if {texts[0]!r} means that the value is missing, name it in `null_values`"
        if texts
        else ""
    )


def null_warnings(spec: FeatureSpec, vocabulary: Vocabulary, data: Dataset) -> Iterator[str]:
    """Yield a warning for each text field of which a frequent value looks like a null.

    ``data`` is the training part.
    """
    fields = {field.name: field for field in spec.fields}
    for slot, indices, _ in slot_columns(vocabulary.layout, data):
        values = vocabulary.slots[slot.name]
        if not isinstance(fields[slot.field], Categorical | MultiCategorical):
            continue
        if not isinstance(values, Texts):
            continue
        shares, find = {}, values.finder()
        for text in NULL_TEXTS:
            if (row := find(text)) is not None:
                shares[text] = np.count_nonzero((indices == row).any(1)) / len(data)
        told = [f"{text!r} ({share:.1%})" for text, share in shares.items() if share >= FREQUENT]
        if told:
            yield (
                f"field {slot.field!r}: frequent values look like nulls: {', '.join(told)} of the"
                " training rows; if they mean that the value is missing, name them in `null_values`"
            )
