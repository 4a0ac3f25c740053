"""Training settings: one frozen value, read from TOML and checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from app.errors import CtrError
from app.features.nearest import suggestion
from app.features.toml_files import TomlError, listed, parse_toml, read_toml_text
from model.threads import allowed, own_cpus

NETWORKS = (
    "lr",
    "fm",
    "ffm",
    "fnn",
    "ipnn",
    "opnn",
    "pnn_star",
    "wide_deep",
    "deepfm",
    "dcn_v2",
    "final_mlp",
    "fibinet",
    "din",
)

SHALLOW = ("lr", "fm", "ffm")
"""Networks without hidden layers."""

Metric = Literal["auc", "log_loss"]
PRECISIONS = ("float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
CALIBRATIONS = ("none", "platt", "isotonic")


class Quantized(StrEnum):
    """The graph that an export writes beside the float32 one."""

    none = "none"
    int8 = "int8"
    """If the validation part shows that it loses next to nothing."""
    int8_unmeasured = "int8-unmeasured"
    """Also if the validation part cannot tell what it loses."""


MANY_ROWS = 30_000
FEW: Mapping[str, Any] = {
    "embedding_size": 8,
    "hidden": (64, 64),
    "dropout": 0.4,
    "embedding_l2": 0.2,
    "batch_size": 256,
    "learning_rate": 0.001,
    "epochs": 6,
}
"""Defaults for fewer than ``MANY_ROWS`` training rows: a small network under a strong L2."""
OWN: Mapping[str, Mapping[str, Any]] = {
    "lr": {"embedding_l2": 1e-5, "learning_rate": 0.02},
    "fm": {"embedding_l2": 1e-5, "learning_rate": 0.02},
    "ffm": {"embedding_l2": 1e-5, "learning_rate": 0.02, "embedding_size": 4},
    "fnn": {"embedding_l2": 3e-4},
}
"""Defaults of single networks, which settings for all networks do not change: an L2 that suits deep
networks would shrink the table of an FM, from which an FNN starts, to nothing."""


class ConfigError(CtrError):
    """Training settings that cannot be used; the message has a line for each one at fault."""

    def __init__(self, *problems: str, file: Path | None = None) -> None:
        self.problems = problems
        super().__init__(listed(problems, str(file) if file else ""))


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """All settings that decide a training run, beside its data.

    The defaults here suit a deep network and some 10^5 rows; ``SettingsFile`` has those of other
    networks and sizes. ``embedding_l2`` depends on the data most: .003 to .1
    for small vocabularies and several epochs, 0 and a single epoch for huge sparse ones.
    ``oov_rate`` trains the rows of OOV; 0 suits data whose values are nearly all known in serving.
    """

    network: str = "deepfm"
    embedding_size: int = 16
    hidden: tuple[int, ...] = (256, 128)
    """Units of each hidden layer; as ``dropout`` and ``batch_norm``, of networks that have any."""
    dropout: float = 0.2
    """Share of hidden units dropped, in steps of 1/256."""
    batch_norm: bool = True
    """Normalise pre-activations; folded into the linear layers at export."""
    init_std: float = 0.01
    """Standard deviation of a new embedding; first-order weights start at zero."""
    cross_layers: int = 2
    """Cross layers, of DCN v2; as the two that follow."""
    cross_rank: int = 0
    """Rank of the cross layers' matrices; 0 is full rank."""
    cross_stacked: bool = False
    """Put the hidden layers on the cross layers' output, and not beside them."""
    fusion_heads: int = 1
    """Parts of the last hidden layer that are fused each by itself, of FinalMLP."""

    batch_size: int = 2048
    epochs: int = 10
    learning_rate: float = 0.003
    """Peak step of Adam, for the table and the dense part alike."""
    warmup: float = 0.1
    """Share of all steps over which the rate rises to its peak; it then falls linearly to zero."""
    embedding_l2: float = 0.03
    """Lambda of lambda/2 ||table||^2 beside the mean log loss, as if on the whole table."""
    oov_rate: float = 0.02
    """Share of single-valued indices that training replaces by their slot's OOV index."""
    negative_rate: float = 1.0
    """Share of the rows without a click that an epoch trains on, drawn again for each."""

    evaluations_per_epoch: int = 2
    patience: int = 8
    """Evaluations in a row without improvement after which training stops; 0 never stops."""
    metric: Metric = "auc"
    """The figure on the validation rows by which the best weights are chosen."""

    calibration: str = "none"
    """The calibration of the exported score on the validation part; the logit does not change."""

    precision: str = "float32"
    """Precision of the hidden layers' matrix products in training; bfloat16 is faster where the
    processor has instructions for it. Weights, sums and all scores are float32 with either."""
    device: str = "auto"
    """The processor of the training steps: auto takes a GPU with CUDA where there is one."""

    seed: int = 1
    threads: int = 0
    """Threads of a training step; 0 takes the CPUs that this process may use."""

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(*problems)

    def _problems(self) -> Iterator[str]:
        yield from _one_of("network", self.network, NETWORKS)
        yield from _one_of("metric", self.metric, ("auc", "log_loss"))
        yield from _one_of("calibration", self.calibration, CALIBRATIONS)
        yield from _one_of("precision", self.precision, PRECISIONS)
        yield from _one_of("device", self.device, DEVICES)
        yield from _at_least("embedding_size", self.embedding_size, 1)
        if not self.hidden or min(self.hidden) < 1:
            yield f"hidden: needs one or more positive sizes, got {list(self.hidden)!r}"
        elif self.fusion_heads < 1 or (
            self.network == "final_mlp" and self.hidden[-1] % self.fusion_heads
        ):
            yield (
                f"fusion_heads: must divide the last hidden layer's {self.hidden[-1]} units,"
                f" got {self.fusion_heads!r}"
            )
        yield from _at_least("cross_layers", self.cross_layers, 1)
        yield from _at_least("cross_rank", self.cross_rank, 0)
        yield from _at_least("batch_size", self.batch_size, 2 if self.batch_norm else 1)
        yield from _at_least("epochs", self.epochs, 1)
        yield from _at_least("evaluations_per_epoch", self.evaluations_per_epoch, 1)
        yield from _at_least("patience", self.patience, 0)
        yield from _at_least("seed", self.seed, 0)
        yield from _at_least("threads", self.threads, 0)
        yield from _at_least("embedding_l2", self.embedding_l2, 0.0)
        yield from _at_least("init_std", self.init_std, 0.0)
        yield from _share("dropout", self.dropout)
        yield from _share("warmup", self.warmup)
        yield from _share("oov_rate", self.oov_rate)
        if not 0 < self.negative_rate <= 1:
            yield f"negative_rate: must be above 0 and at most 1, got {self.negative_rate!r}"
        if not 0 < self.learning_rate < math.inf:
            yield f"learning_rate: must be above 0, got {self.learning_rate!r}"

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Build settings from plain values, such as ``to_dict`` returns.

        Raises:
            ConfigError: some are unknown, of the wrong type or out of range.
        """
        defaults = {field.name: field.default for field in fields(cls)}
        typed: dict[str, Any] = {}
        problems: list[str] = []
        for key, value in settings.items():
            try:
                typed[key] = _typed(key, value, defaults)
            except ConfigError as error:
                problems += error.problems
        try:
            config = cls(**typed)
        except ConfigError as error:
            raise ConfigError(*problems, *error.problems) from error
        if problems:
            raise ConfigError(*problems)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON and TOML can hold."""
        return asdict(self) | {"hidden": list(self.hidden)}

    def deciding(self) -> dict[str, Any]:
        """Return the settings that decide the weights, up to rounding: all but the device."""
        return {key: value for key, value in self.to_dict().items() if key != "device"}

    def thread_count(self) -> int:
        """Return the threads to train with, never 0: a share for each process on this machine."""
        return allowed(self.threads or own_cpus())


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A settings file: keys for all networks, and a section for each that differs.

    Settings that it leaves out have the defaults of the network and of the number of training
    rows. Keys of ``OWN`` are changed by the network's section alone, or by a file whose
    ``network`` it is: an L2 that suits deep networks would leave nothing of a linear one.
    """

    shared: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a TOML file.

        Raises:
            ConfigError: it is not TOML, or some of its keys, for any network, are wrong.
        """
        what = "file of training settings"
        try:
            table = parse_toml(read_toml_text(path, what), str(path), what)
        except TomlError as error:
            raise ConfigError(str(error)) from error
        if table.keys() & {"label", "fields"}:
            raise ConfigError(
                "this is a feature spec, not training settings; it is the command's first file",
                file=path,
            )
        sections = {key: value for key, value in table.items() if isinstance(value, dict)}
        shared = {key: value for key, value in table.items() if key not in sections}
        settings = cls(shared, sections)
        if problems := settings._problems():
            raise ConfigError(*problems, file=path)
        return settings

    def _problems(self) -> list[str]:
        """Return what is wrong with the keys for all networks, then with those of each section."""
        found = problems = _problems_of(self.shared)
        for name, section in self.sections.items():
            if name not in NETWORKS:
                hint = suggestion(name, NETWORKS) or f"; sections: {', '.join(NETWORKS)}"
                found = [*found, f"[{name}]: no network has this name{hint}"]
                continue
            own = _problems_of({**self.shared, **section})
            found = [*found, *(f"[{name}] {each}" for each in own if each not in problems)]
            if "network" in section:
                found = [*found, f"[{name}] network: a section is for the network of its name"]
        return found

    @classmethod
    def beside(cls, spec: Path, given: Path | None) -> Self:
        """Read the file given, or else ``<spec>.train.toml`` beside the spec if there is one."""
        path = settings_path(spec, given)
        return cls.read(path) if given is not None or path.is_file() else cls()

    def on(self, device: str | None) -> Self:
        """Return them with a device for every network, or as they are for None."""
        if device is None:
            return self
        given = {"device": device}
        sections = {name: {**section, **given} for name, section in self.sections.items()}
        return replace(self, shared={**self.shared, **given}, sections=sections)

    @property
    def network(self) -> str:
        """The network that the file names, DeepFM if it names none."""
        return str(self.shared.get("network", "deepfm"))

    def config(self, network: str, rows: int, **overrides: Any) -> TrainConfig:
        """Return the settings of a run over ``rows`` training rows.

        Raises:
            ConfigError: the network is unknown, or a setting is wrong; the message names it.
        """
        if network not in NETWORKS:
            raise ConfigError(*_one_of("network", network, NETWORKS))
        few = FEW if rows < MANY_ROWS else {}
        own, shared = OWN.get(network, {}), self.shared
        general = {**own, **shared} if shared.get("network") == network else {**shared, **own}
        section = self.sections.get(network, {})
        return TrainConfig.from_dict({**few, **general, **section, **overrides, "network": network})


def settings_path(spec: Path, given: Path | None) -> Path:
    """Return the settings file that is given, or the one that may lie beside the spec."""
    return given or spec.with_name(f"{spec.stem}.train.toml")


def _problems_of(settings: Mapping[str, Any]) -> list[str]:
    try:
        TrainConfig.from_dict(settings)
    except ConfigError as error:
        return list(error.problems)
    return []


def _typed(key: str, value: object, defaults: Mapping[str, object]) -> object:
    """Return ``value`` as the type of the key's default.

    Raises:
        ConfigError: there is no such key, or its type is another.
    """
    if key not in defaults:
        hint = suggestion(key, defaults) or f"; allowed: {', '.join(defaults)}"
        raise ConfigError(f"{key}: no such setting{hint}")
    default = defaults[key]
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(type(size) is int for size in value):
            return tuple(value)
        raise ConfigError(f"{key}: must be a list of integers, got {value!r}")
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{key}: must be {_TYPES[type(default)]}, got {value!r}")
    return value


_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def _one_of(key: str, value: str, known: tuple[str, ...]) -> Iterator[str]:
    if value not in known:
        hint = suggestion(value, known)
        yield f"{key}: must be one of {', '.join(known)}, got {value!r}{hint}"


def _at_least(key: str, value: float, least: float) -> Iterator[str]:
    if not least <= value < math.inf:
        yield f"{key}: must be {least} or more, got {value!r}"


def _share(key: str, value: float) -> Iterator[str]:
    if not 0 <= value < 1:
        yield f"{key}: must be from 0 to below 1, got {value!r}"
