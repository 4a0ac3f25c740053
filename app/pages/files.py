"""The files of the pages, which are parts of the package: HTML, style, scripts, their licences."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
PACKED = ".gz"
"""Ending of a file that is kept, and as a rule sent, as gzip."""


@dataclass(frozen=True, slots=True)
class PageFile:
    """The content of a file; ``packed`` is it as gzip, where it is kept so."""

    content: bytes
    packed: bytes | None
    media: str


@cache
def page_files() -> dict[str, PageFile]:
    """Read every file once, by its path below the pages, such as ``vendor/uplot.js``."""
    return {
        name.removesuffix(PACKED): _read(name, found)
        for name, found in _walk(files(__package__) / "static", "")
    }


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        else:
            found.append((f"{prefix}{entry.name}", entry))
    return found


def _read(name: str, file: Traversable) -> PageFile:
    content, packed = file.read_bytes(), None
    if name.endswith(PACKED):
        content, packed = gzip.decompress(content), content
    ending = name.removesuffix(PACKED).rpartition(".")[2]
    return PageFile(content, packed, MEDIA[f".{ending}"])
