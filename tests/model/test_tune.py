"""A search for settings resumes, survives failing trials and never sees the test part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from app.bundle.bundle import Bundle
from model import tune as tuning
from model.config import NETWORKS, SHALLOW, SettingsFile, TrainConfig
from model.data.input_files import InputFiles
from model.data.prepare import Prepared, prepare
from model.pipeline import run
from model.training.fit import fit
from model.training.warm_start import WarmStart
from model.tune import FIRST_LINE, SearchResult, TuneError, suggest, tune
from tests.support import samples

pytestmark = pytest.mark.slow

BASE = TrainConfig(
    embedding_size=4, hidden=(8,), batch_size=128, epochs=2, evaluations_per_epoch=5, threads=1
)
ROWS = 600


@pytest.fixture(autouse=True, scope="module")
def _few_clicks_will_do() -> Iterator[None]:
    """Let a validation part of a few dozen rows be searched by AUC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.evaluation.FEW", 5)
        yield


def prepared_log(directory: Path, rows: int = ROWS) -> Prepared:
    spec, data = directory / "few.toml", directory / "few.csv"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, rows)
    return prepare(spec, InputFiles([data], wanted=("train", "validation")))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared_log(tmp_path_factory.mktemp("few"))


class Search:
    """A search with a study and a settings file of its own."""

    def __init__(self, prepared: Prepared, directory: Path) -> None:
        self.prepared = prepared
        self.study, self.out = directory / "study", directory / "found.train.toml"

    def __call__(
        self, trials: int, base: TrainConfig = BASE, start: WarmStart | None = None
    ) -> SearchResult:
        return tune(self.prepared, base, trials, self.study, self.out, start, progress=False)

    @contextmanager
    def opened(self) -> Iterator[optuna.Study]:
        """The study file, by Optuna alone."""
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.study}")
        try:
            yield optuna.load_study(study_name="settings", storage=storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return the outcomes in the study file."""
        with self.opened() as study:
            return study.trials

    def outcomes(self) -> list[tuple[object, object]]:
        """Settings and figure of every trial that has an outcome."""
        return [
            (trial.user_attrs["config"], trial.value)
            for trial in self.trials()
            if trial.state is not TrialState.FAIL
        ]


@pytest.fixture(scope="module")
def search(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search of twelve trials."""
    search = Search(prepared, tmp_path_factory.mktemp("search"))
    search(12)
    return search


def test_the_file_has_the_settings_of_the_best_trial(search: Search, prepared: Prepared) -> None:
    """Trained with them once more, the validation part gives the figure that was told."""
    found = search(12)
    values = [value for _, value in search.outcomes() if value is not None]
    assert found.value == max(values) > 0.6
    assert (found.first, found.trials, found.failed) == (values[0], 12, 0)
    settings = SettingsFile.read(search.out)
    assert settings.network == "deepfm"
    config = settings.config("deepfm", ROWS)
    assert config == found.config
    again = fit(
        prepared.vocabulary.layout, prepared.data["train"], prepared.data["validation"], config,
        progress=False,
    )  # fmt: skip
    assert again.best.auc == found.value
    text = search.out.read_text()
    assert text.startswith(f"{FIRST_LINE} on few: trial {found.number} of 12,\n")
    assert f"AUC {found.value:.4f} on the validation part, {found.first:.4f} before." in text


def test_the_first_trial_has_the_settings_as_they_were(search: Search) -> None:
    """The settings found are no worse than they are; no two trials are alike."""
    configs = [json.dumps(config) for config, _ in search.outcomes()]
    assert json.loads(configs[0]) == BASE.to_dict()
    assert len(set(configs)) == 12


@pytest.mark.long
def test_a_search_goes_on_where_it_was(
    search: Search, prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut off between trials and in the midst of one, it comes to the same trials."""
    other = Search(prepared, tmp_path)
    other(5)
    with other.opened() as study:
        study.ask()  # As a killed process leaves it: begun, without an outcome.
    capsys.readouterr()
    found = other(12)
    assert capsys.readouterr().err.startswith("[6/12] ")
    assert other.outcomes() == search.outcomes()
    assert found == search(12)
    assert found == search(3), "those that are there are not taken back"


@pytest.mark.long
def test_a_trial_far_behind_is_given_up(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It is stopped at one of the common points, never before the third; its line says so."""
    monkeypatch.setattr(tuning, "STARTING_TRIALS", 2)
    search = Search(prepared, tmp_path)
    found = search(14)
    assert found.given_up > 0
    given_up = [each for each in search.trials() if each.state is TrialState.PRUNED]
    assert len(given_up) == found.given_up
    assert all(3 <= max(each.intermediate_values) < 10 for each in given_up)
    whole = [each for each in search.trials() if each.state is TrialState.COMPLETE]
    assert max(max(each.intermediate_values) for each in whole) == 10
    assert capsys.readouterr().err.count("given up at AUC 0.") == found.given_up


def test_a_failed_trial_does_not_lose_the_others(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says why; the search continues, counts it, and finds the best of the others."""
    search = Search(prepared, tmp_path)
    changed = {"network": "fm", "learning_rate": 1e30, "evaluations_per_epoch": 1}
    wild = TrainConfig.from_dict(BASE.to_dict() | changed)
    with pytest.raises(TuneError, match="every trial failed; the first: TrainingError: the loss"):
        search(1, wild)
    assert not search.out.exists()
    found = search(3, wild)
    assert (found.failed, found.trials, found.first) == (1, 3, None)
    assert found.number > 1
    assert "[1/1] failed: TrainingError: the loss is" in capsys.readouterr().err
    assert search.out.read_text().splitlines()[1].endswith("on the validation part.")


def test_the_test_part_is_not_read(search: Search, prepared: Prepared, tmp_path: Path) -> None:
    """Where all labels of the test part are turned round, the same trials are made."""
    assert set(prepared.data) == {"train", "validation"}
    spec, data = tmp_path / "few.toml", tmp_path / "few.csv"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, ROWS)
    header, *lines = data.read_text().splitlines()
    place = header.split(",").index("time")
    test = sorted(range(ROWS), key=lambda number: lines[number].split(",")[place])[-ROWS // 10 :]
    for number in test:
        line, label = lines[number].rsplit(",", 1)
        lines[number] = f"{line},{1 - int(label)}"
    data.write_text("\n".join([header, *lines, ""]))
    other = Search(prepare(spec, InputFiles([data], wanted=("train", "validation"))), tmp_path)
    other(4)
    assert other.outcomes() == search.outcomes()[:4]


@pytest.mark.parametrize("network", NETWORKS)
def test_only_what_a_network_has_is_searched_for(network: str) -> None:
    """Shallow networks have no hidden layers, LR no embeddings; every draw is valid."""
    base = TrainConfig(network=network)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [suggest(study.ask(), base, 5_000, sized=False).to_dict() for _ in range(40)]
    varied = {key for key in drawn[0] if len({str(config[key]) for config in drawn}) > 1}
    expected = {"learning_rate", "embedding_l2", "oov_rate", "epochs", "batch_size"}
    if network != "lr":
        expected |= {"embedding_size"}
    if network not in SHALLOW:
        expected |= {"hidden", "dropout", "batch_norm"}
    expected |= {"dcn_v2": {"cross_layers"}, "final_mlp": {"fusion_heads"}}.get(network, set())
    assert varied == expected
    assert max(config["batch_size"] for config in drawn) == 256, "an epoch has ten batches"
    assert all(config["seed"] == base.seed for config in drawn)


@pytest.mark.long
def test_an_fnn_starts_from_the_same_fm_in_every_trial(prepared: Prepared, tmp_path: Path) -> None:
    """Its embedding size is then the FM's; another FM makes another search."""
    spec, data = tmp_path / "few.toml", tmp_path / "few.csv"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, ROWS)
    everything = prepare(spec, InputFiles([data]))
    shallow = TrainConfig.from_dict(BASE.to_dict() | {"network": "fm", "epochs": 1})
    fm = Bundle.open(run(everything, shallow, tmp_path / "bundles", progress=False))
    base = TrainConfig.from_dict(BASE.to_dict() | {"network": "fnn"})
    search = Search(prepared, tmp_path)
    found = search(4, base, WarmStart.read(fm, prepared.vocabulary, prepared.data["train"], base))
    sizes = {config["embedding_size"] for config, _ in search.outcomes()}  # type: ignore[index]
    assert (found.trials, sizes) == (4, {4})
    with pytest.raises(TuneError, match="study: "):
        search(4, base)


def refused(search: Search, words: str, **changed: Any) -> None:
    """Assert that a search is refused, and that its files are as they were."""
    before = [p.read_bytes() if p.exists() else None for p in (search.study, search.out)]
    with pytest.raises(TuneError, match=words):
        search(2, TrainConfig.from_dict(BASE.to_dict() | changed))
    assert before == [p.read_bytes() if p.exists() else None for p in (search.study, search.out)]


def test_files_of_others_are_left_alone(search: Search, prepared: Prepared, tmp_path: Path) -> None:
    """A settings file written by hand, a file of another kind, a study of other settings."""
    own = Search(prepared, tmp_path)
    own.out.write_text("epochs = 3\n")
    refused(own, r"out: .*found\.train\.toml was not written by tune")
    own.out.unlink()
    own.study.write_text("a note\n")
    refused(own, r"study: .* is no study file")
    refused(search, r"study: .* was made with other data or settings", epochs=3)


def test_without_both_labels_there_is_no_auc_to_search_for(tmp_path: Path) -> None:
    """The message names the setting that helps, and with it the search works."""
    spec, data = tmp_path / "few.toml", tmp_path / "few.csv"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, 100)
    header, *lines = data.read_text().splitlines()
    validation = tmp_path / "validation.csv"
    validation.write_text("\n".join([header, *(f"{x.rsplit(',', 1)[0]},0" for x in lines), ""]))
    parts = {"train": [data], "validation": [validation]}
    one_class = prepare(spec, InputFiles(parts=parts, wanted=("train", "validation")))  # type: ignore[arg-type]
    search = Search(one_class, tmp_path)
    with pytest.raises(TuneError, match="metric"):
        search(1)
    found = search(2, TrainConfig.from_dict(BASE.to_dict() | {"metric": "log_loss"}))
    assert found.value == min(value for _, value in search.outcomes() if value is not None)


def test_few_clicks_are_searched_by_log_loss(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the AUC cannot tell trials apart, the lowest log loss is best, and the file says so."""
    monkeypatch.setattr("model.training.evaluation.FEW", 100)
    search = Search(prepared, tmp_path)
    found = search(2)
    assert found.metric == "log_loss"
    assert found.value == min(value for _, value in search.outcomes() if value is not None)
    assert 'metric = "log_loss"' in search.out.read_text()


def test_the_command_tunes_and_train_takes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``tune`` prints its file's path; the file is a ``--config`` for ``train``."""
    from model.__main__ import main

    spec, data, base = tmp_path / "few.toml", tmp_path / "few.csv", tmp_path / "base.toml"
    spec.write_text(samples.SPEC, encoding="utf-8")
    samples.write_log(data, 300)
    base.write_text('network = "fm"\nbatch_size = 64\nepochs = 1\nthreads = 1\n')
    out = tmp_path / "new" / "found.train.toml"

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["python -m model", *map(str, words)])
        return main(), *capsys.readouterr()

    tuned = ["tune", spec, data, "--config", base, "--trials", "2", "--out", out]
    code, printed, told = command(*tuned)
    assert (code, printed) == (0, f"{out}\n")
    assert "best of 2 trials, 0 given up and 0 failed: trial " in told
    assert "to train on, 30 to validate)" in told
    assert (out.with_name("found.train.toml.study")).is_file()
    code, printed, _ = command("train", spec, data, "--config", out, "--out", tmp_path / "bundles")
    assert code == 0
    trained = Bundle.open(Path(printed.strip())).manifest.training["config"]
    assert trained == SettingsFile.read(out).config("fm", 300).to_dict()
    own = tmp_path / "own.toml"
    own.write_text("epochs = 3\n")
    code, _, told = command("tune", spec, data, "--config", base, "--out", own)
    assert (code, told.splitlines()[-1]) == (
        1,
        f"error: out: {own} was not written by tune; it is left as it is",
    )
