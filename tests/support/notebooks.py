"""Notebooks, run by a kernel with the product's environment, and what their outputs say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.support.environments import seeing_the_product

SECONDS = 240
RUN = """\
import sys
import nbformat
from nbclient import NotebookClient

path, out = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
nbformat.validate(notebook)
NotebookClient(
    notebook, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False
).execute()
notebook.metadata.language_info = {"name": "python"}  # not the version that happened to run
nbformat.write(notebook, out)
"""
_NUMBER = re.compile(r"-?\d[\d,.]*(?:e[+-]?\d+)?")
_WIDTH = re.compile(r"[\s─═┄]+")
"""What a table has more of where its numbers are longer."""


def executed(python: Path, notebook: Path, out: Path, home: Path) -> None:
    """Run every cell of a notebook in its folder, and write it with its outputs to ``out``.

    Args:
        python: an interpreter that has nbclient and ipykernel.
        home: a folder for what the kernel itself writes.

    Raises:
        AssertionError: a cell failed; the message has it.
    """
    places = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    done = subprocess.run(
        [python, "-c", RUN, notebook, out],
        cwd=notebook.parent, capture_output=True, text=True, timeout=SECONDS,
        env={**seeing_the_product(), **dict.fromkeys(places, str(home))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def outputs(notebook: Path) -> list[list[dict[str, Any]]]:
    """Return the outputs of each cell with code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]


def shapes(notebook: Path) -> list[list[tuple[str, str]]]:
    """Return kind and text of each output, with all numbers alike."""
    return [[_shape(output) for output in cell] for cell in outputs(notebook)]


def _shape(output: dict[str, Any]) -> tuple[str, str]:
    if output["output_type"] == "stream":
        return output["name"], _alike(output["text"])
    kinds = " ".join(sorted(output["data"]))
    return kinds, _alike(output["data"]["text/plain"])


def _alike(text: str | list[str]) -> str:
    return _WIDTH.sub(" ", _NUMBER.sub("N", "".join(text)))
