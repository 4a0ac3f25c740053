"""A training run from files to a bundle, top to bottom."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from app.bundle.bundle import Bundle
from app.bundle.directory import newest
from app.bundle.manifest import EXAMPLES, GRAPH, INT8_GRAPH, SPEC, VOCABULARY
from app.bundle.writing import write_bundle
from model.config import TrainConfig
from model.data.encode import statistics
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.data.split import PARTS
from model.export.golden import golden_examples
from model.export.graph import remove_graph, write_graph
from model.export.parity import check_parity
from model.export.quantize import (
    Loss,
    Quantized,
    measured_loss,
    with_int8_logits,
    write_int8,
)
from model.fingerprint import fingerprint_of
from model.group import ALONE, Group
from model.networks.crosses import CrossWeights
from model.progress import say
from model.quality.calibration import Calibration, CalibrationError, calibrated
from model.quality.figures import Quality, evaluate_scores
from model.quality.offline_scoring import open_engine, score_dataset
from model.report import write_report
from model.training.checkpoint import Checkpoints
from model.training.fit import FitResult, fit, predict
from model.training.sampling import Sampling
from model.training.trainer import TrainingError
from model.training.warm_start import WarmStart

FEW_BATCHES = 10
"""Steps of an epoch below which training is hardly under way."""
CHECKPOINTS = ".checkpoints"
"""Where, below the directory of bundles, runs that are under way keep their state."""
FLAT_LOGITS = 1e-3
"""Spread of the test part's logits below which they say nothing."""


@dataclass(frozen=True, slots=True)
class Often:
    """How often a run writes its state, and whether it goes on from what is there."""

    seconds: float = 600.0
    steps: int = 0
    resume: bool = False


def train(
    spec_path: Path,
    inputs: InputFiles,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    quantize: Quantized = Quantized.none,
) -> Path:
    """Read files, train on them and write a bundle: ``prepare`` and then ``run``."""
    return run(
        prepare(spec_path, inputs, progress=progress), config, out, progress, quantize=quantize
    )


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a run has learnt, before it is exported."""

    result: FitResult
    start: WarmStart | None
    crosses: tuple[CrossWeights, ...]
    checkpoints: Checkpoints | None
    processes: int


def run(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    init_from: Path | None = None,
    quantize: Quantized = Quantized.none,
    often: Often | None = None,
) -> Path:
    """Train, check and write a bundle below ``out``; return its path: ``learn``, then ``export``.

    The same data, settings and thread count give the same bundle id.
    """
    return export(
        prepared, config, learn(prepared, config, out, progress, init_from, often), out, quantize
    )


def learn(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    init_from: Path | None = None,
    often: Often | None = None,
    group: Group = ALONE,
) -> Learnt:
    """Train a network; all processes of a group do so together.

    ``init_from`` is a bundle of the same network from which training starts, or of an FM for an
    FNN. ``often`` has the state written below ``out`` while it trains, and may go on from what a
    killed run of the same data and settings has left there.

    Raises:
        CrossError: the fields of a cross have too many values.
        TrainingError: training cannot begin, not from ``init_from``, or not go on.
    """
    vocabulary, data = prepared.vocabulary, prepared.data
    if not group.alike(prepared.fingerprint()):
        raise TrainingError("the processes have other data each: give all the same files")
    if prepared.train_rows < FEW_BATCHES * config.batch_size:
        say(
            f"warning: {prepared.train_rows:,} rows are few for batches of"
            f" {config.batch_size:,}; a smaller batch_size in the training settings may learn"
            " better"
        )
    crosses = prepared.crosses(config)
    start = None
    if init_from is not None:
        before = Bundle.open(newest(init_from))
        start = WarmStart.read(before, vocabulary, data["train"], config)
        say(str(start))
    elif config.network == "fnn":
        say("warning: this FNN starts from random weights; --init-from takes a trained FM's")

    checkpoints = None
    if often is not None:
        run_id = fingerprint_of(
            prepared.fingerprint(), config.to_dict(), start and start.bundle.manifest.id, group.size
        )
        directory = out / CHECKPOINTS / run_id[:16]
        checkpoints = Checkpoints(directory, often.seconds, often.steps, often.resume)
        # Only the first removes what an earlier run has left.
        if often.resume or group.rank == 0:
            checkpoints.begin()
        group.wait()
        if checkpoints.state is not None:
            say(f"goes on after step {checkpoints.state.step:,}")
        elif often.resume:
            say("there is no checkpoint of this run to go on from: it begins at the beginning")
    result = fit(
        vocabulary.layout, data["train"], data["validation"], config, progress,
        start.begin if start else None, crosses, checkpoints=checkpoints, group=group,
    )  # fmt: skip
    if start and (obstacle := start.obstacle(result.network)):
        say(f"warning: the hidden layers began anew: {obstacle}")
    say(
        f"trained in {result.seconds:.1f} s, {result.rows_per_second:,.0f} rows/s;"
        f" best after epoch {result.best.epoch:.2f}"
    )
    return Learnt(result, start, crosses, checkpoints, group.size)


def export(
    prepared: Prepared,
    config: TrainConfig,
    learnt: Learnt,
    out: Path,
    quantize: Quantized = Quantized.none,
) -> Path:
    """Check a network and write its bundle below ``out``; return the bundle's path.

    A report with plots stands beside it, as ``<bundle>.report``. ``quantize`` says
    whether the bundle also has an int8 graph.

    Raises:
        ExportError: the network cannot be exported, or its graph does not agree with it.
    """
    vocabulary, encoder, data = prepared.vocabulary, prepared.encoder, prepared.data
    result, start = learnt.result, learnt.start
    network = result.network.eval()
    calibration = None
    if config.calibration != "none":
        validation = data["validation"]
        try:
            calibration = Calibration.fit(
                config.calibration, validation, predict(network, validation)
            )
        except CalibrationError as error:
            say(f"warning: {config.calibration} calibration is left out: {error}")

    metrics: dict[str, Quality] = {}
    parity: dict[str, Any] = {}
    logits: dict[str, NDArray[np.floating[Any]]] = {}
    losses: list[Loss] = []

    def fill(directory: Path) -> None:
        (directory / SPEC).write_text(prepared.text, encoding="utf-8")
        (directory / VOCABULARY).mkdir()
        vocabulary.save(directory / VOCABULARY)
        write_graph(network, vocabulary.layout, directory / GRAPH, calibration)
        engine = open_engine(directory / GRAPH, encoder, vocabulary.layout)
        worst, compared = check_parity(network, engine, data["test"], calibration)
        parity.update(worst_logit_difference=worst, rows=compared, tolerance=engine.tolerance)
        say(f"graph agrees with the network within {worst:.1e} over {compared:,} rows")
        examples = golden_examples(encoder, network, prepared.test_rows, config.seed, calibration)
        scores = {part: score_dataset(engine, data[part]) for part in PARTS}
        for part in PARTS:
            logits[part] = calibrated(calibration, scores[part].logit)
            metrics[part] = evaluate_scores(data[part].label, logits[part], data[part].kept)
        if quantize is not Quantized.none:
            path = directory / INT8_GRAPH
            write_int8(directory / GRAPH, path, engine, data["train"], config.seed)
            quick = open_engine(path, encoder, vocabulary.layout, "int8")
            label, validation = data["validation"].label, data["validation"]
            lost = measured_loss(label, scores["validation"], score_dataset(quick, validation))
            losses.append(lost)
            say(lost.told(quantize))
            if lost.kept(quantize):
                examples = [with_int8_logits(each, quick) for each in examples]
            else:
                remove_graph(path)
        (directory / EXAMPLES).write_bytes(msgspec.json.Encoder().encode_lines(examples))
        if float(np.ptp(logits["test"])) < FLAT_LOGITS:
            say("warning: the scores of the test part are all alike: nothing was learnt")

    def describe() -> dict[str, Any]:
        return {
            "network": config.network,
            "metrics": {part: figures.to_dict() for part, figures in metrics.items()},
            "training": {
                "config": config.to_dict(),
                "init_from": start
                and start.described(network) | {"validation": asdict(result.history[0])},
                "split": prepared.inputs.describe(prepared.spec),
                "best": asdict(result.best),
                "seconds": result.seconds,
                "rows_per_second": result.rows_per_second,
                "stopped_early": result.stopped_early,
                "parameters": network.parameter_count(),
                "crosses": [cross.described() for cross in learnt.crosses],
                "calibration": calibration.described() if calibration else None,
                "negatives": Sampling.of(data["train"], config.negative_rate).described(),
                "parity": parity,
                "int8": [lost.described(quantize) for lost in losses],
                "torch": str(torch.__version__),
                "threads": config.thread_count(),
                "processes": learnt.processes,
            },
            "data": [
                {"part": part, **asdict(source)}
                for part in (PARTS if prepared.inputs.parts is not None else PARTS[:1])
                for source in prepared.sources[part]
            ],
            "statistics": statistics(vocabulary.layout, data["train"]),
        }

    bundle = write_bundle(out, fill, describe)
    if learnt.checkpoints is not None:
        learnt.checkpoints.clear()
    try:
        write_report(
            bundle.with_name(f"{bundle.name}.report"),
            f"{prepared.name}, {config.network}",
            config,
            result,
            metrics,
            data["test"],
            logits["test"],
            "".join(lost.told(quantize) for lost in losses),
        )
    except OSError as error:
        say(f"warning: the report beside {bundle.name}, which is whole, is not: {error}")
    for part, figures in metrics.items():
        say(f"{part}: {figures.line()}")
    return bundle
