"""The vocabulary: the table row of each known value, in memory and on disk.

On disk each slot is a pair of arrays that can be memory-mapped: sorted keys and their rows. Integer
keys are int64, with a uint64 tail; text keys are one UTF-8 blob with int64 offsets. A numeric slot
holds float32 bucket edges instead, or the mean and deviation that scale its numbers. A slot that
shares another's rows has that one's arrays.

Rows follow the counts of the training part: the more frequent a value, the lower its row.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.errors import BundleError
from app.features.arrangement import in_order
from app.features.arrays import map_array, save_array
from app.features.layout import RESERVED_ROWS, Layout, Slot
from app.features.spec import FeatureSpec
from app.features.text_index import HASH_BITS, INDEXED_VALUES, TextIndex

LAYOUT_FILE = "layout.json"
Finder = Callable[[Any], int | None]
"""Key → its row, or None if the key is unknown."""
TABLE_PART = 4_096
"""Values that are put into a table at a time, so that other threads can run in between."""


@dataclass(frozen=True, slots=True)
class Integers:
    """Known integer keys in ascending order, and the table row of each.

    ``large`` continues ``keys`` with the keys from 2^63 upward; ``rows`` covers both.
    """

    keys: NDArray[np.int64]
    large: NDArray[np.uint64]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, keys: list[int], rows: NDArray[np.int32]) -> Integers:
        """Hold keys that are sorted."""
        bound = bisect_left(keys, 2**63)
        return cls(np.array(keys[:bound], np.int64), np.array(keys[bound:], np.uint64), rows)

    def lookup(self, most: int | None = None) -> dict[Any, int]:
        """Return key → row, in the order of the rows; only of so many frequent ones if asked."""
        return _table(self.rows, self._at, most)

    def finder(self) -> Finder:
        """Return the function that finds single keys in the arrays, which may be mapped."""
        keys, large, rows = self.keys.data, self.large.data, self.rows.data

        def find(key: int) -> int | None:
            sought, start = (keys, 0) if key < 2**63 else (large, len(keys))
            place = bisect_left(sought, key)
            known = place < len(sought) and sought[place] == key
            return rows[start + place] if known else None

        return find

    @property
    def longest(self) -> int:
        """Characters of the longest integer key."""
        return 20

    def texts(self, places: NDArray[np.int64]) -> list[bytes]:
        """Return the keys at these places as decimal text."""
        return [b"%d" % number for number in self._at(places)]

    def _at(self, places: NDArray[np.int64]) -> list[int]:
        small = places < len(self.keys)
        numbers = np.empty(len(places), object)
        numbers[small] = self.keys[places[small]].tolist()
        numbers[~small] = self.large[places[~small] - len(self.keys)].tolist()
        found: list[int] = numbers.tolist()
        return found


def text_index(keys: Iterable[bytes], count: int) -> TextIndex | None:
    """Return the index of sorted keys, if they are so many that they have one."""
    return TextIndex.of(keys, count) if count >= INDEXED_VALUES else None


@dataclass(frozen=True, slots=True)
class Texts:
    """Known text keys in ascending byte order, and the table row of each."""

    blob: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    index: TextIndex | None = None

    @classmethod
    def of(cls, keys: list[str], rows: NDArray[np.int32]) -> Texts:
        """Pack keys that are sorted by their UTF-8 bytes."""
        encoded = [key.encode() for key in keys]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(key) for key in encoded], out=offsets[1:])
        index = text_index(encoded, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets, rows, index)

    def lookup(self, most: int | None = None) -> dict[Any, int]:
        """Return key → row, made in the order of the rows: frequent keys lie close together.

        ``most`` bounds the number of keys: the most frequent ones are returned.
        """
        return _table(self.rows, lambda places: [key.decode() for key in self.texts(places)], most)

    def finder(self) -> Finder:
        """Return the function that finds single keys in the arrays, which may be mapped.

        It compares the texts of the key's bucket; without an index all keys are one bucket.
        """
        blob, offsets, rows = self.blob.data, self.offsets.data, self.rows.data
        starts: Sequence[int] = (0, len(rows))
        places: Sequence[int] = range(len(rows))
        shift = HASH_BITS
        if self.index is not None:
            starts, places, shift = *(part.data for part in self.index), self.index.shift

        def find(key: str) -> int | None:
            wanted = key.encode("utf-8", "surrogatepass")
            bucket = crc32(wanted) >> shift
            low, high = starts[bucket], starts[bucket + 1]
            while low < high:
                middle = (low + high) >> 1
                place = places[middle]
                text = blob[offsets[place] : offsets[place + 1]].tobytes()
                if text == wanted:
                    return rows[place]
                if text < wanted:
                    low = middle + 1
                else:
                    high = middle
            return None

        return find

    @property
    def longest(self) -> int:
        """Bytes of the longest key."""
        return int(np.diff(self.offsets).max(initial=0))

    def texts(self, places: NDArray[np.int64]) -> list[bytes]:
        """The keys at these places as UTF-8."""
        blob = self.blob.data
        starts, ends = self.offsets[places].tolist(), self.offsets[places + 1].tolist()
        return [bytes(blob[start:end]) for start, end in zip(starts, ends, strict=True)]


def _table(
    rows: NDArray[np.int32], keys: Callable[[NDArray[np.int64]], list[Any]], most: int | None
) -> dict[Any, int]:
    """Build key → row a part at a time, because a service may be answering meanwhile.

    A slot's rows are consecutive, so the ``most`` frequent keys are those with the lowest ones.
    """
    if most is None or most >= len(rows):
        order = np.argsort(rows)
    else:
        lowest = np.flatnonzero(rows < int(rows.min()) + most)
        order = lowest[np.argsort(rows[lowest])]
    table: dict[Any, int] = {}
    for start in range(0, len(order), TABLE_PART):
        places = order[start : start + TABLE_PART]
        table.update(zip(keys(places), rows[places].tolist(), strict=True))
    return table


@dataclass(frozen=True, slots=True)
class Edges:
    """Bucket edges of a numeric slot: bucket b holds edges[b-1] <= x < edges[b]."""

    edges: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and standard deviation of a scaled slot's numbers in the training part."""

    mean_std: NDArray[np.float32]

    @property
    def mean(self) -> float:
        """The mean."""
        return float(self.mean_std[0])

    @property
    def std(self) -> float:
        """The standard deviation, above zero."""
        return float(self.mean_std[1])


SlotVocabulary = Integers | Texts | Edges | Scale


class _SlotRecord(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    field: str
    first: int
    size: int
    file: str
    kind: str
    values: int
    mean: int | None = None
    shares: str | None = None


_records_decoder = msgspec.json.Decoder(list[_SlotRecord])


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The layout of the fused table, and by slot the values of its rows."""

    layout: Layout
    slots: Mapping[str, SlotVocabulary]

    def save(self, directory: Path) -> None:
        """Write the arrays and their description into an existing empty directory."""
        records = []
        # Single-valued slots come first, so what a list shares is there before it.
        stems: dict[str, str] = {}
        for number, slot in enumerate(self.layout.slots):
            vocabulary = self.slots[slot.name]
            stem = f"{number:03d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', slot.name)[:64]}"
            stem = stems.setdefault(slot.source, stem)
            for part, array in _parts(vocabulary).items() if slot.shares is None else ():
                save_array(directory / f"{stem}.{part}.npy", array)
            records.append(
                _SlotRecord(
                    slot.name,
                    slot.field,
                    slot.first,
                    slot.size,
                    stem,
                    type(vocabulary).__name__.lower(),
                    _values(vocabulary),
                    slot.mean,
                    slot.shares,
                )
            )
        data = msgspec.json.format(msgspec.json.encode(records), indent=1)
        (directory / LAYOUT_FILE).write_bytes(data + b"\n")

    @classmethod
    def load(cls, directory: Path, spec: FeatureSpec, mapped: bool = False) -> Vocabulary:
        """Read what :meth:`save` wrote; ``mapped`` leaves the arrays on disk until looked at.

        Raises:
            BundleError: a file is absent or malformed, or the slots are not the spec's.
        """
        try:
            described = (directory / LAYOUT_FILE).read_bytes()
            records = _records_decoder.decode(described)
            slots = {
                record.name: _read(directory, record, mapped)
                for record in records
                if record.shares is None
            }
            for record in records:
                if record.shares is not None:
                    _check_shared(record, records)
                    slots[record.name] = slots[record.shares]
            _check_means(records)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise BundleError(f"vocabulary cannot be read: {error}") from error
        by_name = {
            record.name: Slot(
                record.name,
                record.field,
                record.first,
                record.size,
                mean=record.mean,
                shares=record.shares,
            )
            for record in records
        }
        return cls(in_order(spec, by_name), slots)


def _parts(vocabulary: SlotVocabulary) -> dict[str, NDArray[Any]]:
    match vocabulary:
        case Integers(keys, large, rows):
            return {"keys": keys, "large": large, "rows": rows}
        case Texts(blob, offsets, rows, index):
            parts: dict[str, NDArray[Any]] = {"blob": blob, "offsets": offsets, "rows": rows}
            if index is not None:
                parts |= {"starts": index.starts, "places": index.places}
            return parts
        case Edges(edges):
            return {"edges": edges}
        case Scale(mean_std):
            return {"scale": mean_std}


def _values(vocabulary: SlotVocabulary) -> int:
    """Return the number of values of a slot, as the layout's file counts them."""
    match vocabulary:
        case Edges(edges):
            return len(edges)
        case Scale():
            return 1
        case Integers() | Texts():
            return len(vocabulary.rows)


def _read(directory: Path, record: _SlotRecord, mapped: bool) -> SlotVocabulary:
    def array(part: str, kind: str) -> NDArray[Any]:
        path = directory / f"{record.file}.{part}.npy"
        try:
            loaded = map_array(path) if mapped else np.load(path, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path.name}: {error}") from error
        if loaded.ndim != 1 or loaded.dtype.str != kind:
            raise ValueError(f"{path.name} holds {loaded.dtype} [{loaded.ndim} axes]")
        return loaded

    def index() -> TextIndex:
        return TextIndex(array("starts", "<u4"), array("places", "<u4"))

    match record.kind:
        case "edges":
            edges = Edges(array("edges", "<f4"))
            if not len(edges.edges) == record.values == record.size - RESERVED_ROWS - 1:
                raise ValueError(f"slot {record.name!r} has {len(edges.edges)} edges")
            return edges
        case "scale":
            scale = Scale(array("scale", "<f4"))
            if not (
                len(scale.mean_std) == 2
                and record.values == record.size - RESERVED_ROWS == 1
                and np.isfinite(scale.mean_std).all()
                and scale.std > 0
            ):
                raise ValueError(f"slot {record.name!r} has no valid mean and deviation")
            return scale
        case "integers":
            numbers = Integers(array("keys", "<i8"), array("large", "<u8"), array("rows", "<i4"))
            result: Integers | Texts = numbers
            keys = len(numbers.keys) + len(numbers.large)
        case "texts":
            texts = Texts(
                array("blob", "|u1"),
                array("offsets", "<i8"),
                array("rows", "<i4"),
                index() if (directory / f"{record.file}.starts.npy").exists() else None,
            )
            result = texts
            keys = len(texts.offsets) - 1
            if texts.index is not None and not texts.index.fits(keys):
                raise ValueError(f"slot {record.name!r} has an index of other values")
        case other:
            raise ValueError(f"slot {record.name!r} has unknown kind {other!r}")
    rows = result.rows
    if not keys == len(rows) == record.values:
        raise ValueError(
            f"slot {record.name!r} has {keys} keys and {len(rows)} rows, not {record.values}"
        )
    first, last = record.first + RESERVED_ROWS, record.first + record.size - 1
    if len(rows) and not (first <= int(rows.min()) and int(rows.max()) <= last):
        raise ValueError(f"slot {record.name!r} has rows outside its own range")
    return result


def _check_shared(record: _SlotRecord, records: Sequence[_SlotRecord]) -> None:
    """Refuse a slot that shares rows which are not those of one slot with rows of its own."""
    rows = record.first, record.size
    if [(e.first, e.size) for e in records if e.name == record.shares and not e.shares] != [rows]:
        raise ValueError(f"slot {record.name!r} has other rows than {record.shares!r}")


def _check_means(records: Sequence[_SlotRecord]) -> None:
    """Refuse means that are not the rows behind those of all values, one a slot, or absent."""
    means = [record.mean for record in records]
    behind = 1 + sum(record.size for record in records if record.shares is None)
    expected = range(behind, behind + len(records))
    if any(mean is not None for mean in means) and sorted(filter(None, means)) != list(expected):
        raise ValueError("the mean rows are not one for each slot, behind the rows of all values")
