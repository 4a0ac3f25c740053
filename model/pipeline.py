"""A training run, told from top to bottom: train, export, measure, describe, report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from app.bundle.bundle import Example
from app.bundle.manifest import (
    EXAMPLES,
    EXPLAIN_GRAPH,
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
from model.must_beat import MustBeat
from model.progress import say, warn
from model.quality.calibration import Calibration, CalibrationError, calibrated
from model.quality.figures import Quality, evaluate_scores, few_clicks
from model.quality.offline_scoring import open_engine, score_dataset
from model.quality.score_histogram import score_histogram
from model.report import write_report
from model.result_places import reason_of
from model.train_network import CheckpointOptions, Trained, train
from model.training.evaluation import predict
from model.training.sampling import Sampling

FLAT_LOGITS = 1e-3
"""Spread of the test part's logits below which the network has learned nothing."""


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
            say(
                f"items are scored from their indices: an {network} gains nothing beside dynamic"
                " fields from what could be computed before"
            )
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
