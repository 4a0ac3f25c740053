"""The kinds of files that hold logs, by the endings of their names in any case."""

from __future__ import annotations

from pathlib import Path

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
GZIP = {".gz", ".gzip"}
NOT_DECOMPRESSED = {".7z", ".br", ".bz2", ".lz4", ".snappy", ".xz", ".z", ".zip", ".zst", ".zstd"}
_PARQUET = {".parquet", ".parq", ".pq"}
_JSON_LINES = {".jsonl", ".ndjson"}
_COMPRESSED_INSIDE = GZIP | {".snappy", ".zstd", ".zst", ".brotli", ".lz4"}
"""Endings after ``.parquet`` that name the compression of its columns."""


def is_parquet(path: Path) -> bool:
    """Tell whether a file is Parquet."""
    return _ending(path, _COMPRESSED_INSIDE) in _PARQUET


def is_json_lines(path: Path) -> bool:
    """Tell whether a file is JSON lines, compressed or not."""
    return ending_of_text(path) in _JSON_LINES


def is_gzip(path: Path) -> bool:
    """Tell whether a text file is gzipped."""
    return path.suffix.lower() in GZIP


def ending_of_text(path: Path) -> str:
    """Return the ending of a text file's name, before that of gzip."""
    return _ending(path, GZIP)


def _ending(path: Path, compressions: set[str]) -> str:
    """Return a name's ending, in small letters, before those of compressions."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in compressions), "")
