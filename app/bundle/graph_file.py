"""The places of a graph's large tensors, read from the graph's file without the library onnx.

The service has onnxruntime alone, which does not tell. A graph is a protocol buffer; the numbers
of fields are those of onnx.proto: ModelProto.graph is 7, GraphProto.initializer 5; of TensorProto
dims are 1, data_type is 2, name 8, external_data 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.errors import BundleError
from app.features.arrays import Floats

_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL = 1, 2, 8, 13
_KEY, _VALUE = 1, 2
_FLOAT = 1
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


class OutsideTensor(NamedTuple):
    """A float32 tensor in a file beside its graph, from a byte on."""

    name: str
    shape: tuple[int, ...]
    file: str
    offset: int


def outside_tensors(graph: Path) -> list[OutsideTensor]:
    """Return the float32 tensors that a graph keeps in files beside it.

    Raises:
        BundleError: the file is no graph.
    """
    try:
        model = memoryview(graph.read_bytes())
        return [
            found
            for number, inside in _fields(model)
            if number == _GRAPH and isinstance(inside, memoryview)
            for part, tensor in _fields(inside)
            if part == _INITIALIZER and isinstance(tensor, memoryview)
            if (found := _outside(tensor)) is not None
        ]
    except (IndexError, ValueError, KeyError) as error:
        raise BundleError(f"{graph.name} cannot be read: {error}") from error


def mapped(graph: Path, tensor: OutsideTensor) -> Floats:
    """Return a tensor's content, mapped: its pages are read when they are looked at.

    Raises:
        BundleError: its file is not there, or ends before it.
    """
    try:
        return np.memmap(
            graph.parent / tensor.file, np.float32, "r", tensor.offset, tensor.shape
        ).view(np.ndarray)
    except (OSError, ValueError) as error:
        raise BundleError(f"{tensor.file} cannot be mapped: {error}") from error


def _outside(tensor: memoryview) -> OutsideTensor | None:
    """Return a tensor that lies in another file; None for any other."""
    name, kind = "", 0
    shape: list[int] = []
    place: dict[str, str] = {}
    for number, value in _fields(tensor):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _NAME and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == _EXTERNAL and isinstance(value, memoryview):
            entry = dict(_fields(value))
            place[_text(entry[_KEY])] = _text(entry[_VALUE])
    if kind != _FLOAT or "location" not in place:
        return None
    return OutsideTensor(name, tuple(shape), place["location"], int(place.get("offset", 0)))


def _text(value: int | memoryview) -> str:
    return str(value, "utf-8") if isinstance(value, memoryview) else str(value)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field: an integer, or the bytes of anything else.

    Raises:
        IndexError, ValueError: it is no message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise ValueError("not a graph")
        if at + length > len(message):
            raise ValueError("it ends too early")
        yield key >> 3, message[at : at + length]
        at += length


def _varints(packed: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
