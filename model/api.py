"""The trainer in notebooks and programs: data frames in, bundles, scores and explanations out.

    from model.api import Bundle, train

    bundle = train("films.toml", frame, out="bundles")
    bundle.score(frame)
    bundle.explain({"user_id": 196, "item_id": 50})

Frames are polars', or anything that gives Arrow data (``__arrow_c_stream__``: pyarrow's tables,
pandas 2.2 or newer with pyarrow) or, as pandas without it, lists by column (``to_dict``). They are
written to a temporary Parquet file and read by the same code as every other file, so that a frame
trains and scores as a file with the same values does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import polars as pl

from app.bundle.bundle import Bundle as OpenedBundle
from app.bundle.directory import newest
from app.errors import CtrError
from app.explain.explanation import Explanation
from app.explain.players import Baseline
from app.features.spec import FeatureSpec as Spec
from model.config import Quantized, SettingsFile
from model.data.encode import encode
from model.data.input_files import InputFiles
from model.data.prepare import prepare
from model.data.reader import Reader
from model.explain_files import OfflineExplainer
from model.pipeline import run
from model.quality.offline_scoring import score_dataset
from model.score_files import Offline

__all__ = ["Bundle", "FrameError", "Spec", "train"]


class FrameError(CtrError):
    """An object that is no data frame."""


@runtime_checkable
class ArrowFrame(Protocol):
    """A table that gives Arrow data, by the Arrow PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a stream of the table's batches."""
        ...


@runtime_checkable
class ColumnFrame(Protocol):
    """A table that gives its columns as lists, as pandas' does."""

    def to_dict(self, orient: Any) -> Any:
        """Return the columns by name, for the orient "list"."""
        ...


_ABSENT = ("NAType", "NaTType")
"""Types of pandas' own values for nothing, beside NaN."""
Frame = pl.DataFrame | ArrowFrame | ColumnFrame


def train(
    spec: str | Path,
    frame: Frame,
    *,
    out: str | Path = "bundles",
    network: str | None = None,
    quantize: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Bundle:
    """Train a network on a frame, write its bundle below ``out`` and return it.

    Args:
        spec: a feature spec, a TOML file; its training settings are beside it, as for the command.
        frame: rows with the spec's columns, split as ``python -m model train`` splits a file.
        network: one of the networks' names; default: that of the settings, or deepfm.
        quantize: write an int8 graph too, if it loses next to nothing.
        settings: training settings that replace those of the file, such as ``epochs=3``.

    Raises:
        CtrError: the spec, the frame or a setting cannot be used; the message says what to do.
    """
    chosen = SettingsFile.beside(Path(spec), None)
    with _file_of(frame) as path:
        seed = settings.get("seed", 0)
        prepared = prepare(Path(spec), InputFiles([path], seed=seed), progress=progress)
        config = chosen.config(network or chosen.network, prepared.train_rows, **settings)
        quantized = Quantized.int8 if quantize else Quantized.none
        return Bundle.open(run(prepared, config, Path(out), progress, quantize=quantized))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that scores and explains, in float32, by the engine that serves."""

    opened: OpenedBundle
    """Its manifest, spec and vocabulary."""
    _offline: Offline
    _explainer: OfflineExplainer

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open and verify a bundle, or the newest one in a directory.

        Raises:
            BundleError: it cannot be used.
        """
        offline = Offline.open(newest(Path(path)))
        return cls(offline.bundle, offline, OfflineExplainer.of(offline.bundle))

    @property
    def version(self) -> str:
        """The name of the bundle, which is in every answer of a service."""
        return self.opened.version

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Its figures of the parts train, validation and test."""
        return self.opened.manifest.metrics

    def score(self, frame: Frame) -> pl.DataFrame:
        """Return ``logit`` (before calibration) and ``score`` of each row, in their order.

        Raises:
            DataError: a value breaks a rule of its field; the message names the row.
        """
        found = [pl.DataFrame(schema={"logit": pl.Float32, "score": pl.Float32})]
        spec, given = self.opened.spec, _frame_of(frame)
        if not given.height:
            return found[0]
        with _file_of(given) as path:
            for part in Reader(spec, [path], 0.0, label=False).frames():
                scores = score_dataset(
                    self._offline.engine, encode(spec, self._offline.encoder, part, label=False)
                )
                found.append(pl.DataFrame({"logit": scores.logit, "score": scores.score}))
        return pl.concat(found)

    def rank(self, context: Mapping[str, Any], candidates: Frame) -> pl.DataFrame:
        """Return the candidates with their ``logit`` and ``score``, best first; ties keep order.

        Args:
            context: raw values that all candidates share.
            candidates: a frame with a row for each.
        """
        listed = _frame_of(candidates)
        rows = listed.with_columns(pl.lit(value).alias(name) for name, value in context.items())
        found = pl.concat([listed, self.score(rows)], how="horizontal")
        return found.sort("logit", descending=True, maintain_order=True)

    def explain(self, row: Mapping[str, Any], baseline: Baseline = "mean") -> Explanation:
        """Explain a row of raw values, as ``/explain`` does.

        Raises:
            RowError: a value breaks a rule of its field, or a field is not in the spec.
            NotOffered: the bundle has no such baseline.
        """
        return self._explainer.row(row, baseline)


def _frame_of(frame: Frame) -> pl.DataFrame:
    """Return a frame as polars has it; NaN of a column without nulls of its own is null.

    Raises:
        FrameError: it is no frame.
        ImportError: it gives neither Arrow data without a package that is absent, nor lists.
    """
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, ArrowFrame):
        try:
            return pl.DataFrame(frame)
        except ImportError:
            # What pandas has of Arrow data needs pyarrow, which may not be there.
            if not isinstance(frame, ColumnFrame):
                raise
    if isinstance(frame, ColumnFrame):
        columns = frame.to_dict("list")
        whole = {name: [*map(_value_of, values)] for name, values in columns.items()}
        return pl.DataFrame(whole, strict=False)
    raise FrameError(
        f"expected a data frame of polars, pandas or Arrow, got {type(frame).__name__}"
    )


def _value_of(value: Any) -> Any:
    """Return a value of a list as polars takes it: None for what pandas has where nothing is."""
    absent = type(value).__name__ in _ABSENT or (isinstance(value, float) and math.isnan(value))
    return None if absent else value


@contextmanager
def _file_of(frame: Frame) -> Iterator[Path]:
    """Yield a Parquet file with the rows of a frame, which is there for as long as the block."""
    with TemporaryDirectory(prefix="ctr-") as directory:
        path = Path(directory) / "frame.parquet"
        _frame_of(frame).write_parquet(path)
        yield path
