"""Everything that a machine with a GPU is wanted for, in one command of at most ten minutes.

engine: parity with the CPU, capture of CUDA graphs, latency, bounds, a device without memory.
training: rows per second beside the CPU, and the losses of both (scripts/bench-training --gpu).
serving: requests per second beside the CPU and Triton (scripts/bench --gpu).
tests: those of the repository that are skipped where there is no CUDA.

Each part is a process of its own and is ended when the time is up; the others keep their figures,
and the file of figures is written after each. A part whose library, onnxruntime or torch, cannot
use CUDA is left out; where neither can, the command refuses and ends with 2. It ends with 1 where
something failed or was left out. With --device cpu the CPU takes the GPU's place in every part: a
rehearsal of the command, which its figures say of themselves, and no figure of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any
from xml.etree import ElementTree

from tests.support.environments import ROOT, last_line

REFUSED = 2
"""Exit code where there is no CUDA."""
SECONDS = 570
"""Time of all parts together."""
LEAST_SECONDS = 15
"""Time that is left below which no part begins."""
STOP_SECONDS = 10
TESTED_QUICKLY = ("tests/app/scoring/test_engine.py",)
TESTED = ("tests/model/training/test_device.py", "tests/app/scoring/test_*engine*.py",
          "tests/app/scoring/test_*device*.py")  # fmt: skip
"""Files with tests that need CUDA."""
PROBLEMS = {
    "onnxruntime": "from app.scoring.engine import cuda_problem; print(cuda_problem() or '')",
    "torch": "from model.training.device import cuda_problem; print(cuda_problem() or '')",
}
"""Programs that print why a library cannot use CUDA, in processes that leave the GPU alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part: its command line without the interpreter, and the library that needs CUDA for it."""

    name: str
    words: Sequence[str]
    library: str


def parts(options: argparse.Namespace, scratch: Path) -> list[Part]:
    """Return all parts, the most wanted first; each writes ``<name>.json`` or XML to scratch."""
    quick, device = options.quick, options.device
    files = TESTED_QUICKLY if quick else TESTED
    bundle = [] if options.bundle is None else ["--bundle", str(options.bundle)]
    few = ["--rows", "8192", "--repetitions", "1", "--batches", "2048"]
    many = ["--rows", "1048576", "--repetitions", "2"]
    short = ["--seconds", "1", "--connections", "1", "8", "--no-peers"]
    tested = [str(path.relative_to(ROOT)) for each in files for path in sorted(ROOT.glob(each))]
    found = [
        Part(
            "engine",
            ["-m", "tests.bench.gpu.engine", "--device", device, *bundle,
             *(["--repeats", "5"] if quick else [])],
            "onnxruntime",
        ),
        Part(
            "training",
            ["-m", "tests.bench.training", "--gpu", "--device", device, *(few if quick else many)],
            "torch",
        ),
        Part(
            "serving",
            ["-m", "tests.bench.serving", "--gpu", "--provider", device, *bundle,
             *(short if quick else ["--seconds", "3"])],
            "onnxruntime",
        ),
    ]  # fmt: skip
    found = [
        Part(each.name, [*each.words, "--json", str(scratch / f"{each.name}.json")], each.library)
        for each in found
    ]
    words = ["-m", "pytest", "-q", "-n", "0", "--junit-xml", str(scratch / "tests.xml"), *tested]
    return [*found, Part("tests", words, "torch")]


def run(part: Part, scratch: Path, seconds: float) -> tuple[dict[str, Any], str]:
    """Run a part for so long at most; return its figures, if any, and what went wrong."""
    problem = ""
    log = scratch / f"{part.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *part.words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        with ended(process):
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                problem = f"not ended after {seconds:.0f} s"
            else:
                if code:
                    said = figures(scratch, part.name).get("problems")
                    reason = "; ".join(said or [last_line(log.read_text(errors="replace"))])
                    problem = f"ended with {code}: {reason}"
    return figures(scratch, part.name), problem


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process and what it began, whatever happens."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def figures(scratch: Path, name: str) -> dict[str, Any]:
    """Return what a part has written: its figures, or the counts of tests."""
    written = scratch / f"{name}.json"
    with suppress(OSError, ValueError):
        return dict(json.loads(written.read_text()))
    with suppress(OSError, ElementTree.ParseError):
        root = ElementTree.parse(scratch / f"{name}.xml").getroot()
        suite = next(root.iter("testsuite")).attrib
        counts = {key: int(suite[key]) for key in ("tests", "failures", "errors", "skipped")}
        failed = [
            f"{case.get('classname')}::{case.get('name')}"
            for case in root.iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
        return {**counts, "failed": failed}
    return {}


def problem_of(library: str) -> str:
    """Return why a library cannot use CUDA, in one line; empty if it can."""
    done = subprocess.run(
        [sys.executable, "-c", PROBLEMS[library]], cwd=ROOT, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    if done.returncode:
        return f"{library} cannot be loaded: {last_line(done.stderr)}"
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Return where it is measured."""
    versions = {}
    for name in ("torch", "onnxruntime", "onnxruntime-gpu", "numpy"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "processor": processor(), "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(), "versions": versions, "gpus": gpus(),
    }  # fmt: skip


def processor() -> str:
    """Return the processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def gpus() -> list[dict[str, str]]:
    """Return name, driver and memory of each GPU, by nvidia-smi; empty without it."""
    asked = ("name", "driver_version", "memory.total", "memory.used", "clocks.sm", "power.limit")
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[each.strip() for each in line.split(",")] for line in done.stdout.splitlines()]
    return [dict(zip(asked, row, strict=False)) for row in rows]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/gpu-check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the figures here, after each part")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together")
    parser.add_argument("--only", nargs="+", metavar="PART", help="some of the parts")
    parser.add_argument("--bundle", type=Path, help="another bundle, without peers beside it")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command")
    options = parser.parse_args(words)
    known = [part.name for part in parts(options, Path())]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"{min(unknown)!r} is no part; there are {', '.join(known)}")
    return options


def tell(line: str) -> None:
    """Say how far it is; standard output is for the figures."""
    print(f"gpu-check: {line}", file=sys.stderr, flush=True)


def check(options: argparse.Namespace, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Run all parts whose library is not among those left out; return all figures.

    ``left_out`` names libraries that cannot use CUDA, with the reason.
    """
    begun = monotonic()
    whole: dict[str, Any] = {
        "rehearsal": options.device == "cpu", "quick": options.quick, "machine": machine(),
        "parts": {}, "left_out": {}, "problems": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        for part in parts(options, Path(name)):
            if options.only and part.name not in options.only:
                continue
            left = options.seconds - (monotonic() - begun)
            reason = left_out.get(part.library, "")
            if not reason and left < LEAST_SECONDS:
                reason = f"{max(0.0, left):.0f} s are left"
            if reason:
                whole["left_out"][part.name] = reason
                tell(f"{part.name}: left out: {reason}")
                continue
            started = monotonic()
            found, problem = run(part, Path(name), left)
            whole["parts"][part.name] = found | {"part_seconds": monotonic() - started}
            if problem:
                whole["problems"].append(f"{part.name}: {problem}")
            tell(f"{part.name}: {problem or 'done'} after {monotonic() - started:.0f} s")
            whole["seconds"] = monotonic() - begun
            if options.json:
                options.json.write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def main(words: Sequence[str] | None = None) -> int:
    """Run everything and print the figures; see the beginning for what it ends with."""
    options = arguments(words)
    # A command that is told to end ends its parts first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    left_out: dict[str, str] = {}
    if options.device == "cuda":
        found = {library: problem_of(library) for library in PROBLEMS}
        left_out = {library: problem for library, problem in found.items() if problem}
        if len(left_out) == len(PROBLEMS):
            told = "; ".join(f"{library}: {problem}" for library, problem in left_out.items())
            tell(f"refused: CUDA cannot be used here: {told}")
            return REFUSED
    whole = check(options, left_out)
    text = json.dumps(whole, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    if whole["rehearsal"]:
        tell("a rehearsal on the CPU: no figure of a GPU")
    return 1 if whole["problems"] or whole["left_out"] else 0


if __name__ == "__main__":
    sys.exit(main())
