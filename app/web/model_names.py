"""Names of models, and of their versions, in paths: ``{name:model}``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from starlette.convertors import Convertor, register_url_convertor

NAME = Annotated[str, Path(pattern="^[^/:]+$")]
"""The type of such a parameter."""


class _ModelName(Convertor[str]):
    """A model's name in a path; what follows a colon is an operation on it."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("model", _ModelName())
