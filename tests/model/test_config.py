"""Training settings: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.config import FEW, MANY_ROWS, NETWORKS, OWN, ConfigError, SettingsFile, TrainConfig

SPECS = Path(__file__).parents[2] / "model" / "specs"


def test_settings_survive_a_round_trip() -> None:
    """The dictionary of ``to_dict`` builds the same settings again."""
    config = TrainConfig(hidden=(64, 32), dropout=0.5, epochs=3)
    assert TrainConfig.from_dict(config.to_dict()) == config


def settings(directory: Path, text: str) -> SettingsFile:
    """Read settings from a file with the given text."""
    path = directory / "train.toml"
    path.write_text(text)
    return SettingsFile.read(path)


def test_a_file_overrides_only_what_it_names(tmp_path: Path) -> None:
    """Keys that a file leaves out keep their defaults; integers serve where floats are due."""
    found = settings(tmp_path, "hidden = [64, 64]\nembedding_l2 = 1\n")
    assert found.config("deepfm", MANY_ROWS) == TrainConfig(hidden=(64, 64), embedding_l2=1.0)


def test_a_section_is_one_networks_own(tmp_path: Path) -> None:
    """A network's section overrides what the file says for all, and no other network sees it."""
    found = settings(tmp_path, "epochs = 3\n[ipnn]\nepochs = 5\n[fm]\nembedding_l2 = 0.5\n")
    assert found.config("ipnn", MANY_ROWS).epochs == 5
    assert found.config("opnn", MANY_ROWS).epochs == 3
    assert found.config("fm", MANY_ROWS).embedding_l2 == 0.5


def test_an_l2_for_all_spares_the_networks_without_hidden_layers(tmp_path: Path) -> None:
    """An L2 of deep networks would leave nothing of LR: only LR's own section changes it."""
    found = settings(tmp_path, "embedding_l2 = 0.1\nbatch_size = 64\n")
    assert found.config("deepfm", MANY_ROWS).embedding_l2 == 0.1
    for name in ("lr", "fm", "ffm"):
        assert found.config(name, MANY_ROWS).embedding_l2 == OWN[name]["embedding_l2"]
        assert found.config(name, MANY_ROWS).batch_size == 64


def test_the_settings_of_a_run_repeat_it(tmp_path: Path) -> None:
    """A file that names its network is for that one alone, so that every key of it counts."""
    config = SettingsFile().config("ffm", 100, embedding_l2=0.25, seed=3)
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.to_dict().items())
    found = settings(tmp_path, text)
    assert found.network == "ffm"
    assert found.config("ffm", MANY_ROWS) == config


def test_few_rows_have_defaults_of_their_own(tmp_path: Path) -> None:
    """Below ``MANY_ROWS`` the defaults are a small network's, unless the file says otherwise."""
    found = settings(tmp_path, "hidden = [32]\n")
    assert found.config("deepfm", MANY_ROWS).batch_size == TrainConfig().batch_size
    few = found.config("deepfm", MANY_ROWS - 1)
    assert (few.batch_size, few.hidden) == (FEW["batch_size"], (32,))


def test_without_a_file_beside_the_spec_the_defaults_hold(tmp_path: Path) -> None:
    """The file given wins over the one beside the spec; none at all is no mistake."""
    spec = tmp_path / "clicks.toml"
    assert SettingsFile.beside(spec, None) == SettingsFile()
    (tmp_path / "clicks.train.toml").write_text("epochs = 3\n")
    assert SettingsFile.beside(spec, None).config("lr", MANY_ROWS).epochs == 3
    (tmp_path / "other.toml").write_text("epochs = 4\n")
    assert SettingsFile.beside(spec, tmp_path / "other.toml").config("lr", MANY_ROWS).epochs == 4


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("drop_out = 0.1\n", r": drop_out: .* did you mean 'dropout'\?"),
        ("[deepfm]\ndrop_out = 0.1\n", r": \[deepfm\] drop_out: .* did you mean 'dropout'\?"),
        ("[deepfn]\ndropout = 0.1\n", r": \[deepfn\]: no network .* did you mean 'deepfm'\?"),
        ("[trainer]\nepochs = 1\n", r": \[trainer\]: no network has this name; sections: lr, fm,"),
        ("[lr]\nepochs = 0\n", r": \[lr\] epochs: must be 1 or more"),
        ("[lr]\nnetwork = 'fm'\n", r": \[lr\] network: a section is for the network of its name"),
        (
            "class_weight = 2\n",
            ": class_weight: no such setting; allowed: network, embedding_size,",
        ),
        ("epochs = '3'\n", ": epochs: must be an integer, got '3'"),
        ("batch_norm = 1\n", ": batch_norm: must be true or false, got 1"),
        ("network = 'deepfn'\n", ": network: must be one of lr, .* did you mean 'deepfm'"),
        ("epochs = 3\nhidden = [64,\n", ":2: not TOML: invalid value: hidden = "),
        ("label = 'click'\n[[fields]]\nname = 'user'\n", ": this is a feature spec"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    """A mistake anywhere in a file is found at once, whichever network is to be trained."""
    with pytest.raises(ConfigError, match=rf"train\.toml{complaint}"):
        settings(tmp_path, text)


def test_all_errors_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """Each once, those of a section with its name; a section does not repeat those for all."""
    text = (
        "epoch = 3\ndropout = 1.5\nhidden = [64, 0]\nmetric = 'accuracy'\nseed = 1.5\n"
        "[fm]\nlearning_rate = 0\ndropout = 2\n[nfm]\nepochs = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("/train.toml: 8 errors")
    assert lines == [
        "  epoch: no such setting; did you mean 'epochs'?",
        "  seed: must be an integer, got 1.5",
        "  metric: must be one of auc, log_loss, got 'accuracy'",
        "  hidden: needs one or more positive sizes, got [64, 0]",
        "  dropout: must be from 0 to below 1, got 1.5",
        "  [fm] dropout: must be from 0 to below 1, got 2.0",
        "  [fm] learning_rate: must be above 0, got 0.0",
        "  [nfm]: no network has this name; did you mean 'fm'?",
    ]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"click,user\n1,7\n", "x.csv is a data file; the file of training settings must be"),
        (b"PAR1\0\0", "x.csv is a Parquet file"),
        ("epochs = 3\n".encode("utf-16"), "x.csv is UTF-16; save the file of training settings"),
        (None, "x.csv: No such file or directory"),
    ],
)
def test_a_file_of_another_kind_is_named(
    tmp_path: Path, content: bytes | None, wanted: str
) -> None:
    """Data and binaries given with ``--config`` are told for what they are."""
    if content is not None:
        (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        SettingsFile.read(tmp_path / "x.csv")
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "deepfn"),
        ("metric", "accuracy"),
        ("embedding_size", 0),
        ("embedding_size", 16.0),
        ("embedding_size", True),
        ("hidden", []),
        ("hidden", [64, 0]),
        ("hidden", [64, 2.5]),
        ("hidden", 64),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", "0.1"),
        ("dropout", float("nan")),
        ("batch_norm", 1),
        ("init_std", -1.0),
        ("batch_size", 1),
        ("epochs", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("warmup", 1.0),
        ("embedding_l2", -1e-6),
        ("oov_rate", 1.5),
        ("negative_rate", 0.0),
        ("negative_rate", 1.5),
        ("evaluations_per_epoch", 0),
        ("patience", -1),
        ("seed", -1),
        ("threads", -1),
        ("device", "gpu"),
        ("device", 0),
    ],
)
def test_a_bad_value_is_refused_by_its_key(key: str, value: Any) -> None:
    """A value of the wrong type or out of range is an error whose message starts with the key."""
    with pytest.raises(ConfigError, match=rf"^{key}: "):
        TrainConfig.from_dict({key: value})


def test_zero_threads_means_the_cpu_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread count is the quota, not the host's cores; a given one is kept."""
    monkeypatch.setattr("model.threads.cpu_quota", lambda: 6)
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    assert TrainConfig().thread_count() == 6
    assert TrainConfig(threads=3).thread_count() == 3


def test_a_device_is_for_every_network_and_decides_no_weights(tmp_path: Path) -> None:
    """It goes over the file's, in sections too; a run is the same one on another device."""
    found = settings(tmp_path, 'device = "cpu"\n[fm]\nepochs = 3\ndevice = "cuda"\n')
    assert [found.config(name, MANY_ROWS).device for name in ("fm", "lr")] == ["cuda", "cpu"]
    assert found.on(None) is found
    chosen = found.on("auto")
    assert {chosen.config(name, MANY_ROWS).device for name in NETWORKS} == {"auto"}
    assert chosen.config("fm", MANY_ROWS).epochs == 3
    one, other = found.config("fm", MANY_ROWS), chosen.config("fm", MANY_ROWS)
    assert one != other
    assert one.deciding() == other.deciding()
    assert one.to_dict().keys() - one.deciding().keys() == {"device"}


@pytest.mark.parametrize("name", ["movielens-100k", "frappe", "criteo", "avazu"])
def test_the_shipped_settings_are_valid(name: str) -> None:
    """Every settings file beside a spec can be read."""
    assert SettingsFile.read(SPECS / f"{name}.train.toml").network == "deepfm"


ODD = ["true", "-1", "1180591620717411303424", "nan", '""', "[[]]", "{a = 1}", "2014-10-21"]


def test_any_value_of_any_setting_is_taken_or_told(tmp_path: Path) -> None:
    """Settings, or errors that name the file and the key."""
    for key in TrainConfig().to_dict():
        for value in ODD:
            try:
                found = settings(tmp_path, f"{key} = {value}\n")
            except ConfigError as error:
                message = str(error)
            else:
                assert found.config("fm", MANY_ROWS)
                continue
            assert message.startswith(f"{tmp_path}/train.toml: ")
            assert key in message
            assert len(message) < 600
