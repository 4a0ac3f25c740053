"""The search for training settings: trials train on the training part and are compared on the
validation part.

The test part is not read. A study file keeps every trial: a search that was interrupted resumes,
and one that is asked for more trials only adds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from app.errors import CtrError
from app.files import write_file
from model.config import SHALLOW, Metric, TrainConfig
from model.data.prepare import Prepared
from model.fingerprint import fingerprint_of
from model.progress import say
from model.result_places import require_file
from model.train_network import FEW_BATCHES
from model.training.evaluation import Evaluation, telling_metric
from model.training.fit import fit
from model.training.warm_start import WarmStart

FIRST_LINE = "# Found by `python -m model tune`"
NAMES = {"auc": "AUC", "log_loss": "log loss"}
SQLITE = b"SQLite format 3\0"
STEPS = 10
"""Points of a training at which a trial may be pruned, the same for all trials."""
SPARED_STEPS = 3
"""Points before which no trial is pruned: while the rate still rises, figures say little."""
STARTING_TRIALS = 8
"""Trials that are drawn at random and never pruned."""


class TuneError(CtrError):
    """The search cannot start, or found nothing."""


class SearchResult(NamedTuple):
    """The result of a search: its best trial, and counts of all."""

    config: TrainConfig
    """The settings of the best trial."""
    number: int
    """The number of the best trial, from 1."""
    value: float
    """Its figure on the validation part, by ``metric``."""
    first: float | None
    """The figure of the settings that the search started from; None if that trial failed."""
    metric: Metric
    trials: int
    given_up: int
    failed: int


def tune(
    prepared: Prepared,
    base: TrainConfig,
    trials: int,
    study_file: Path,
    out: Path,
    start: WarmStart | None = None,
    progress: bool = True,
) -> SearchResult:
    """Try settings until there are ``trials`` trials, and keep the best in ``out``.

    The first trial has the settings ``base`` itself. A trial that falls behind the median of
    those before it is pruned; one that fails is skipped. Each starts from ``start``. The same
    data, settings and thread count give the same trials, interrupted or not.

    Raises:
        TuneError: ``out`` or the study file is not of this search, or every trial failed.
    """
    require_own(out)
    label = prepared.data["validation"].label
    if base.metric == "auc" and label.min() == label.max():
        raise TuneError("the validation labels are all of one class: set metric to log_loss")
    base = replace(base, metric=telling_metric(base.metric, label))
    fingerprint = fingerprint_of(
        prepared.fingerprint(), base.deciding(), start and start.bundle.manifest.id
    )
    with open_study(study_file, base.metric, fingerprint) as study:
        before, started = len(_done(study)), perf_counter()
        for number in range(before + 1, trials + 1):
            # Seeded for each trial, so that an interruption does not change later trials.
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTING_TRIALS, seed=base.seed + number
            )
            outcome = _try(study, prepared, base, number, start, progress)
            left = (perf_counter() - started) / (number - before) * (trials - number)
            say(f"[{number}/{trials}] {outcome}; about {left / 60:.0f} min to go")
            if (found := _found(study, base.metric)) is not None:
                write_settings(out, prepared.name, found)
        found = _found(study, base.metric)
        if found is None:
            raise TuneError(f"every trial failed; the first: {_done(study)[0].user_attrs['error']}")
        write_settings(out, prepared.name, found)
    return found


def suggest(trial: Trial, base: TrainConfig, rows: int, sized: bool) -> TrainConfig:
    """Draw the settings of a trial; ``sized`` says that the embedding size is settled."""
    shallow = base.network in SHALLOW
    rates = (1e-3, 0.1) if shallow else (3e-4, 0.02)
    strengths = (1e-8, 0.1) if shallow else (1e-6, 1.0)
    config = replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", *rates, log=True),
        embedding_l2=trial.suggest_float("embedding_l2", *strengths, log=True),
        oov_rate=trial.suggest_float("oov_rate", 0.0, 0.1, step=0.01),
        epochs=trial.suggest_int("epochs", 1, 2 * base.epochs, log=True),
        batch_size=2 ** trial.suggest_int("log2 batch_size", 7, _log2_batch_size(rows)),
    )
    if base.network != "lr" and not sized:
        size = trial.suggest_int("log2 embedding_size", 2, 5)
        config = replace(config, embedding_size=2**size)
    if not shallow:
        layers = trial.suggest_int("hidden layers", 1, 3)
        units = 2 ** trial.suggest_int("log2 hidden units", 5, 9)
        config = replace(
            config,
            hidden=(units,) * layers,
            dropout=trial.suggest_float("dropout", 0.0, 0.6, step=0.05),
            batch_norm=trial.suggest_categorical("batch_norm", [True, False]),
        )
    if base.network == "dcn_v2":
        config = replace(config, cross_layers=trial.suggest_int("cross_layers", 1, 4))
    if base.network == "final_mlp":
        config = replace(config, fusion_heads=2 ** trial.suggest_int("log2 fusion_heads", 0, 3))
    return config


def _log2_batch_size(rows: int) -> int:
    """Return the largest exponent that leaves an epoch its batches."""
    return min(max((rows // FEW_BATCHES).bit_length() - 1, 7), 13)


def _try(
    study: optuna.Study,
    prepared: Prepared,
    base: TrainConfig,
    number: int,
    start: WarmStart | None,
    progress: bool,
) -> str:
    """Run a trial, record its outcome and return it as one line."""
    trial = study.ask()
    trial.set_user_attr("number", number)
    began = perf_counter()
    config = base
    try:
        if number > 1:
            config = suggest(trial, base, prepared.train_rows, start is not None)
        trial.set_user_attr("config", config.to_dict())
        result = fit(
            prepared.vocabulary.layout,
            prepared.data["train"],
            prepared.data["validation"],
            config,
            progress,
            start.begin if start else None,
            prepared.crosses(config),
            _watch(trial, config),
        )
    except optuna.TrialPruned as at:
        study.tell(trial, state=TrialState.PRUNED)
        outcome = f"given up at {at}"
    except Exception as error:
        # A trial that fails for any reason must not end the search.
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
        outcome = f"failed: {type(error).__name__}: {error}"
    else:
        study.tell(trial, _value(result.best, base.metric))
        outcome = f"{NAMES[base.metric]} {_value(result.best, base.metric):.4f}"
    found = _found(study, base.metric)
    best = f" (best {found.value:.4f}, trial {found.number})" if found else ""
    return f"{outcome}{best}; {_difference(base, config)}; {perf_counter() - began:.0f} s"


def _watch(trial: Trial, config: TrainConfig) -> Callable[[Evaluation], None]:
    """Return a function that takes each evaluation, and raises to prune the trial."""
    reported = 0

    def report(evaluation: Evaluation) -> None:
        nonlocal reported
        step = int(STEPS * evaluation.epoch / config.epochs)
        if step == reported:
            return
        reported = step
        value = _value(evaluation, config.metric)
        trial.report(value, step)
        if step < STEPS and trial.should_prune():
            raise optuna.TrialPruned(f"{NAMES[config.metric]} {value:.4f}, {step}/{STEPS} done")

    return report


def _value(evaluation: Evaluation, metric: Metric) -> float:
    if metric == "log_loss":
        return evaluation.log_loss
    assert evaluation.auc is not None, "the validation part has both labels"
    return evaluation.auc


def _difference(base: TrainConfig, config: TrainConfig) -> str:
    """Return the settings in which a trial differs from those that the search started from."""
    before = base.to_dict()
    changed = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in config.to_dict().items()
        if value != before[key]
    ]
    return ", ".join(changed) or "the settings as they were"


@contextmanager
def open_study(path: Path, metric: Metric, fingerprint: str) -> Iterator[optuna.Study]:
    """Open a study file, or make one.

    Raises:
        TuneError: it is no study file, or one of other data or settings.
    """
    _require_study(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        study = optuna.create_study(
            storage=storage,
            study_name="settings",
            load_if_exists=True,
            direction="maximize" if metric == "auc" else "minimize",
            pruner=optuna.pruners.MedianPruner(STARTING_TRIALS, SPARED_STEPS),
        )
        if study.user_attrs.setdefault("fingerprint", fingerprint) != fingerprint:
            raise TuneError(f"study: {path} was made with other data or settings; name another one")
        study.set_user_attr("fingerprint", fingerprint)
        for each in study.get_trials(states=[TrialState.RUNNING]):
            study.tell(each.number, state=TrialState.FAIL)
        yield study
    except optuna.exceptions.StorageInternalError as error:
        reason = getattr(error.__cause__, "orig", None) or error
        raise TuneError(
            f"study: {path} cannot be written: {reason}; the same command continues the search"
        ) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _done(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have an outcome; an interrupted one has none."""
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        trial for trial in study.trials if trial.state in finished or "error" in trial.user_attrs
    ]


def _found(study: optuna.Study, metric: Metric) -> SearchResult | None:
    """Return the best trial so far, if one is complete."""
    done = _done(study)
    states = [trial.state for trial in done]
    if TrialState.COMPLETE not in states:
        return None
    best, first = study.best_trial, done[0]
    assert best.value is not None
    return SearchResult(
        config=TrainConfig.from_dict(best.user_attrs["config"]),
        number=best.user_attrs["number"],
        value=best.value,
        first=first.value if first.state == TrialState.COMPLETE else None,
        metric=metric,
        trials=len(done),
        given_up=states.count(TrialState.PRUNED),
        failed=states.count(TrialState.FAIL),
    )


def require_places(out: Path, study_file: Path, inputs: Sequence[Path]) -> None:
    """Check that both files of a search can be written, and replace nothing else.

    Raises:
        ResultError: one of them cannot be written, or is one of the ``inputs``.
        TuneError: one of them exists and is not of a search, or both are the same.
    """
    for path in (out, study_file):
        require_file(path, inputs, parents=True)
    if out.resolve() == study_file.resolve():
        raise TuneError(f"study: {study_file} is the file of --out too; name another one")
    require_own(out)
    _require_study(study_file)


def require_own(out: Path) -> None:
    """Refuse to replace a settings file that no search has written.

    Raises:
        TuneError: the file exists and does not start as those of a search do.
    """
    if out.exists() and not out.read_bytes().startswith(FIRST_LINE.encode()):
        raise TuneError(f"out: {out} was not written by tune; it is left as it is")


def _require_study(path: Path) -> None:
    if path.exists() and not path.read_bytes()[: len(SQLITE)] == SQLITE:
        raise TuneError(f"study: {path} is no study file; name another one")


def write_settings(out: Path, name: str, found: SearchResult) -> None:
    """Write the best settings so far as a file that ``train`` takes."""
    before = "" if found.first is None else f", {found.first:.4f} before"
    lines = [
        f"{FIRST_LINE} on {name}: trial {found.number} of {found.trials},",
        f"# {NAMES[found.metric]} {found.value:.4f} on the validation part{before}.",
        *(f"{key} = {json.dumps(value)}" for key, value in found.config.to_dict().items()),
    ]
    write_file(out, "\n".join([*lines, ""]).encode())
