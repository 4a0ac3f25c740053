"""A module with weights as an ONNX model; torch's exporter sees each structure once in a process.

The exporter takes seconds of CPU time and looks at no weight: what it builds depends on the
modules, their settings and the shapes of their tensors. So it is given a copy of the module whose
weights are blank, and what comes of it is kept as a template. The weights are put in by their
names, as are those of later modules of the same structure: another seed, another day, a trial.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import pickle
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import Tensor, nn

from app.errors import CtrError
from app.features.graph_inputs import CONTEXTS, ROWS, GraphInput, Scores

KEPT = 16
"""Templates that a process keeps; without weights they take some kilobytes each."""
TABLE = "network.table"
"""The one tensor whose first axis, the number of rows, is no part of the structure."""
_BLANK_ROWS = 2
_QUIET_NAN = 0x7FC00000

_templates: dict[str, onnx.ModelProto | None] = {}


class ExportError(CtrError):
    """A network cannot be exported, or its graph does not agree with it."""


def onnx_model(module: nn.Module, inputs: Sequence[GraphInput]) -> onnx.ModelProto:
    """Return a module in evaluation mode as an ONNX model, all named axes symbolic.

    ``module`` takes the first three inputs and the list of the others, and has ``TABLE`` among its
    tensors. Weights, which are its float32 tensors, are initializers under their names in it.

    Raises:
        ExportError: torch's exporter gives no model.
    """
    tensors = _tensors(module)
    key = _structure(module, tensors[TABLE], inputs)
    if key not in _templates:
        template = exported(_blank(module, tensors), inputs)
        while len(_templates) >= KEPT:
            del _templates[next(iter(_templates))]
        _templates[key] = None if _computed(template, tensors) else _emptied(template, tensors)
    kept = _templates[key]
    return exported(module, inputs) if kept is None else _filled(kept, tensors)


def exported(module: nn.Module, inputs: Sequence[GraphInput]) -> onnx.ModelProto:
    """Return what torch's exporter makes of a module as it is, without notes on this machine.

    Raises:
        ExportError: it makes nothing.
    """
    example = [
        torch.ones([_size(axis) for axis in each.axes], dtype=getattr(torch, each.dtype))
        for each in inputs
    ]
    shapes = [
        {place: axis for place, axis in enumerate(each.axes) if isinstance(axis, str)}
        for each in inputs
    ]
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        # The exporter warns of its own internals; parity.py checks its graph on real rows.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            (*example[:3], example[3:]),
            dynamo=True,
            input_names=[each.name for each in inputs],
            output_names=Scores._fields,
            dynamic_shapes=(*shapes[:3], shapes[3:]),
            external_data=False,
            verbose=False,
        )
        logging.getLogger("torch.onnx").setLevel(level)
    if program is None:
        raise ExportError("torch's exporter gave no graph")
    model = program.model_proto
    _strip(model)
    return model


def _size(axis: str | int) -> int:
    """Return the size of an axis in the example that a graph is exported with."""
    return {CONTEXTS: 2, ROWS: 3}.get(axis, 2) if isinstance(axis, str) else axis


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; one that has two names under each of them."""
    return {
        name: value.detach()
        for name, value in chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
    }


class _Structure(pickle.Pickler):
    """Writes a module with the shapes of its weights in their place."""

    def __init__(self, file: io.BytesIO, table: Tensor) -> None:
        super().__init__(file)
        self._table = table.data_ptr()
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, set):
            # Names, in another order in each process.
            return sorted(obj)
        if not isinstance(obj, Tensor):
            return None
        number = self._numbers.setdefault(id(obj), len(self._numbers))
        shape = tuple(obj.shape)
        if obj.dtype != torch.float32:
            # Such as places of pairs: the exporter may compute with them.
            return number, shape, str(obj.dtype), obj.detach().numpy().tobytes()
        return number, shape[1:] if obj.data_ptr() == self._table else shape


def _structure(module: nn.Module, table: Tensor, inputs: Sequence[GraphInput]) -> str:
    """Return a key of all that decides what the exporter makes of a module."""
    file = io.BytesIO()
    _Structure(file, table).dump((module, tuple(inputs)))
    return hashlib.sha256(file.getbuffer()).hexdigest()


def _blank(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy whose weights are NaN, other bits for each: none is taken for another."""
    blank: dict[int, Any] = {}
    owned = chain(module.named_parameters(), module.named_buffers())
    for number, (name, value) in enumerate(owned):
        if value.dtype == torch.float32:
            shape = (_BLANK_ROWS, *value.shape[1:]) if name == TABLE else value.shape
            bits = torch.full(shape, _QUIET_NAN + number, dtype=torch.int32)
            nan = bits.view(torch.float32)
            blank[id(value)] = nn.Parameter(nan) if isinstance(value, nn.Parameter) else nan
    return copy.deepcopy(module, blank)


def _computed(template: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether the exporter computed with weights: NaN stands where none has its name."""
    return any(
        np.isnan(onnx.numpy_helper.to_array(value)).any()
        for value in template.graph.initializer
        if value.name not in tensors and value.data_type == onnx.TensorProto.FLOAT
    )


def _emptied(template: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Take the content of all tensors out that have a name in the module."""
    for value in template.graph.initializer:
        if value.name in tensors:
            value.ClearField("raw_data")
    return template


def _filled(template: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return a model with the module's tensors in the places of their names."""
    model = onnx.ModelProto()
    model.CopyFrom(template)
    for value in model.graph.initializer:
        if (tensor := tensors.get(value.name)) is not None:
            value.dims[:] = tensor.shape
            value.raw_data = tensor.contiguous().numpy().tobytes()
    for noted in model.graph.value_info:
        if noted.name == TABLE:
            noted.type.tensor_type.shape.dim[0].dim_value = len(tensors[TABLE])
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on the Python source: paths and stack traces."""
    model.producer_version = ""
    del model.metadata_props[:]
    graphs: list[Any] = [model.graph, *model.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    values = (
        model.graph.value_info,
        model.graph.input,
        model.graph.output,
        model.graph.initializer,
    )
    for value in chain.from_iterable(values):
        value.doc_string = ""
        del value.metadata_props[:]
