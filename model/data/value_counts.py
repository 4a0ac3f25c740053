"""Counts of the values of each slot in the rows to train on: by frame, then merged in a tree.

Counts lie in files of two kinds, of texts and of numbers, a line for each slot and value. The hash
of the value decides its bucket; whatever has to be added up is of one bucket, so that one merge
needs to hold the values of some buckets only, and several run at once. Sums of whole numbers do not
depend on the order in which they are added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.features.canonical import KEYS, log_squared_keys, seconds, time_parts
from app.features.null_values import null_values_of
from app.features.spec import (
    Categorical,
    FeatureSpec,
    Field,
    MultiCategorical,
    Numeric,
    Time,
    attended,
)
from app.files import write_file
from model.cluster.places import Places
from model.data.frames_on_disk import FramesOnDisk
from model.data.split import PARTS
from model.data.values import field_values

BUCKETS = 256
FAN_IN = 32
"""Files that one merge adds up, at most."""
_LINES_OF_MIB = 4_096
"""Lines of counts that one merge reads for each MiB that it may take."""
_GROUP = 2**14
"""Lines of a file that are read or passed over together."""
SLOT, BUCKET, LARGE, KEY, COUNT = "slot", "bucket", "large", "key", "n"
_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "texts": {SLOT: pl.UInt32, BUCKET: pl.UInt8, KEY: pl.String, COUNT: pl.Int64},
    # Integers from 2^63 upward are LARGE, their key less 2^64; numbers with a fraction are the
    # bits of their float32.
    "numbers": {
        SLOT: pl.UInt32,
        BUCKET: pl.UInt8,
        LARGE: pl.Boolean,
        KEY: pl.Int64,
        COUNT: pl.Int64,
    },
}
KINDS = tuple(_SCHEMAS)
Counts = Mapping[str, pl.DataFrame]
"""The lines of both kinds."""


def count_values(
    spec: FeatureSpec, column: Callable[[str], pl.Series], reused: frozenset[str] = frozenset()
) -> Counts:
    """Count the values of every slot in rows whose raw columns are given by their field's name.

    Fields whose buckets or scale are given, by the spec or as ``reused``, are left out, as are
    lists with the values of another field.
    """
    lines: dict[str, list[pl.DataFrame]] = {kind: [] for kind in KINDS}
    slot = 0
    for field in spec.fields:
        names = field.slot_names
        if not (field.name in reused or _given(field)):
            values, codes = field_values(field, column(field.name))
            weights = np.bincount(codes, minlength=len(values))
            if has_fractions(field):
                lines["numbers"].append(_fractions(slot, values, weights))
            else:
                counts: dict[str, Counter[Any]] = {name: Counter() for name in names}
                _count(field, values, weights, counts)
                for place, name in enumerate(names, slot):
                    kind, found = _lines(place, counts[name])
                    lines[kind].append(found)
        slot += len(names)
    return {
        kind: pl.concat([pl.DataFrame(schema=_SCHEMAS[kind]), *found])
        for kind, found in lines.items()
    }


def has_fractions(field: Field) -> bool:
    """Tell whether a field's numbers themselves are counted, for buckets or a scale."""
    return isinstance(field, Numeric) and field.encoding != "log_squared"


def _given(field: Field) -> bool:
    return attended(field) is not None or (isinstance(field, Numeric) and field.encoding == "edges")


def fractions_of(lines: pl.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the distinct numbers of one slot's lines, ascending, and in how many rows each is."""
    known = lines[KEY].to_numpy().astype(np.uint32).view(np.float32)
    order = np.argsort(known)
    return known[order], lines[COUNT].to_numpy()[order].astype(np.float64)


def _fractions(slot: int, values: Sequence[Any], weights: NDArray[np.int64]) -> pl.DataFrame:
    present = [(v, w) for v, w in zip(values, weights.tolist(), strict=True) if v is not None]
    # Two zeros are one number.
    numbers = np.array([v for v, _ in present], np.float64).astype(np.float32) + np.float32(0)
    bits = numbers.view(np.uint32).astype(np.int64)
    large = np.zeros(len(bits), bool)
    return _numbers(slot, bits, large, np.array([w for _, w in present], np.int64))


def _lines(slot: int, counts: Counter[Any]) -> tuple[str, pl.DataFrame]:
    keys, n = [*counts], np.array([*counts.values()], np.int64)
    if keys and isinstance(keys[0], str):
        buckets = np.fromiter((crc32(key.encode()) >> 24 for key in keys), np.uint8, len(keys))
        return "texts", _frame("texts", slot, buckets, {KEY: pl.Series(keys, dtype=pl.String)}, n)
    large = np.array([key >= 2**63 for key in keys], bool)
    small = [key - 2**64 if key >= 2**63 else key for key in keys]
    return "numbers", _numbers(slot, np.array(small, np.int64), large, n)


def _numbers(
    slot: int, keys: NDArray[np.int64], large: NDArray[np.bool_], n: NDArray[np.int64]
) -> pl.DataFrame:
    # The highest bits of a product with 2^64 / golden ratio, which depend on all of the key's.
    buckets = ((keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(56)).astype("u1")
    return _frame("numbers", slot, buckets, {LARGE: pl.Series(large), KEY: pl.Series(keys)}, n)


def _frame(
    kind: str,
    slot: int,
    buckets: NDArray[np.uint8],
    keys: Mapping[str, pl.Series],
    n: NDArray[np.int64],
) -> pl.DataFrame:
    columns = {SLOT: pl.Series(np.full(len(n), slot, np.uint32)), BUCKET: pl.Series(buckets)}
    found = pl.DataFrame(columns | dict(keys) | {COUNT: pl.Series(n)})
    return found.select(pl.col(name).cast(dtype) for name, dtype in _SCHEMAS[kind].items())


def _count(
    field: Field, values: Sequence[Any], weights: NDArray[np.int64], counts: dict[str, Counter[Any]]
) -> None:
    """Add the canonical keys of each of the field's slots to their counts."""
    weighed = list(zip(values, weights.tolist(), strict=True))
    match field:
        case Categorical():
            key = KEYS[field.dtype]
            for value, weight in weighed:
                if not (value is None or (value == "" and field.empty_is_missing)):
                    counts[field.name][key(value)] += weight
        case MultiCategorical():
            key, nulls = KEYS[field.dtype], null_values_of(field)
            for value, weight in weighed:
                present = [
                    item
                    for item in value or ()
                    if not (item == "" and field.empty_is_missing) and item not in nulls
                ]
                for item in present[: field.max_values]:
                    counts[field.name][key(item)] += weight
        case Numeric():
            known = [(value, weight) for value, weight in weighed if value is not None]
            numbers = np.array([value for value, _ in known], np.float64)
            for found, (_, weight) in zip(log_squared_keys(numbers).tolist(), known, strict=True):
                counts[field.name][found] += weight
        case Time():
            zone = ZoneInfo(field.timezone)
            for value, weight in weighed:
                if value is None or value == "":
                    continue
                parts = time_parts(seconds(value, zone, field.format), zone, field.parts)
                for name, part in zip(field.slot_names, parts, strict=True):
                    counts[name][part] += weight


@dataclass(frozen=True, slots=True)
class FrameToCount:
    """A frame on disk, its rows among all, the parts of all rows, and where its counts go."""

    number: int
    directory: Path
    spec: FeatureSpec
    frame: Path
    rows: slice
    parts: Path
    reused: frozenset[str]


class FrameCounts(NamedTuple):
    """Lines of texts and of numbers in the files of one frame."""

    texts: int
    numbers: int


_decode = msgspec.json.Decoder(FrameCounts).decode
_encode = msgspec.json.Encoder().encode


def count_frame(frame: FrameToCount) -> FrameCounts:
    """Count the values of a frame's training rows, unless that was done before.

    Raises:
        OSError: there is no room for the counts.
    """
    done = frame.directory / f"{frame.number:06d}.json"
    if done.exists():
        return _decode(done.read_bytes())
    part = parts_of(frame.parts, frame.rows)
    raw = pl.read_parquet(frame.frame, columns=[f.name for f in frame.spec.fields], glob=False)
    rows = raw.filter(pl.Series(part == PARTS.index("train")))
    counts = count_values(frame.spec, lambda name: rows[name], frame.reused)
    for kind, lines in counts.items():
        if lines.height:
            _write(_path(frame.directory, kind, frame.number), lines.sort(BUCKET))
    found = FrameCounts(*(counts[kind].height for kind in KINDS))
    write_file(done, _encode(found))
    return found


def parts_of(path: Path, rows: slice) -> NDArray[np.uint8]:
    """Return the parts of some of all rows."""
    return np.fromfile(path, np.uint8, rows.stop - rows.start, offset=rows.start)


def _path(directory: Path, kind: str, number: int) -> Path:
    return directory / f"{kind}-{number:06d}.parquet"


def _write(path: Path, lines: pl.DataFrame) -> None:
    content = BytesIO()
    lines.write_parquet(content, compression="lz4", row_group_size=_GROUP)
    write_file(path, content.getvalue())


@dataclass(frozen=True, slots=True)
class FilesToMerge:
    """Files with lines of one kind, the buckets that are wanted of them, and where they go."""

    paths: Sequence[Path]
    kind: str
    buckets: tuple[int, int]
    """The first, and the one behind the last."""
    least: Sequence[int] | None
    """For the last merge: how often a value of each slot must be there to be kept."""
    result: Path


def merge_files(files: FilesToMerge) -> Path:
    """Add up the counts of each slot and value, unless that was done before; return the file.

    Raises:
        OSError: there is no room for the counts.
    """
    if files.result.exists():
        return files.result
    first, behind = files.buckets
    keys = [name for name in _SCHEMAS[files.kind] if name != COUNT]
    lines = (
        pl.scan_parquet(list(files.paths), glob=False)
        .filter(pl.col(BUCKET).is_between(first, behind - 1))
        .group_by(keys)
        .agg(pl.col(COUNT).sum())
    )
    if files.least is None:
        _write(files.result, lines.collect().sort(BUCKET))
    else:
        least = pl.Series(list(files.least), dtype=pl.Int64)
        found = lines.collect()
        _write(files.result, found.filter(found[COUNT] >= least.gather(found[SLOT])).sort(SLOT))
    return files.result


@dataclass(frozen=True, slots=True)
class MergedCounts:
    """The counts of all rows, of the values that are frequent enough."""

    files: Mapping[str, Sequence[Path]]

    def lines(self, kind: str, slot: int) -> pl.DataFrame:
        """Return the lines of one kind of a slot, in any order."""
        paths = self.files[kind]
        if not paths:
            return pl.DataFrame(schema=_SCHEMAS[kind])
        return pl.scan_parquet(list(paths), glob=False).filter(pl.col(SLOT) == slot).collect()


def count_rows(
    spec: FeatureSpec,
    on_disk: FramesOnDisk,
    parts: Path,
    directory: Path,
    reused: frozenset[str],
    places: Places,
) -> MergedCounts:
    """Count the values of all training rows, into files below ``directory``.

    Raises:
        OSError: there is no room for the counts.
    """
    frames = [
        FrameToCount(number, directory, spec, path, rows, parts, reused)
        for number, (rows, path) in enumerate(on_disk.places())
    ]
    counted = list(places.map(count_frame, frames))
    merged = {}
    for kind in KINDS:
        heights = [getattr(each, kind) for each in counted]
        found = [_path(directory, kind, n) for n, height in enumerate(heights) if height]
        most = places.memory_mib * _LINES_OF_MIB
        spans = min(BUCKETS, -(-sum(heights) // most))
        merged[kind] = _merge(found, kind, spans, least_counts(spec), directory, places)
    return MergedCounts(merged)


def least_counts(spec: FeatureSpec) -> list[int]:
    """Return for every slot how often a value must be there to be known."""
    return [
        1 if isinstance(field, Time) or has_fractions(field) else field.min_count
        for field in spec.fields
        for _ in field.slot_names
    ]


def _merge(
    found: Sequence[Path],
    kind: str,
    spans: int,
    least: Sequence[int],
    directory: Path,
    places: Places,
) -> Sequence[Path]:
    """Merge files, ``FAN_IN`` at a time, until there is one for each span of the buckets."""
    if not found:
        return []
    ends = np.linspace(0, BUCKETS, spans + 1).astype(int).tolist()
    trees = {(low, high): list(found) for low, high in pairwise(ends)}
    level = 0
    while True:
        last = all(len(paths) <= FAN_IN for paths in trees.values())
        merges = [
            FilesToMerge(
                paths[start : start + FAN_IN],
                kind,
                span,
                least if last else None,
                directory / f"merged-{kind}-{level}-{span[0]:03d}-{start // FAN_IN:06d}.parquet",
            )
            for span, paths in trees.items()
            for start in range(0, len(paths), FAN_IN)
        ]
        results = list(places.map(merge_files, merges))
        if last:
            return results
        trees = {span: [] for span in trees}
        for merge, result in zip(merges, results, strict=True):
            trees[merge.buckets].append(result)
        level += 1
