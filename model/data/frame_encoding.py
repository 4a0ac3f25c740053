"""Frames of raw values on disk → the encoded rows of each part, a file for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from app.features.encoder import Encoder
from app.features.hot_values import hot_values
from app.features.spec import DataPart, FeatureSpec
from app.features.vocabulary import Vocabulary
from app.files import write_file
from model.array_files import Arrays
from model.data.dataset import Dataset
from model.data.encode import encode
from model.data.split import PARTS
from model.data.value_counts import parts_of
from model.data.values import json_rows

Row = dict[str, Any]
"""A row as a caller would send it."""


@dataclass(frozen=True, slots=True)
class FrameToEncode:
    """A frame on disk, its rows among all, the parts of all rows, and where its arrays go."""

    number: int
    directory: Path
    spec: FeatureSpec
    vocabulary: Path
    in_memory: bool
    """True for all values of the vocabulary in memory, however many they are."""
    frame: Path
    rows: slice
    parts: Path
    wanted: Sequence[DataPart]
    sample: Sequence[int]
    """Rows of the frame's test part that are wanted as JSON, by their place in it."""


_decode = msgspec.json.Decoder(list[Row]).decode
_encode = msgspec.json.Encoder().encode
_encoders: dict[tuple[Path, bool], Encoder] = {}
"""The encoder that this process has used last: making one takes longer than encoding a frame."""


def encode_frame(frame: FrameToEncode) -> list[Row]:
    """Encode a frame, unless that was done before; return its rows that are wanted as JSON.

    Raises:
        OSError: there is no room for the arrays.
    """
    done = frame.directory / f"{frame.number:06d}.json"
    if done.exists():
        return _decode(done.read_bytes())
    spec, raw = frame.spec, pl.read_parquet(frame.frame, glob=False)
    data = encode(spec, _encoder(frame), raw)
    part = parts_of(frame.parts, frame.rows)
    arrays: Arrays = {}
    rows: list[Row] = []
    for wanted in frame.wanted:
        chosen = np.flatnonzero(part == PARTS.index(wanted))
        for name, array in _columns(data.take(chosen)).items():
            arrays[f"{wanted}.{name}"] = array
        if wanted == "test":
            rows = json_rows(spec, raw[chosen[list(frame.sample)].tolist()])
    content = BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_file(arrays_file(frame.directory, frame.number), content.getvalue())
    write_file(done, _encode(rows))
    return rows


def arrays_file(directory: Path, number: int) -> Path:
    """Return the file with the arrays of a frame."""
    return directory / f"{number:06d}.npz"


def forget_encoder() -> None:
    """Free the memory of the encoder that was used last in this process."""
    _encoders.clear()


def _encoder(frame: FrameToEncode) -> Encoder:
    key = frame.vocabulary, frame.in_memory
    if key not in _encoders:
        _encoders.clear()
        vocabulary = Vocabulary.load(frame.vocabulary, frame.spec, mapped=True)
        hot = {} if frame.in_memory else hot_values(frame.spec, vocabulary)
        tables = {name: values.table for name, values in hot.items()}
        finds = {name: values.find for name, values in hot.items()}
        _encoders[key] = Encoder(frame.spec, vocabulary, tables, finds, training=True)
    return _encoders[key]


def _columns(data: Dataset) -> Arrays:
    arrays: Arrays = {"context": data.context, "candidate": data.candidate, "label": data.label}
    for name, lists in (("contexts", data.context_lists), ("candidates", data.candidate_lists)):
        arrays |= {f"{name}.{number}": column for number, column in enumerate(lists)}
    if data.context_value is not None:
        arrays["context_value"] = data.context_value
    if data.candidate_value is not None:
        arrays["candidate_value"] = data.candidate_value
    if data.weight is not None:
        arrays["weight"] = data.weight
    return arrays


def sample_of(parts: NDArray[np.uint8], rows: Sequence[slice], most: int) -> list[Sequence[int]]:
    """Choose rows of the test part evenly: it may be in the order of time.

    Returns, for each of the frames, the places among its own rows of that part.
    """
    test = PARTS.index("test")
    counts = [int(np.count_nonzero(parts[where] == test)) for where in rows]
    tests = sum(counts)
    sample = np.linspace(0, tests, min(most, tests), endpoint=False).astype(np.int64)
    ends = np.cumsum([0, *counts])
    bounds = np.searchsorted(sample, ends)
    return [
        (sample[low:high] - start).tolist()
        for low, high, start in zip(bounds, bounds[1:], ends, strict=False)
    ]
