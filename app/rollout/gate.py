"""The gate: what a new bundle must show before it takes the place of another one by itself.

Its bounds are a TOML file that people write; what is compared are the figures of the manifests,
and the scores that both bundles give to the new one's golden requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from app.bundle.manifest import Manifest
from app.errors import GateError
from app.features.toml_files import parse_toml, read_toml_text
from app.rollout.golden_change import GoldenChange

WHAT = "gate"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Difference = Annotated[float, msgspec.Meta(ge=0)]
Ratio = Annotated[float, msgspec.Meta(gt=0)]
Range = tuple[Ratio, Ratio]
"""The least and the greatest ratio."""


class SameTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Most that may be lost where both bundles were measured on the same test data."""

    auc_lost: Difference = 0.0
    log_loss_added: Difference = 0.0


class OwnTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on the new bundle's figures of its test part, whatever its data."""

    min_auc: Share | None = None
    max_log_loss: Difference | None = None
    calibration: Range | None = None


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on what changes for the golden requests."""

    mean_score_ratio: Range | None = None
    max_changed_top: Share | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """A bundle's quality as its manifest has it, and the data that it was measured on."""

    name: str
    test: Mapping[str, Any]
    """The figures of the test part; ``None`` is one that its labels leave undefined."""
    data: Sequence[Mapping[str, Any]]
    split: object

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return a bundle's figures."""
        return cls.described(
            manifest.version, manifest.metrics, manifest.data, manifest.training.get("split")
        )

    @classmethod
    def described(
        cls, name: str, metrics: Mapping[str, Any], data: Sequence[Mapping[str, Any]], split: object
    ) -> Self:
        """Return the figures that a manifest with these members has."""
        return cls(name, metrics.get("test", {}), data, split)

    def measured_as(self, other: Figures) -> bool:
        """True if both test parts are the same rows: of the same files, cut off the same way."""
        own, others = self._test_data(), other._test_data()
        return bool(own) and own == others

    def _test_data(self) -> list[object]:
        files = [each["sha256"] for each in self.data if each["part"] == "test"]
        if files:
            return [sorted(files)]
        files = [each["sha256"] for each in self.data]
        return [files, self.split] if files else []


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds; a table that is absent asks for nothing."""

    same_test: SameTest | None = None
    test: OwnTest = OwnTest()
    golden: Golden | None = None

    @classmethod
    def load(cls, path: Path) -> Gate:
        """Read a file of bounds.

        Raises:
            TomlError: it cannot be read as TOML.
            GateError: a key or value is wrong; the message names it.
        """
        found = parse_toml(read_toml_text(path, WHAT), str(path), WHAT)
        if not found:
            raise GateError(f"{path}: the gate has no bounds; see docs/operations.md")
        try:
            gate = msgspec.convert(found, cls)
        except msgspec.ValidationError as error:
            raise GateError(f"{path}: {error}") from error
        for name, bounds in gate._ranges():
            if bounds[0] > bounds[1]:
                raise GateError(f"{path}: {name}: {bounds[0]:g} is above {bounds[1]:g}")
        return gate

    def _ranges(self) -> Iterator[tuple[str, Range]]:
        if self.test.calibration is not None:
            yield "test.calibration", self.test.calibration
        if self.golden is not None and self.golden.mean_score_ratio is not None:
            yield "golden.mean_score_ratio", self.golden.mean_score_ratio

    def figure_problems(self, new: Figures, used: Figures) -> list[str]:
        """The bounds that a bundle breaks by its figures beside those of the one in use."""
        problems = list(self._own_problems(new))
        if self.same_test is None:
            return problems
        if new.measured_as(used):
            return problems + list(_lost(self.same_test, new, used))
        if self.test.min_auc is None and self.test.max_log_loss is None:
            problems.append(
                f"its test data are not those of {used.name}, and the gate has no test.min_auc or"
                " test.max_log_loss for that"
            )
        return problems

    def _own_problems(self, new: Figures) -> Iterator[str]:
        bounds = self.test
        if bounds.min_auc is not None:
            auc = _figure(new, "auc")
            if not auc >= bounds.min_auc:
                yield f"its AUC is {auc:.4f}; test.min_auc is {bounds.min_auc:g}"
        if bounds.max_log_loss is not None:
            loss = _figure(new, "log_loss")
            if not loss <= bounds.max_log_loss:
                yield f"its log loss is {loss:.4f}; test.max_log_loss is {bounds.max_log_loss:g}"
        if bounds.calibration is not None:
            ratio = _figure(new, "calibration")
            if not _within(ratio, bounds.calibration):
                yield (
                    f"it predicts {ratio:.3f} of the observed clicks; test.calibration is"
                    f" {_shown(bounds.calibration)}"
                )

    def golden_problems(self, change: GoldenChange, used: str) -> list[str]:
        """The bounds that a bundle breaks by its scores of the golden requests."""
        problems, bounds = [], self.golden or Golden()
        if bounds.mean_score_ratio is not None and not _within(
            change.mean_score_ratio, bounds.mean_score_ratio
        ):
            problems.append(
                f"its mean score of the golden requests is {change.mean_score_ratio:.3f} times"
                f" that of {used}; golden.mean_score_ratio is {_shown(bounds.mean_score_ratio)}"
            )
        if bounds.max_changed_top is not None and not change.changed_top <= bounds.max_changed_top:
            problems.append(
                f"{change.changed_top:.0%} of the first {change.top} candidates of the golden"
                f" requests are others than with {used}; golden.max_changed_top is"
                f" {bounds.max_changed_top:g}"
            )
        return problems


def _lost(bounds: SameTest, new: Figures, used: Figures) -> Iterator[str]:
    lost = _figure(used, "auc") - _figure(new, "auc")
    # An AUC that the one in use does not have cannot be lost.
    if math.isfinite(_figure(used, "auc")) and not lost <= bounds.auc_lost:
        yield (
            f"it loses {lost:.4f} of the AUC of {used.name} on the same test data;"
            f" same_test.auc_lost is {bounds.auc_lost:g}"
        )
    added = _figure(new, "log_loss") - _figure(used, "log_loss")
    if math.isfinite(_figure(used, "log_loss")) and not added <= bounds.log_loss_added:
        yield (
            f"it adds {added:.4f} to the log loss of {used.name} on the same test data;"
            f" same_test.log_loss_added is {bounds.log_loss_added:g}"
        )


def _figure(figures: Figures, name: str) -> float:
    """A figure of the test part; not a number where its labels leave it undefined."""
    value = figures.test.get(name)
    return math.nan if value is None else float(value)


def _within(value: float, bounds: Range) -> bool:
    return bounds[0] <= value <= bounds[1]


def _shown(bounds: Range) -> str:
    return f"[{bounds[0]:g}, {bounds[1]:g}]"
