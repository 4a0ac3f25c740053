"""Suggestions: a near name, or none."""

from __future__ import annotations

import pytest

from app.features.nearest import suggestion

KNOWN = ["learning_rate", "embedding_size", "epochs", "dropout", "calibration"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("learning_rat", "; did you mean 'learning_rate'?"),
        ("drop_out", "; did you mean 'dropout'?"),
        ("epoch", "; did you mean 'epochs'?"),
        ("DROPOUT", "; did you mean 'dropout'?"),
        ("class_weight", ""),
        ("optimizer", ""),
        ("lr", ""),
        ("", ""),
    ],
)
def test_only_a_near_name_is_suggested(name: str, wanted: str) -> None:
    """Names that merely share letters are not."""
    assert suggestion(name, KNOWN) == wanted


def test_nothing_known_suggests_nothing() -> None:
    """An empty set of names has no near one."""
    assert suggestion("epochs", []) == ""
