"""Training settings: what is accepted, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model.config import ConfigError, TrainConfig

SPECS = Path(__file__).parents[2] / "model" / "specs"


def test_settings_survive_a_round_trip() -> None:
    """What ``to_dict`` returns builds the same settings again."""
    config = TrainConfig(hidden=(64, 32), dropout=0.5, epochs=3)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_file_overrides_only_what_it_names(tmp_path: Path) -> None:
    """Keys that a file leaves out keep their defaults; integers serve where floats are due."""
    path = tmp_path / "train.toml"
    path.write_text("hidden = [64, 64]\nembedding_l2 = 1\n")
    assert TrainConfig.from_toml(path) == TrainConfig(hidden=(64, 64), embedding_l2=1.0)


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    """A misspelt key is an error that names the file, the key and what it may have meant."""
    path = tmp_path / "train.toml"
    path.write_text("drop_out = 0.1\n")
    with pytest.raises(ConfigError, match=r"train\.toml: drop_out: .* did you mean dropout\?"):
        TrainConfig.from_toml(path)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    """Broken TOML is the same kind of error as a broken setting."""
    path = tmp_path / "train.toml"
    path.write_text("hidden = [64,\n")
    with pytest.raises(ConfigError, match=r"train\.toml"):
        TrainConfig.from_toml(path)


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
        ("evaluations_per_epoch", 0),
        ("patience", -1),
        ("seed", -1),
        ("threads", -1),
    ],
)
def test_a_bad_value_is_refused_by_its_key(key: str, value: Any) -> None:
    """A value of the wrong type or out of range is an error whose message starts with the key."""
    with pytest.raises(ConfigError, match=rf"^{key}: "):
        TrainConfig.from_dict({key: value})


def test_zero_threads_means_every_core_allowed() -> None:
    """The thread count is never zero, and a given one is kept."""
    assert TrainConfig().thread_count() >= 1
    assert TrainConfig(threads=3).thread_count() == 3


@pytest.mark.parametrize("name", ["movielens-100k", "frappe", "criteo", "avazu"])
def test_the_shipped_settings_are_valid(name: str) -> None:
    """Every settings file beside a spec can be read."""
    assert TrainConfig.from_toml(SPECS / f"{name}.train.toml").network == "deepfm"
