"""The files with values of items and users, as a command names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from app.features.spec import Side

Kind = Literal["item", "profile"]


class StoredFiles(NamedTuple):
    """Files with the values of items, or of users, and the column that has their key."""

    kind: Kind
    paths: Sequence[Path]
    key: str

    @property
    def side(self) -> Side:
        """The side of the spec whose values they are."""
        return "candidate" if self.kind == "item" else "context"
