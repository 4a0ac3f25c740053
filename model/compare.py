"""A comparison of networks: the same rows, the same budget, several seeds.

Every member of a comparison is a network and a seed. Each finished member has a file in the
output directory: a comparison that was interrupted resumes, and one that is asked for more
networks or seeds only adds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import msgspec
import numpy as np

from app.bundle.bundle import Bundle
from app.errors import CtrError
from app.features.graph_inputs import Batch
from app.features.nearest import suggestion
from app.files import write_file
from app.scoring.engine import Engine
from model.config import NETWORKS, ConfigError, SettingsFile, TrainConfig
from model.data.dataset import Dataset
from model.data.prepare import Prepared
from model.fingerprint import fingerprint_of
from model.pipeline import run
from model.progress import say
from model.quality.calibration import Calibration, calibrated
from model.quality.figures import reliability
from model.quality.offline_scoring import open_engine, score_dataset

MEMBERS, BUNDLES = "members", "bundles"
CANDIDATES = 1_000
REPEATS = {1: 300, CANDIDATES: 40}
"""Timed runs of the engine, by the number of candidates."""


class CompareError(CtrError):
    """Some members failed; the results of the others are written."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member's figures on the test part, by the names that the summary has for them."""

    network: str
    seed: int
    auc: float | None
    auc_lower: float | None
    """The bounds of a 95 % interval, as are those of the log loss."""
    auc_upper: float | None
    log_loss: float
    log_loss_lower: float
    log_loss_upper: float
    calibration_ratio: float | None
    """Predicted clicks over observed ones."""
    parameters: int
    train_seconds: float
    train_rows_per_second: float
    bundle_bytes: int
    score_1_us: float
    """Median microseconds of an engine run on one thread, for one context and one candidate."""
    score_1000_us: float
    """The same for one context and a thousand candidates."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finished member, as it is kept on disk."""

    fingerprint: str
    """Fingerprint of the data and settings that decide the member's figures."""
    bundle: str
    row: Row
    config: dict[str, object]
    predicted: list[float]
    observed: list[float]
    """The reliability diagram: mean score and click rate of test rows in bins of equal count."""


class Member(NamedTuple):
    """One network with one seed."""

    network: str
    seed: int

    def __str__(self) -> str:
        return f"{self.network}, seed {self.seed}"


class Comparison(NamedTuple):
    """Finished members in their order, and failed ones with the reason."""

    records: Sequence[Record]
    failures: Sequence[tuple[Member, str]]


def chosen(networks: str) -> list[str]:
    """Return the networks of a comma-separated list, or of ``all``, in the family's order.

    An FNN brings the FM that it starts from.

    Raises:
        ConfigError: one of them is unknown.
    """
    given = NETWORKS if networks == "all" else [name.strip() for name in networks.split(",")]
    names = set(given)
    if unknown := sorted(names - set(NETWORKS)):
        hint = suggestion(unknown[0], NETWORKS)
        raise ConfigError(
            f"networks: must be all, or some of {', '.join(NETWORKS)};"
            f" got {', '.join(map(repr, unknown))}{hint}"
        )
    if "fnn" in names and "fm" not in names:
        say("fnn starts from an fm, which is compared too")
        names.add("fm")
    return [name for name in NETWORKS if name in names]


def compare(
    prepared: Prepared,
    settings: SettingsFile,
    networks: Sequence[str],
    seeds: int,
    out: Path,
    after: Callable[[Comparison], object],
    progress: bool = True,
) -> Comparison:
    """Train, export and measure every network with seeds 1 to ``seeds``; what is done stays.

    A member that fails does not end the comparison. ``after`` is given what there is after
    each member.
    """
    (out / MEMBERS).mkdir(parents=True, exist_ok=True)
    members = [Member(name, seed) for seed in range(1, seeds + 1) for name in networks]
    data = prepared.fingerprint()
    records: dict[Member, Record] = {}
    failures: dict[Member, str] = {}
    started, trained = perf_counter(), 0
    for number, member in enumerate(members, start=1):
        try:
            config = settings.config(member.network, prepared.train_rows, seed=member.seed)
            fingerprint = fingerprint_of(data, config.deciding())
            record = _done(out, member, fingerprint)
            if record is None:
                left = _left(perf_counter() - started, trained, len(members) - number + 1)
                say(f"[{number}/{len(members)}] {member}{left}")
                fm = records.get(Member("fm", member.seed))
                record = _measure(prepared, config, fm, fingerprint, out, progress)
                trained += 1
            records[member] = record
        except Exception as error:
            # A member that fails for any reason must not end the comparison.
            failures[member] = f"{type(error).__name__}: {error}"
            say(f"failed: {member}: {failures[member]}")
        after(Comparison([*records.values()], [*failures.items()]))
    return Comparison([*records.values()], [*failures.items()])


def _left(seconds: float, done: int, left: int) -> str:
    """Return the estimated time of the remaining members, once one is finished."""
    return f"; about {seconds / done * left / 60:.0f} min to go" if done else ""


def _measure(
    prepared: Prepared,
    config: TrainConfig,
    fm: Record | None,
    fingerprint: str,
    out: Path,
    progress: bool,
) -> Record:
    """Train a member, time its graph and keep its record."""
    start = None
    if config.network == "fnn":
        if fm is None:
            raise CompareError("the fm that it starts from failed")
        start = out / BUNDLES / fm.bundle
    bundle = run(prepared, config, out / BUNDLES, progress, start)
    written = Bundle.open(bundle)
    figures, training = written.manifest.metrics["test"], written.manifest.training
    engine = open_engine(written.graph, prepared.encoder, prepared.vocabulary.layout, threads=1)
    test = prepared.data["test"]
    logit = calibrated(Calibration.of(training["calibration"]), score_dataset(engine, test).logit)
    bins = reliability(test.label, logit, kept=test.kept, row_weight=test.weight)
    row = Row(
        network=config.network,
        seed=config.seed,
        auc=figures["auc"],
        auc_lower=figures["auc_lower"],
        auc_upper=figures["auc_upper"],
        log_loss=figures["log_loss"],
        log_loss_lower=figures["log_loss_lower"],
        log_loss_upper=figures["log_loss_upper"],
        calibration_ratio=figures["calibration"],
        parameters=training["parameters"],
        train_seconds=training["seconds"],
        train_rows_per_second=training["rows_per_second"],
        bundle_bytes=sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
        score_1_us=time_scoring(engine, test, 1),
        score_1000_us=time_scoring(engine, test, CANDIDATES),
    )
    record = Record(
        fingerprint,
        bundle.name,
        row,
        config.to_dict(),
        bins.predicted.tolist(),
        bins.observed.tolist(),
    )
    write_file(_path(out, Member(row.network, row.seed)), msgspec.json.encode(record))
    return record


def time_scoring(engine: Engine, data: Dataset, candidates: int) -> float:
    """Return the median microseconds of a run over one context and some candidates.

    Rows repeat where the data has fewer; each run has other ones.
    """
    context = data.context_rows
    candidate = data.candidate_rows
    owners = np.zeros(candidates, np.int32)
    seconds = []
    for number in range(REPEATS[candidates] + 5):
        rows = (np.arange(candidates) + number * candidates) % len(data)
        batch = Batch(context[rows[:1]], candidate[rows], owners)
        start = perf_counter()
        engine.score(batch)
        seconds.append(perf_counter() - start)
    return median(seconds[5:]) * 1e6


def _path(out: Path, member: Member) -> Path:
    return out / MEMBERS / f"{member.network}-{member.seed}.json"


def _done(out: Path, member: Member, fingerprint: str) -> Record | None:
    """Return a member's record if it is there, whole, and of these data and settings."""
    try:
        record = msgspec.json.decode(_path(out, member).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        say(f"{member}: its record cannot be read; it is trained again")
        return None
    if record.fingerprint != fingerprint:
        say(f"{member}: data or settings have changed; it is trained again")
        return None
    if not (out / BUNDLES / record.bundle).is_dir():
        say(f"{member}: its bundle is gone; it is trained again")
        return None
    return record
