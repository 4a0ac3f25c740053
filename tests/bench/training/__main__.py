"""The speed of the trainer beside the libraries that people use, and what follows from its ways.

criteo: rows per second of training beside FuxiCTR and DeepCTR-Torch on the same rows.
frappe: seconds to a validation AUC of 0.984 beside FuxiCTR.
vocabulary: time of a step with a table twice as large, the other half of it unused.
negatives: AUC and mean score after learning from a tenth of the rows without a click.
memory: memory and rate of each stage over files of many rows.
absences: AUC and log loss on rows that lack a field which no training row does.
networks: AUC and log loss on Frappe of networks that FuxiCTR's package has the parts of, beside it.
busy: rows per second beside one busy process a core, with the bound on spinning and without.

--gpu measures only rows per second on a GPU, beside the CPU of the same machine, and ends with 2
where torch cannot use CUDA. With --device cpu the CPU takes the GPU's place: a rehearsal of the
benchmark, and no figure of a GPU.

The peers run in environments of their own below data/peers, made the first time (3 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from model.training.device import cuda_problem
from tests.bench.training import (
    absences,
    busy,
    criteo,
    frappe,
    gpu,
    memory,
    negatives,
    networks,
    vocabulary,
)
from tests.bench.training.running import BFLOAT16, Failed

REFUSED = 2
"""Exit code where there is no CUDA."""
PARTS = ("criteo", "frappe", "vocabulary", "negatives", "memory", "absences", "networks", "busy")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-training", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="PART", help="all by default")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument("--repetitions", type=positive, default=3, help="turns, and seeds")
    parser.add_argument("--rows", type=positive, default=307_200, help="of an epoch of criteo")
    parser.add_argument("--memory-rows", type=positive, default=10_000_000, help="of memory")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=positive, default=cores, help="of every library")
    parser.add_argument("--no-bfloat16", action="store_true", help="leave those runs out")
    parser.add_argument("--gpu", action="store_true", help="only a GPU, beside the CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="of --gpu")
    parser.add_argument("--batches", type=positive, nargs="+", default=gpu.BATCHES, help="of --gpu")
    options = parser.parse_args(words)
    if options.gpu and options.parts:
        parser.error("--gpu is a part of its own")
    options.parts = options.parts or list(PARTS)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is no part; there are {', '.join(PARTS)}")
    return options


def positive(text: str) -> int:
    """Read a count."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def processor() -> dict[str, str]:
    """Return what the system says of the first core, nothing where it does not say it so."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = [line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line]
    return {name.strip(): value.strip() for name, value in lines}


def has_bfloat16() -> bool:
    """Return whether the processor has instructions for it; without, it is slower than float32."""
    found = processor()
    flags = found.get("flags", found.get("Features", "")).split()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def tell(line: str) -> None:
    """Say how far it is; standard output is for the figures."""
    print(f"bench-training: {line}", file=sys.stderr, flush=True)


def run(part: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any] | None:
    """Measure one part and print it; None where its data are not there.

    Raises:
        Failed: a library could not be measured.
    """
    turns, threads = options.repetitions, options.threads
    brief = has_bfloat16() and not options.no_bfloat16
    if part in ("frappe", "negatives", "networks") and not frappe.present():
        print(f"SKIPPED: {part}: no Frappe data at {frappe.HOME}", flush=True)
        return None
    match part:
        case "criteo":
            found = criteo.measure(scratch, options.rows, turns, threads, brief, tell)
            print(criteo.table(found), flush=True)
        case "frappe":
            found = frappe.measure(scratch, turns, threads, brief, tell)
            print(frappe.table(found), flush=True)
        case "vocabulary":
            found = vocabulary.measure(scratch, options.rows, turns, threads, tell)
            print(f"unused vocabulary doubled: {found['step_time_ratio']:.3f} × the time of a step")
        case "memory":
            found = memory.measure(scratch, options.memory_rows, threads, tell)
            print(memory.table(found), flush=True)
        case "absences":
            found = absences.measure(turns, threads, tell)
            print(absences.table(found), flush=True)
        case "networks":
            found = networks.measure(scratch, turns, threads, tell)
            print(networks.table(found), flush=True)
        case "busy":
            found = busy.measure(scratch, turns, threads, tell)
            print(busy.table(found), flush=True)
        case _:
            found = negatives.measure(turns, threads, tell)
            print(negatives.table(found), flush=True)
    return found


def headlines(parts: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures that are asked for, by name, of the parts that were measured."""
    found: dict[str, float | None] = {}
    for way, figures in parts.get("criteo", {}).items():
        end = "" if way == criteo.SAME else f"_{way.replace(' ', '_')}"
        for name, ratio in figures["over_best_peer"].items():
            kind = "_bfloat16" if name == BFLOAT16 else ""
            found[f"criteo_rows_per_second_over_best_peer{kind}{end}"] = ratio
    for name, ratio in parts.get("frappe", {}).get("over_fuxictr", {}).items():
        kind = "_bfloat16" if name == BFLOAT16 else ""
        found[f"frappe_seconds_over_fuxictr{kind}"] = ratio
    if "vocabulary" in parts:
        found["unused_vocabulary_doubled_step_time"] = parts["vocabulary"]["step_time_ratio"]
    if "negatives" in parts:
        tenth = parts["negatives"][negatives.LIGHT]
        found["negatives_tenth_auc_difference"] = tenth["auc_difference"]["mean"]
        found["negatives_tenth_furthest_mean_score"] = tenth["furthest_mean_score"]
    for shape, figures in parts.get("busy", {}).items():
        name = shape.replace(" ", "_")
        found[f"busy_{name}_alone_over_unbounded"] = figures["alone_over_unbounded"]
        found[f"busy_{name}_kept"] = figures["kept_beside_busy"][busy.BOUNDED]
    if "memory" in parts:
        found["memory_beyond_model_bytes"] = parts["memory"]["beyond_model_bytes"]
    return found


def machine(threads: int) -> dict[str, Any]:
    """Return where it was measured."""
    return {
        "processor": processor().get("model name", platform.machine()),
        "cores": os.cpu_count(), "threads": threads, "bfloat16": has_bfloat16(),
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip


def card() -> dict[str, Any]:
    """Return which GPU torch sees; nothing where it sees none."""
    if cuda_problem() is not None:
        return {}
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name, "gpu_bytes": found.total_memory, "torch_cuda": torch.version.cuda,
        "capability": f"{found.major}.{found.minor}",
    }  # fmt: skip


def on_gpu(options: argparse.Namespace) -> int:
    """Measure training on a GPU and write the figures; 2 where there is none."""
    rehearsal = options.device == "cpu"
    problem = None if rehearsal else cuda_problem()
    if problem is not None:
        tell(f"refused: CUDA cannot be used here: {problem}")
        return REFUSED
    whole: dict[str, Any] = {
        "rehearsal": rehearsal, "machine": machine(options.threads) | card(),
        "rows": options.rows, "problems": [],
    }  # fmt: skip
    turns = options.repetitions
    try:
        with tempfile.TemporaryDirectory(prefix="bench-training-") as scratch:
            whole["gpu"] = gpu.measure(
                Path(scratch), options.rows, turns, options.threads, options.device, tell,
                options.batches,
            )  # fmt: skip
        print(gpu.table(whole["gpu"]), flush=True)
    except Failed as failed:
        whole["problems"].append(str(failed))
        print(f"FAILED: {failed}", flush=True)
    if rehearsal:
        print("A rehearsal on the CPU: no figure of a GPU.", flush=True)
    if options.json:
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    within = "gpu" in whole and whole["gpu"]["parity"]["within"]
    return 0 if within else 1


def main(words: list[str] | None = None) -> int:
    """Measure the parts that are named; 1 if a library could not be measured."""
    options = arguments(words)
    if options.gpu:
        return on_gpu(options)
    parts: dict[str, Any] = {}
    problems: list[str] = []
    for part in options.parts:
        try:
            with tempfile.TemporaryDirectory(prefix="bench-training-") as scratch:
                found = run(part, options, Path(scratch))
        except Failed as failed:
            problems.append(f"{part}: {failed}")
            print(f"FAILED: {problems[-1]}", flush=True)
            continue
        if found is not None:
            parts[part] = found
    figures = headlines(parts)
    for name, value in figures.items():
        print(f"{name} = {'never' if value is None else format(value, '.3f')}")
    if options.json:
        whole = figures | {"problems": problems, "machine": machine(options.threads), **parts}
        options.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
