"""A training run from files to a bundle, top to bottom."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from app.bundle import (
    EXAMPLES,
    GRAPH,
    INT8_GRAPH,
    SPEC,
    VOCABULARY,
    Bundle,
    Precision,
    newest,
    write_bundle,
)
from app.encoder import Encoder
from app.engine import Engine, cpu_quota
from app.layout import Layout
from app.spec import FeatureSpec
from app.vocabulary import Vocabulary
from model.arrays import DamagedError
from model.cache import Encoded, program, read_encoded, write_encoded
from model.calibration import Calibration, CalibrationError, calibrated
from model.checkpoint import Checkpoints
from model.config import TrainConfig
from model.crosses import learn_crosses
from model.data import FILE, LINE, PARTS, DataError, Part, Source, SplitMode, Table, read, split
from model.dataset import Dataset
from model.encode import encode, statistics
from model.evaluate import score_dataset
from model.export import (
    check_parity,
    golden_examples,
    require_exportable,
    write_graph,
)
from model.files import sha256
from model.metrics import Metrics, evaluate_scores
from model.networks.crosses import Cross
from model.quantize import Loss, loss, with_int8_logits, write_int8
from model.report import write_report
from model.sampling import Sampling
from model.train import fit, predict
from model.vocab import learn
from model.warm_start import Start, learned_before

PURPOSES: Mapping[Part, str] = {
    "train": "to train on", "validation": "to validate", "test": "to test",
}  # fmt: skip
FEW_BATCHES = 10
"""Steps of an epoch below which training is hardly under way."""
CHECKPOINTS = ".checkpoints"
"""Where, below the directory of bundles, runs that are under way keep their state."""
FLAT_LOGITS = 1e-3
"""Spread of the test part's logits below which they say nothing."""


def say(text: str) -> None:
    """Tell progress on standard error; standard output is for results."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a run: either ``data`` to be split, or one list for each part."""

    data: Sequence[Path] = ()
    parts: Mapping[Part, Sequence[Path]] | None = None
    mode: SplitMode = "auto"
    seed: int = 1
    max_bad_lines: float = 0.0
    wanted: Sequence[Part] = PARTS
    """The parts that are read, or kept of what is split."""

    def read(self, spec: FeatureSpec) -> dict[Part, Table]:
        """Read the files and return each part's rows.

        Raises:
            DataError: the files cannot be used.
        """
        if self.parts is not None:
            if self.data or set(self.parts) != set(self.wanted):
                parts = ", ".join(self.wanted)
                raise DataError(f"give either data files, or files for each part: {parts}")
            return {part: read(spec, self.parts[part], self.max_bad_lines) for part in self.wanted}
        if spec.negatives is not None and set(spec.negatives.parts) != set(PARTS):
            raise DataError(
                "negatives: the spec says that some parts hold all rows without a click, so give"
                " files for each part; data that are split hold the same share in all"
            )
        table = read(spec, self.data, self.max_bad_lines)
        rows = split(spec, table, self.mode, self.seed)
        return {
            part: Table(table.frame[rows[part].tolist()], table.sources, table.bad)
            for part in self.wanted
        }

    def key(self, text: str, spec: FeatureSpec, before: Bundle | None) -> str:
        """Return a hash of all that decides what the files become: content, rules and code.

        Raises:
            DataError: a file cannot be read.
        """
        files: dict[str, Sequence[Path]] = {"data": self.data}
        files.update({str(part): paths for part, paths in (self.parts or {}).items()})
        try:
            content = {
                name: [[path.name, sha256(path)] for path in paths] for name, paths in files.items()
            }
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        return hash_of(
            program(), text, content, self.describe(spec), list(self.wanted), self.max_bad_lines,
            before and before.manifest.id,
        )  # fmt: skip

    def describe(self, spec: FeatureSpec) -> dict[str, Any]:
        """What the manifest says about the split."""
        if self.parts is not None:
            return {"mode": "files"}
        mode = self.mode
        if mode == "auto":
            mode = "time" if spec.timestamp is not None else "random"
        return {"mode": mode, "seed": self.seed, "shares": [0.8, 0.1, 0.1]}


def open_engine(
    graph: Path,
    encoder: Encoder,
    layout: Layout,
    precision: Precision = "float32",
    threads: int | None = None,
) -> Engine:
    """Load a graph on the CPU, on which bundles are checked and measured."""
    shapes = encoder.context.shape, encoder.candidate.shape
    return Engine(graph, layout, *shapes, "cpu", threads or cpu_quota(), precision)


@dataclass(frozen=True, slots=True)
class Often:
    """How often a run writes its state, and whether it goes on from what is there."""

    seconds: float = 600.0
    steps: int = 0
    resume: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Data that was read, split and encoded, for any number of runs."""

    name: str
    """The spec file's name without its ending."""
    text: str
    spec: FeatureSpec
    inputs: Inputs
    tables: Mapping[Part, Table]
    """The raw rows of every part, or of the test part alone where a cache was used."""
    sources: Mapping[Part, Sequence[Source]]
    vocabulary: Vocabulary
    encoder: Encoder
    data: Mapping[Part, Dataset]
    before: str | None = None
    """Id of the bundle whose buckets and scales were kept."""

    @property
    def train_rows(self) -> int:
        """Rows to learn from."""
        return len(self.data["train"])

    def crosses(self, config: TrainConfig) -> tuple[Cross, ...]:
        """Learn the crosses of the spec for a network that has any.

        Raises:
            CrossError: the fields of a cross have too many values.
        """
        if config.network != "wide_deep":
            return ()
        return learn_crosses(self.spec, self.vocabulary.layout, self.data["train"])

    def fingerprint(self) -> str:
        """Return a hash of all that decides the rows of each part."""
        sources = [[source.sha256 for source in found] for found in self.sources.values()]
        rows = [len(part) for part in self.data.values()]
        return hash_of(self.text, self.inputs.describe(self.spec), sources, rows, self.before)


def hash_of(*parts: object) -> str:
    """Return the SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def prepare(
    spec_path: Path, inputs: Inputs, before: Bundle | None = None, cache: Path | None = None
) -> Prepared:
    """Read the files, learn the vocabulary of the training part and encode every part.

    For a start from the bundle ``before`` numbers keep the buckets and scales that they had in it.
    With ``cache`` the result is kept below that directory, and taken from there while the files,
    the spec and the encoder are the same.

    Raises:
        SpecError: the spec breaks a rule.
        DataError: the files cannot be used.
    """
    text = FeatureSpec.read(spec_path)
    spec = FeatureSpec.parse(text)
    start = perf_counter()
    entry = cache / inputs.key(text, spec, before)[:32] if cache is not None else None
    encoded, done = (_cached(entry, spec) if entry is not None else None), "taken from the cache"
    if encoded is None:
        encoded, done = _encode(spec, inputs, before), "read and encoded"
        # Not if a file has changed since its hash was taken.
        if entry is not None and entry.name == inputs.key(text, spec, before)[:32]:
            write_encoded(entry, encoded)
    for warning in encoded.warnings:
        say(f"warning: {warning}")
    data, vocabulary = encoded.data, encoded.vocabulary
    counts = ", ".join(f"{len(rows):,} {PURPOSES[part]}" for part, rows in data.items())
    say(
        f"{done}: {sum(map(len, data.values())):,} rows in {perf_counter() - start:.1f} s:"
        f" {counts}; {vocabulary.layout.table_rows:,} table rows"
    )
    _warn_of_flat_labels(data)
    return Prepared(
        spec_path.stem, text, spec, inputs, encoded.tables, encoded.sources, vocabulary,
        Encoder(spec, vocabulary), data, before.manifest.id if before else None,
    )  # fmt: skip


def _encode(spec: FeatureSpec, inputs: Inputs, before: Bundle | None) -> Encoded:
    tables = inputs.read(spec)
    settled = learned_before(spec, before) if before else None
    vocabulary = learn(spec, tables["train"].frame, settled)
    encoder = Encoder(spec, vocabulary)
    data = {
        part: encode(spec, encoder, table, kept=spec.kept(part)) for part, table in tables.items()
    }
    read_apart = tables.values() if inputs.parts is not None else [tables["train"]]
    return Encoded(
        vocabulary,
        data,
        tables,
        {part: table.sources for part, table in tables.items()},
        [f"left out: {table.bad.report()}" for table in read_apart if table.bad.lines],
    )


def _cached(entry: Path, spec: FeatureSpec) -> Encoded | None:
    """Return what is kept, if it is there and whole."""
    if not entry.exists():
        return None
    try:
        return read_encoded(entry, spec)
    except DamagedError as error:
        say(f"warning: the cache is damaged and made anew: {error}")
        return None


def train(
    spec_path: Path,
    inputs: Inputs,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    int8: bool = False,
) -> Path:
    """Read files, train on them and write a bundle: ``prepare`` and then ``run``."""
    return run(prepare(spec_path, inputs), config, out, progress, int8=int8)


def run(
    prepared: Prepared,
    config: TrainConfig,
    out: Path,
    progress: bool = True,
    init_from: Path | None = None,
    int8: bool = False,
    often: Often | None = None,
) -> Path:
    """Train, check and write a bundle below ``out``; return its path.

    ``init_from`` is a bundle of the same network from which training starts, or of an FM for an
    FNN. A report with plots stands beside the new bundle, as ``<bundle>.report``. The same data,
    settings and thread count give the same bundle id. With ``int8`` the bundle also has an int8
    graph, if that loses next to nothing. ``often`` has the state written below ``out`` while it
    trains, and may go on from what a killed run of the same data and settings has left there.

    Raises:
        CrossError: the fields of a cross have too many values.
        TrainingError: training cannot begin, not from ``init_from``, or not go on.
        ExportError: the network cannot be exported, or its graph does not agree with it.
    """
    vocabulary, encoder, data = prepared.vocabulary, prepared.encoder, prepared.data
    if prepared.train_rows < FEW_BATCHES * config.batch_size:
        say(
            f"warning: {prepared.train_rows:,} rows are few for batches of"
            f" {config.batch_size:,}; a smaller batch_size in the training settings may learn"
            " better"
        )
    crosses = prepared.crosses(config)
    require_exportable(vocabulary.layout, config, crosses)
    start = None
    if init_from is not None:
        before = Bundle.open(newest(init_from))
        start = Start.read(before, vocabulary, data["train"], config)
        say(str(start))
    elif config.network == "fnn":
        say("warning: this FNN starts from random weights; --init-from takes a trained FM's")

    checkpoints = None
    if often is not None:
        run_id = hash_of(
            prepared.fingerprint(), config.to_dict(), start and start.bundle.manifest.id
        )
        directory = out / CHECKPOINTS / run_id[:16]
        checkpoints = Checkpoints(directory, often.seconds, often.steps, often.resume)
        checkpoints.begin()
        if checkpoints.state is not None:
            say(f"goes on after step {checkpoints.state.step:,}")
        elif often.resume:
            say("there is no checkpoint of this run to go on from: it begins at the beginning")
    result = fit(
        vocabulary.layout, data["train"], data["validation"], config, progress,
        start.begin if start else None, crosses, checkpoints=checkpoints,
    )  # fmt: skip
    network = result.network.eval()
    if start and (obstacle := start.obstacle(network)):
        say(f"warning: the hidden layers began anew: {obstacle}")
    say(
        f"trained in {result.seconds:.1f} s, {result.rows_per_second:,.0f} rows/s;"
        f" best after epoch {result.best.epoch:.2f}"
    )

    calibration = None
    if config.calibration != "none":
        validation = data["validation"]
        try:
            calibration = Calibration.fit(
                config.calibration, validation, predict(network, validation)
            )
        except CalibrationError as error:
            say(f"warning: {config.calibration} calibration is left out: {error}")

    metrics: dict[str, Metrics] = {}
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
        frame = prepared.tables["test"].frame
        examples = golden_examples(prepared.spec, encoder, network, frame, config.seed, calibration)
        scores = {part: score_dataset(engine, data[part]) for part in PARTS}
        for part in PARTS:
            logits[part] = calibrated(calibration, scores[part].logit)
            metrics[part] = evaluate_scores(data[part].label, logits[part], data[part].kept)
        if int8:
            path = directory / INT8_GRAPH
            write_int8(directory / GRAPH, path, engine, data["train"], config.seed)
            quick = open_engine(path, encoder, vocabulary.layout, "int8")
            label, validation = data["validation"].label, data["validation"]
            lost = loss(label, scores["validation"], score_dataset(quick, validation))
            losses.append(lost)
            say(str(lost) if lost.accepted else f"warning: left out: {lost}")
            if lost.accepted:
                examples = [with_int8_logits(each, quick) for each in examples]
            else:
                path.unlink()
        (directory / EXAMPLES).write_bytes(msgspec.json.Encoder().encode_lines(examples))
        if float(np.ptp(logits["test"])) < FLAT_LOGITS:
            say("warning: the scores of the test part are all alike: nothing was learnt")

    def describe(_: Path) -> dict[str, Any]:
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
                "crosses": [cross.described() for cross in crosses],
                "calibration": calibration.described() if calibration else None,
                "negatives": Sampling.of(data["train"], config.negative_rate).described(),
                "parity": parity,
                "int8": [{"accepted": lost.accepted, **asdict(lost)} for lost in losses],
                "torch": str(torch.__version__),
                "threads": config.thread_count(),
            },
            "data": [
                {"part": part, **asdict(source)}
                for part in (PARTS if prepared.inputs.parts is not None else PARTS[:1])
                for source in prepared.sources[part]
            ],
            "statistics": statistics(vocabulary.layout, data["train"]),
        }

    bundle = write_bundle(out, fill, describe)
    if checkpoints is not None:
        checkpoints.clear()
    try:
        write_report(
            bundle.with_name(f"{bundle.name}.report"),
            f"{prepared.name}, {config.network}",
            config,
            result,
            metrics,
            data["test"],
            logits["test"],
            "".join(f"{lost}; {'accepted' if lost.accepted else 'left out'}." for lost in losses),
        )
    except OSError as error:
        say(f"warning: the report beside {bundle.name}, which is whole, is not: {error}")
    for part, figures in metrics.items():
        say(f"{part}: {show(figures)}")
    return bundle


def _warn_of_bad_lines(table: Table) -> None:
    if table.bad.lines:
        say(f"warning: left out: {table.bad.report()}")


def _warn_of_flat_labels(data: Mapping[Part, Dataset]) -> None:
    for part, rows in data.items():
        if rows.label.min() == rows.label.max():
            say(f"warning: the {part} part's labels are all {rows.label[0]}: it has no AUC")


def show(metrics: Metrics) -> str:
    """The figures in one line."""
    auc = "none (one class)" if metrics.auc is None else f"{metrics.auc:.4f}"
    calibration = "none" if metrics.calibration is None else f"{metrics.calibration:.3f}"
    return (
        f"AUC {auc}, log loss {metrics.log_loss:.4f}, predicted/observed {calibration},"
        f" calibration error {metrics.calibration_error:.4f} over {metrics.rows:,} rows"
    )


@dataclass(frozen=True, slots=True)
class Offline:
    """A bundle opened for scoring files."""

    bundle: Bundle
    encoder: Encoder
    engine: Engine

    @classmethod
    def open(cls, path: Path) -> Offline:
        """Open and verify a bundle, or the newest one in a directory."""
        bundle = Bundle.open(newest(path))
        encoder = Encoder(bundle.spec, bundle.vocabulary)
        engine = open_engine(bundle.graph, encoder, bundle.vocabulary.layout)
        return cls(bundle, encoder, engine)

    def rows(self, paths: Sequence[Path], part: Part | None, max_bad_lines: float) -> Table:
        """Read files, or of the files that the bundle was trained on the rows of one part.

        Raises:
            DataError: a part is wanted of other files than the bundle was made from.
        """
        table = read(self.bundle.spec, paths, max_bad_lines)
        _warn_of_bad_lines(table)
        if part is None:
            return table
        manifest = self.bundle.manifest
        described = manifest.training["split"]
        recorded = [source["sha256"] for source in manifest.data]
        if described["mode"] == "files" or [s.sha256 for s in table.sources] != recorded:
            raise DataError("these are not the files that this bundle's split was made of")
        rows = split(self.bundle.spec, table, described["mode"], described["seed"])
        return Table(table.frame[rows[part].tolist()], table.sources, table.bad)

    def evaluate(self, table: Table, kept: float = 1.0) -> Metrics:
        """The figures over a table that has a share ``kept`` of all rows without a click."""
        data = encode(self.bundle.spec, self.encoder, table)
        logit = calibrated(self.calibration, score_dataset(self.engine, data).logit)
        return evaluate_scores(data.label, logit, kept)

    @property
    def calibration(self) -> Calibration | None:
        """What the graph makes of a logit before it is a score, if anything."""
        return Calibration.of(self.bundle.manifest.training.get("calibration"))

    def predict(self, paths: Sequence[Path], out: Path, max_bad_lines: float) -> int:
        """Write file, line, logit and score of every row as Parquet; return how many."""
        table = read(self.bundle.spec, paths, max_bad_lines, label=False)
        _warn_of_bad_lines(table)
        data = encode(self.bundle.spec, self.encoder, table, label=False)
        scores = score_dataset(self.engine, data)
        frame = table.frame.select(
            pl.col(FILE).alias("file"), pl.col(LINE).alias("line")
        ).with_columns(
            pl.Series("logit", scores.logit),
            pl.Series("score", scores.score),
            pl.lit(self.bundle.version).alias("version"),
        )
        partial = out.with_name(f".{out.name}.partial")
        try:
            frame.write_parquet(partial)
            partial.rename(out)
        finally:
            partial.unlink(missing_ok=True)
        return frame.height
