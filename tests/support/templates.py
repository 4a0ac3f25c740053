"""Templates of exported graphs, kept between processes and runs of tests.

A process of the trainer asks torch's exporter once for each structure; here all processes of tests
do so together. Each test still exports its own weights, through the product's own way.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto


class KeptTemplates(dict[str, "ModelProto | None"]):
    """The exporter's templates by their keys, those of other processes among them.

    ``directory`` is named after all that decides them beside their keys.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory

    def __contains__(self, key: object) -> bool:
        path = self._directory / f"{key}.onnx"
        if not super().__contains__(key) and path.exists():
            from onnx import ModelProto

            content = path.read_bytes()
            template = ModelProto.FromString(content) if content else None
            super().__setitem__(str(key), template)
        return super().__contains__(key)

    def __setitem__(self, key: str, template: ModelProto | None) -> None:
        super().__setitem__(key, template)
        self._directory.mkdir(parents=True, exist_ok=True)
        file, path = tempfile.mkstemp(dir=self._directory)
        with os.fdopen(file, "wb") as out:
            out.write(b"" if template is None else template.SerializeToString())
        Path(path).rename(self._directory / f"{key}.onnx")


def keep_templates(directory: Path) -> None:
    """Let this process take templates from a directory, and leave there those that it makes."""
    from model.export import exporter

    exporter._templates = KeptTemplates(directory)
    read_operators_once()


def read_operators_once() -> None:
    """Let torch's exporter list its operators once in this process.

    For each graph it lists those that ONNX has, and more than once those that are made of others,
    in a sixth of its time; it only reads the lists.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    if not hasattr(ONNXRegistry.from_torchlib, "cache_info"):
        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
        utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
