"""Bodies of the Open Inference Protocol v2, written without a client of it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LENGTH = "Inference-Header-Content-Length"
MISSING_TEXT, MISSING_USER = "\u2205", 0
DATATYPES: Mapping[str, tuple[str, str | None]] = {
    "user_id": ("UINT64", "<u8"), "country": ("BYTES", None), "time": ("INT64", "<i8"),
    "age": ("FP64", "<f8"), "placement": ("BYTES", None), "item_id": ("INT64", "<i8"),
    "tags": ("BYTES", None), "price": ("FP32", "<f4"), "quality": ("FP32", "<f4"),
}  # fmt: skip
"""Datatype of each field of the sample, and numpy's name of it."""


def texts(values: Sequence[str]) -> bytes:
    """Texts as the binary extension has them."""
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def inputs(rows: Sequence[Mapping[str, Any]], nested: bool = True) -> list[dict[str, Any]]:
    """The rows of the sample as inputs whose values are JSON."""
    found = []
    for name, (datatype, _) in DATATYPES.items():
        values = [row.get(name) for row in rows]
        shape = [len(rows)]
        parameters: dict[str, Any] = {}
        if name == "tags":
            longest = max((len(each) for each in values if each), default=0) + 1
            shape.append(longest)
            padded = [[MISSING_TEXT] if each is None else each for each in values]
            values = [[*each, *[""] * (longest - len(each))] for each in padded]
            parameters["missing"] = MISSING_TEXT
            if not nested:
                values = [value for each in values for value in each]
        elif datatype == "BYTES":
            values = [MISSING_TEXT if each is None else each for each in values]
            parameters["missing"] = MISSING_TEXT
        else:
            missing = MISSING_USER if name == "user_id" else -1
            values = [missing if each is None else each for each in values]
            parameters["missing"] = missing
        found.append(
            {"name": name, "shape": shape, "datatype": datatype, "parameters": parameters,
             "data": values}
        )  # fmt: skip
    return found


def in_binary(given: Sequence[Mapping[str, Any]], **members: Any) -> tuple[bytes, dict[str, str]]:
    """A body whose values are behind its head, and the header that it needs."""
    head, tail = [], b""
    for each in given:
        values = np.array(each["data"], object).ravel().tolist()
        dtype = DATATYPES[each["name"]][1]
        raw = texts(values) if dtype is None else np.array(values, dtype).tobytes()
        tail += raw
        parameters = {**each["parameters"], "binary_data_size": len(raw)}
        head.append({**{k: v for k, v in each.items() if k != "data"}, "parameters": parameters})
    content = json.dumps({"inputs": head, **members}).encode()
    return content + tail, {LENGTH: str(len(content))}


def outputs(content: bytes, header: str | None) -> dict[str, list[float]]:
    """The outputs of an answer by name."""
    length = len(content) if header is None else int(header)
    head, tail = json.loads(content[:length]), content[length:]
    found = {}
    for each in head["outputs"]:
        if "data" in each:
            found[each["name"]] = each["data"]
            continue
        size = each["parameters"]["binary_data_size"]
        found[each["name"]] = np.frombuffer(tail[:size], "<f4").tolist()
        tail = tail[size:]
    assert not tail
    return found
