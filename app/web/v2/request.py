"""A body of the Open Inference Protocol v2 → columns of values by field."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from app.errors import Detail, Invalid, TooLarge, Undecodable
from app.features.arrays import Column
from app.scoring.decoding import decode
from app.scoring.limits import Limits
from app.scoring.steps import Steps
from app.web.v2.tensors import Problems, binary_size, check_shape, column
from app.web.v2.wire import OUTPUTS, InferBody, OutputName, Requested, infer_decoder

HEADER = b"inference-header-content-length"
_ELSEWHERE = "shared_memory_region"


class Output(NamedTuple):
    """An output of the answer."""

    name: OutputName
    binary: bool


class InferRequest(NamedTuple):
    """A request whose values are read."""

    columns: Mapping[str, Column]
    rows: int
    outputs: Sequence[Output]
    id: str | None


def split(body: bytes, header: bytes | None) -> tuple[bytes, memoryview]:
    """Return the head of a body, and what is behind it.

    ``header`` is the value of ``Inference-Header-Content-Length``, if the request has it.

    Raises:
        Undecodable: it says what cannot be.
    """
    if header is None:
        return body, memoryview(b"")
    if not re.fullmatch(rb"[0-9]{1,18}", header) or int(header) > len(body):
        raise Undecodable(
            "Inference-Header-Content-Length must be the bytes of the JSON before the tensors"
        )
    length = int(header)
    return body[:length], memoryview(body)[length:]


def read(
    body: bytes, header: bytes | None, lists: Container[str], limits: Limits
) -> Steps[InferRequest]:
    """Read a body; ``lists`` are the fields that hold lists.

    Raises:
        ServiceError: it is refused.
    """
    head, tail = split(body, header)
    decoded = decode(infer_decoder, head)
    outputs = _outputs(decoded)
    rows = _check(decoded, lists, limits, len(body))
    yield None
    columns: dict[str, Column] = {}
    start = 0
    for tensor in decoded.inputs:
        size = binary_size(tensor)
        raw = None
        if size is not None:
            if size > len(tail) - start:
                raise Problems(tensor).undecodable(
                    f"it is said to have {size} bytes, and {len(tail) - start} are left"
                )
            raw = tail[start : start + size]
            start += size
        columns[tensor.name] = column(tensor, tensor.name in lists, head, raw, limits.max_row_bytes)
        yield None
    if start != len(tail):
        raise Undecodable(f"{len(tail) - start} bytes behind the last tensor belong to none")
    return InferRequest(columns, rows, outputs, decoded.id)


def _check(decoded: InferBody, lists: Container[str], limits: Limits, body_bytes: int) -> int:
    """Check what the head says of the inputs; return the rows, which all of them have."""
    if not decoded.inputs:
        raise Invalid("the body has the wrong form", [Detail("inputs", "expected one or more")])
    names = [tensor.name for tensor in decoded.inputs]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(
            "the request has invalid values", [Detail(f"inputs.{twice[:64]}", "given twice")]
        )
    rows = None
    for tensor in decoded.inputs:
        if _ELSEWHERE in tensor.parameters:
            raise Problems(tensor).invalid("shared memory is not supported")
        own = check_shape(tensor, tensor.name in lists, body_bytes)
        if own > limits.max_instances:
            raise TooLarge(f"more than {limits.max_instances} rows")
        if rows is not None and own != rows:
            raise Problems(tensor).invalid(f"{own} rows, expected {rows} as in the first input")
        rows = own
    return rows or 0


def _outputs(decoded: InferBody) -> Sequence[Output]:
    asked = decoded.outputs or [Requested(name) for name in OUTPUTS]
    usual = decoded.parameters.get("binary_data_output") is True
    found = []
    for each in asked:
        for name in (_ELSEWHERE, "classification"):
            if name in each.parameters:
                problem = f"{name} is not supported"
                path = f"outputs.{each.name}.parameters"
                raise Invalid("the request has invalid values", [Detail(path, problem)])
        found.append(Output(each.name, each.parameters.get("binary_data", usual) is True))
    return found
