"""Bundles that tests make, kept between runs while what decides them is the same."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

if TYPE_CHECKING:
    from model.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".pytest_cache" / "d" / "trained"
"""Emptied by ``pytest --cache-clear``."""
UNUSED_SECONDS = 7 * 86_400.0
"""Age of its last use from which a kept bundle is removed."""
TRAINER = ("model.pipeline", "model.data.prepare")
"""Modules that train and export; with what they import, all of ours that decides a bundle."""
IMPORT = re.compile(
    r"^ *(?:from ((?:app|model)(?:\.\w+)*) import (\([^)]*\)|.*)|import ((?:app|model)(?:\.\w+)*))",
    re.MULTILINE,
)
PACKAGES = ("numpy", "onnx", "onnxruntime", "polars", "torch")
KERNELS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""Environment variables that choose the processor's instructions, and so the last bits."""


def trained(
    spec: Path, data: Path, config: TrainConfig, out: Path, int8: bool = False, after: str = ""
) -> Path:
    """Return a bundle below ``out``, trained on ``data`` by ``config``; the caller's own copy.

    This is for tests of what is done with a bundle. Tests of training train.

    Args:
        after: the name of a bundle that this one must be younger than.
    """
    kept(
        lambda directory: _train(spec, data, config, directory, int8),
        out,
        *(spec.read_bytes(), data.read_bytes(), repr(config), str(int8), after),
    )
    return next(path for path in out.iterdir() if path.suffix != ".report")


def kept(make: Callable[[Path], None], out: Path, *decisive: bytes | str) -> None:
    """Let ``out`` hold what ``make`` writes into a directory that is not there yet.

    It is made once on this machine. The result is kept under a key of what is ``decisive``, the
    code of the trainer, the versions of packages and the processor.
    """
    words = [*decisive, *_surroundings(TRAINER)]
    key = _digest(word.encode() if isinstance(word, str) else word for word in words)
    home = KEPT / key
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(KEPT / f"{key}.lock"):
        if not home.is_dir():
            unfinished = KEPT / f"{key}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(home)
            _remove_unused()
        os.utime(home)
        shutil.copytree(home, out, dirs_exist_ok=True)


def _train(spec: Path, data: Path, config: TrainConfig, out: Path, int8: bool) -> None:
    import torch

    from model.config import Quantized
    from model.data.input_files import InputFiles
    from model.data.prepare import prepare
    from model.pipeline import run

    # No bundle of a test depends on what its few validation rows say of the int8 graph.
    quantize = Quantized.int8_unmeasured if int8 else Quantized.none
    threads = torch.get_num_threads()
    try:
        prepared = prepare(spec, InputFiles([data]), progress=False)
        run(prepared, config, out, progress=False, quantize=quantize)
    finally:
        torch.set_num_threads(threads)


def _remove_unused() -> None:
    for path in KEPT.iterdir():
        if path.is_dir() and path.stat().st_mtime < time.time() - UNUSED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


@cache
def _surroundings(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Everything beside its own input that decides what a training or an export gives."""
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    kernels = [f"{name}={os.environ.get(name)}" for name in KERNELS]
    return (_code(modules), sys.version, *versions, *kernels, *_processor())


def files_of(modules: tuple[str, ...]) -> list[Path]:
    """Return the files of modules and of all that they import of ours, in their order."""
    found: set[Path] = set()
    names = list(modules)
    while names:
        parts = names.pop().split(".")
        for end in range(1, len(parts) + 1):
            place = ROOT.joinpath(*parts[:end])
            for path in (place / "__init__.py", place.with_suffix(".py")):
                if path not in found and path.is_file():
                    found.add(path)
                    names += _imported(path.read_text(encoding="utf-8"))
    return sorted(found)


def _imported(code: str) -> Iterator[str]:
    """Yield the names of ours that a module imports anywhere; some may be no modules."""
    for package, members, module in IMPORT.findall(code):
        yield package or module
        for member in re.findall(r"\w+", members):
            yield f"{package}.{member}"


def _code(modules: tuple[str, ...]) -> str:
    """A hash of modules and of all that they import; of the trainer, what only the service runs is
    no part."""
    return _digest(
        part for path in files_of(modules) for part in (str(path).encode(), path.read_bytes())
    )


def _processor() -> list[str]:
    """The processor's name and instructions."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return sorted({platform.machine(), platform.processor(), *told})


def _digest(parts: Iterable[bytes]) -> str:
    """A hash of parts that keeps their borders."""
    found = hashlib.sha256()
    for part in parts:
        found.update(b"%d:" % len(part))
        found.update(part)
    return found.hexdigest()[:32]
