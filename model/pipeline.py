"""A training run, told from top to bottom: train, export, measure, describe, report."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from app.bundle.bundle import Bundle, Example
from app.bundle.directory import newest
from app.bundle.manifest import (
    EXAMPLES,
    EXPLAIN_GRAPH,
    FORMAT_VERSION,
    GRAPH,
    INT8_GRAPH,
    SPEC,
    SPLIT_GRAPHS,
    VOCABULARY,
    Explainable,
    ItemParts,
)
from app.bundle.writing import NewBundle, new_bundle
from app.explain.terms import TermsGraph
from app.features.graph_inputs import Scores
from app.features.spec import DataPart
from app.scoring.engine import Engine
from app.scoring.split_engine import SplitEngine, ThroughParts
from model.config import Quantized, TrainConfig
from model.data.prepare import Prepared
from model.data.slot_statistics import statistics
from model.data.split import PARTS
from model.export.explain import check_explain, write_explain
from model.export.golden import golden_examples
from model.export.graph import write_graph
from model.export.parity import check_parity, check_split
from model.export.quantize import (
    Loss,
    Verdict,
    measured_loss,
    with_int8_logits,
    write_int8,
)
from model.export.serving_form import splits_dynamic
from model.export.split import write_split
from model.fingerprint import fingerprint_of
from model.group import ALONE, Group
from model.must_beat import MustBeat
from model.networks.crosses import CrossWeights
from model.progress import say, warn
from model.quality.calibration import Calibration, CalibrationError, calibrated
from model.quality.figures import Quality, evaluate_scores, few_clicks
from model.quality.offline_scoring import open_engine, score_dataset
from model.quality.score_histogram import score_histogram
from model.report import write_report
from model.result_places import reason_of
from model.sharding.shard import Shard
from model.training.checkpoint import Checkpoints
from model.training.device import choose
from model.training.evaluation import predict
from model.training.fit import FitResult, batch_count, fit
from model.training.sampling import Sampling
from model.training.trainer import TrainingError
from model.training.warm_start import WarmStart

FEW_BATCHES = 10
"""Batches of an epoch below which a smaller batch size is advised."""
CHECKPOINTS = ".checkpoints"
"""Directory, below that of bundles, in which unfinished runs keep their checkpoints."""
FLAT_LOGITS = 1e-3
"""Spread of the test part's logits below which the network has learned nothing."""


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """Intervals of checkpoints, in seconds and in steps (0: never), and whether to resume."""

    seconds: float = 600.0
    steps: int = 0
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network and all that its export needs."""

    prepared: Prepared
    config: TrainConfig
    result: FitResult
    start: WarmStart | None
    crosses: tuple[CrossWeights, ...]
    checkpoints: Checkpoints | None
    processes: int


@dataclass(slots=True)
class Measured:
    """Measurements of an exported graph; :func:`describe` puts them into the manifest."""

    parity: dict[str, Any]
    validation: Scores
    """The float32 graph's scores of the validation part."""
    int8: Loss | None = None
    parts: ItemParts | None = None
    explainable: Explainable | None = None
    logits: dict[DataPart, NDArray[np.floating[Any]]] = field(default_factory=dict)
    """The logits [R] of the scores of each part, calibrated where the graph calibrates."""
    quality: dict[DataPart, Quality] = field(default_factory=dict)


def run(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    init_from: Path | None = None,
    quantize: Quantized = Quantized.none,
    checkpointing: CheckpointOptions | None = None,
) -> Path:
    """Train a network, export it below ``out`` and return the bundle's path.

    The same data, settings and thread count give the same bundle id.

    Raises:
        CtrError: as :func:`train` and :func:`export` do.
    """
    return export(train(prepared, config, out, progress, init_from, checkpointing), out, quantize)


def train(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    init_from: Path | None = None,
    checkpointing: CheckpointOptions | None = None,
    group: Group = ALONE,
    sharded: bool = False,
) -> Trained:
    """Train a network; all processes of a group do so together.

    ``init_from`` is a bundle of the same network, from whose weights training starts, or of an FM
    for an FNN. With ``checkpointing`` checkpoints are written below ``out``; training may resume
    from those of a killed run of the same data and settings. ``sharded`` cuts the table into a part
    for each process; what follows is then done under :func:`asking`.

    Raises:
        CrossError: the fields of a cross have too many values.
        TrainingError: the network cannot be trained on these data, or not from ``init_from``.
    """
    if not group.alike(prepared.fingerprint()):
        raise TrainingError("the processes have different data: give all of them the same files")
    if prepared.train_rows < FEW_BATCHES * config.batch_size:
        warn(
            f"{prepared.train_rows:,} rows are few for batches of {config.batch_size:,}; a smaller"
            " batch_size in the training settings may learn better"
        )
    device = choose(config.device, group)
    if device.worth_saying:
        say(f"trains on {device}")
    crosses = prepared.crosses(config)
    start = _warm_start(prepared, config, init_from)
    checkpoints = None
    if checkpointing is not None:
        checkpoints = _begin_checkpoints(
            prepared, config, out, checkpointing, start, group, sharded
        )
    result = fit(
        prepared.vocabulary.layout,
        prepared.data["train"],
        prepared.data["validation"],
        config,
        progress,
        start.begin if start else None,
        crosses,
        checkpoints=checkpoints,
        group=group,
        sharded=sharded,
    )
    if start and (obstacle := start.obstacle(result.network)):
        warn(f"the hidden layers started from random weights: {obstacle}")
    say(
        f"trained in {result.seconds:.1f} s, {result.rows_per_second:,.0f} rows/s;"
        f" best after epoch {result.best.epoch:.2f}"
    )
    return Trained(prepared, config, result, start, crosses, checkpoints, group.size)


def _warm_start(
    prepared: Prepared, config: TrainConfig, init_from: Path | None
) -> WarmStart | None:
    """Read the bundle that training starts from, if any."""
    if init_from is None:
        if config.network == "fnn":
            warn("this FNN starts from random weights; --init-from takes a trained FM's")
        return None
    before = Bundle.open(newest(init_from))
    start = WarmStart.read(before, prepared.vocabulary, prepared.data["train"], config)
    say(str(start))
    return start


def _begin_checkpoints(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    options: CheckpointOptions,
    start: WarmStart | None,
    group: Group,
    sharded: bool,
) -> Checkpoints:
    """Return the checkpoints of this run, by a fingerprint of all that decides its weights.

    Those of a sharded table are any number of processes', as long as they cut the same batches.
    """
    rows = Sampling.of(prepared.data["train"], config.negative_rate).rows
    batches = batch_count(rows, config.batch_size, group.size)
    # The format too, because the layout of the table belongs to it.
    run_id = fingerprint_of(
        *(FORMAT_VERSION, prepared.fingerprint(), config.deciding()),
        *(start and start.bundle.manifest.id, f"{batches} batches" if sharded else group.size),
    )
    directory = out / CHECKPOINTS / run_id[:16]
    shard = Shard(prepared.vocabulary.layout.table_rows, group) if sharded else None
    checkpoints = Checkpoints(directory, options.seconds, options.steps, options.resume, shard)
    # Only the first process removes those of an earlier run.
    if options.resume or group.rank == 0:
        checkpoints.begin()
    group.wait()
    if checkpoints.state is not None:
        say(f"resumed after step {checkpoints.state.step:,}")
    elif options.resume:
        say("no checkpoint of this run: training starts from the beginning")
    return checkpoints


def asking(trained: Trained) -> AbstractContextManager[None]:
    """Let the first process export a network, with what the others hold of a sharded table.

    All processes enter this; the others answer in it until the first one has left it.
    """
    elsewhere = trained.result.network.elsewhere
    return nullcontext() if elsewhere is None else elsewhere.asking()


def export(
    trained: Trained,
    out: Path,
    quantize: Quantized = Quantized.none,
    must_beat: MustBeat | None = None,
) -> Path:
    """Check a network, write its bundle below ``out`` and return the bundle's path.

    A report with plots is written beside it, as ``<bundle>.report``. ``quantize`` says whether the
    bundle also has an int8 graph.

    Raises:
        ExportError: the network cannot be exported, or its graph does not agree with it.
        BundleError: ``out`` cannot be written to, or is full.
        NotBetterError: it is not as good as ``must_beat`` asks for.
    """
    trained.result.network.eval()
    calibration = fit_calibration(trained)
    with new_bundle(out) as bundle:
        write_inputs(trained, bundle)
        engine = write_float32(trained, bundle, calibration)
        measured = measure(trained, engine, calibration)
        measured.parts = write_split_graphs(trained, bundle, engine)
        measured.explainable = write_explain_graph(trained, bundle, engine)
        int8_engine = None
        if quantize is not Quantized.none:
            int8_engine = write_int8_graph(trained, bundle, engine, measured, quantize)
        examples = write_golden(trained, bundle, calibration, int8_engine)
        description = describe(trained, measured, calibration, quantize)
        if must_beat is not None:
            must_beat.check(description, examples, trained.prepared.encoder, engine)
        path = bundle.finish(description)
    if trained.checkpoints is not None:
        trained.checkpoints.clear()
    report(trained, measured, path, quantize)
    return path


def fit_calibration(trained: Trained) -> Calibration | None:
    """Fit the calibration that the settings ask for on the validation part, if it can be fitted."""
    method = trained.config.calibration
    if method == "none":
        return None
    validation = trained.prepared.data["validation"]
    try:
        return Calibration.fit(method, validation, predict(trained.result.network, validation))
    except CalibrationError as error:
        warn(f"{method} calibration is left out: {error}")
        return None


def write_inputs(trained: Trained, bundle: NewBundle) -> None:
    """Write what turns values into indices: the spec and the vocabulary."""
    (bundle.directory / SPEC).write_text(trained.prepared.text, encoding="utf-8")
    (bundle.directory / VOCABULARY).mkdir()
    trained.prepared.vocabulary.save(bundle.directory / VOCABULARY)


def write_float32(trained: Trained, bundle: NewBundle, calibration: Calibration | None) -> Engine:
    """Write the float32 graph and load it into the engine that serves."""
    prepared, graph = trained.prepared, bundle.directory / GRAPH
    layout = prepared.vocabulary.layout
    write_graph(trained.result.network, layout, graph, calibration)
    return open_engine(graph, prepared.encoder, layout)


def measure(trained: Trained, engine: Engine, calibration: Calibration | None) -> Measured:
    """Compare the graph with the network, and measure its scores on every part.

    Raises:
        ExportError: graph and network do not agree.
    """
    data = trained.prepared.data
    worst, compared = check_parity(trained.result.network, engine, data["test"], calibration)
    say(
        f"parity: logits of the exported graph and of the network differ by at most {worst:.1e}"
        f" ({compared:,} rows)"
    )
    measured = Measured(
        {"worst_logit_difference": worst, "rows": compared, "tolerance": engine.tolerance},
        score_dataset(engine, data["validation"]),
    )
    for part in PARTS:
        scores = measured.validation
        if part != "validation":
            scores = score_dataset(engine, data[part])
        logit = measured.logits[part] = calibrated(calibration, scores.logit)
        measured.quality[part] = evaluate_scores(
            data[part].label, logit, data[part].kept, data[part].weight
        )
    if float(np.ptp(measured.logits["test"])) < FLAT_LOGITS:
        warn("all scores of the test part are alike: the network has learned nothing")
    return measured


def write_int8_graph(
    trained: Trained,
    bundle: NewBundle,
    engine: Engine,
    measured: Measured,
    quantize: Quantized,
) -> Engine | None:
    """Write the int8 graph and return its engine, or remove it again where it is not accepted."""
    prepared, graph = trained.prepared, bundle.directory / INT8_GRAPH
    validation = prepared.data["validation"]
    write_int8(bundle.directory / GRAPH, graph, engine, prepared.data["train"], trained.config.seed)
    int8 = open_engine(graph, prepared.encoder, prepared.vocabulary.layout, "int8")
    lost = measured_loss(validation.label, measured.validation, score_dataset(int8, validation))
    measured.int8 = lost
    (say if lost.verdict is Verdict.accepted else warn)(lost.told(quantize))
    if lost.kept(quantize):
        write_split_graphs(trained, bundle, int8)
        return int8
    graph.unlink()
    return None


def write_split_graphs(trained: Trained, bundle: NewBundle, engine: Engine) -> ItemParts | None:
    """Cut the graph of an engine into that of the item part and that of the rest.

    Returns None where dynamic fields leave nothing to gain by it.

    Raises:
        ExportError: the two do not give what the whole graph gives.
    """
    prepared, precision = trained.prepared, engine.precision
    graph = bundle.directory / (GRAPH if precision == "float32" else INT8_GRAPH)
    candidate, combine = (bundle.directory / name for name in SPLIT_GRAPHS[precision])
    layout = prepared.vocabulary.layout
    network = trained.config.network
    if layout.has_dynamic and not splits_dynamic(trained.result.network, layout):
        if precision == "float32":
            say(f"items are scored from their indices: an {network} gains nothing beside dynamic"
                " fields from what could be computed before")  # fmt: skip
        return None
    parts = write_split(graph, network, layout, candidate, combine)
    shapes = prepared.encoder.context.shape, prepared.encoder.candidate.shape
    split = SplitEngine(engine, (candidate, combine), parts, *shapes)
    check_split(engine, ThroughParts(split), prepared.data["test"])
    return parts


def write_explain_graph(trained: Trained, bundle: NewBundle, engine: Engine) -> Explainable:
    """Write the graph of the terms of the logit, of networks that have some.

    Raises:
        ExportError: the terms are not those of the network.
    """
    layout = trained.prepared.vocabulary.layout
    graph = bundle.directory / EXPLAIN_GRAPH
    found = write_explain(
        bundle.directory / GRAPH, trained.config.network, layout, trained.crosses, graph
    )
    if found.first_order:
        terms = TermsGraph(engine, graph, found, layout)
        check_explain(trained.result.network, engine, terms, trained.prepared.data["test"])
    return found


def write_golden(
    trained: Trained, bundle: NewBundle, calibration: Calibration | None, int8: Engine | None
) -> list[Example]:
    """Write the golden requests, with the int8 graph's logits where the bundle has one."""
    prepared, network = trained.prepared, trained.result.network
    examples = golden_examples(
        prepared.encoder, network, prepared.test_rows, trained.config.seed, calibration
    )
    if int8 is not None:
        examples = [with_int8_logits(example, int8) for example in examples]
    content = msgspec.json.Encoder().encode_lines(examples)
    (bundle.directory / EXAMPLES).write_bytes(content)
    return examples


def describe(
    trained: Trained,
    measured: Measured,
    calibration: Calibration | None,
    quantize: Quantized,
) -> dict[str, Any]:
    """Return the manifest's fields that do not follow from the bundle's files."""
    prepared, config, result = trained.prepared, trained.config, trained.result
    network, start, train_part = result.network, trained.start, prepared.data["train"]
    parts = PARTS if prepared.inputs.parts is not None else PARTS[:1]
    init_from = None
    if start is not None:
        init_from = start.described(network) | {"validation": asdict(result.history[0])}
    lost = measured.int8
    return {
        "network": config.network,
        "metrics": {part: quality.to_dict() for part, quality in measured.quality.items()},
        "training": {
            "config": config.to_dict(),
            "init_from": init_from,
            "split": prepared.inputs.describe(prepared.spec),
            "best": asdict(result.best),
            "seconds": result.seconds,
            "rows_per_second": result.rows_per_second,
            "stopped_early": result.stopped_early,
            "bias_added": result.bias_added,
            "parameters": network.parameter_count(),
            "crosses": [cross.described() for cross in trained.crosses],
            "calibration": calibration.described() if calibration else None,
            "negatives": Sampling.of(train_part, config.negative_rate).described(),
            "parity": measured.parity,
            "int8": [lost.described(quantize)] if lost else [],
            "torch": str(torch.__version__),
            "threads": config.thread_count(),
            "processes": trained.processes,
            "sharded": trained.result.network.elsewhere is not None,
            "device": result.device,
        },
        "data": [
            {"part": part, **asdict(source)} for part in parts for source in prepared.sources[part]
        ],
        "statistics": statistics(prepared.vocabulary, train_part),
        "scores": score_histogram(measured.validation.score),
        "parts": measured.parts,
        "explainable": measured.explainable,
    }


def report(trained: Trained, measured: Measured, bundle: Path, quantize: Quantized) -> None:
    """Write the report beside a bundle, and print each part's figures."""
    remark = measured.int8.told(quantize) if measured.int8 else ""
    try:
        write_report(
            bundle.with_name(f"{bundle.name}.report"),
            f"{trained.prepared.name}, {trained.config.network}",
            trained.config,
            trained.result,
            measured.quality,
            trained.prepared.data["test"],
            measured.logits["test"],
            remark,
            trained.prepared.warnings,
        )
    except OSError as error:
        reason = reason_of(error)
        warn(f"the report beside {bundle.name} is not written; the bundle is whole: {reason}")
    for part, quality in measured.quality.items():
        say(f"{part}: {quality.line()}")
    if warning := few_clicks((part, each.counts) for part, each in measured.quality.items()):
        warn(warning)
