"""The feature spec: a TOML file that describes the fields, for trainer and service."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from app.errors import SpecError

Side = Literal["context", "candidate"]
TimePart = Literal["hour", "weekday", "day", "month", "year"]
DataPart = Literal["train", "validation", "test"]
MAX_LIST_VALUES = 256
MAX_ROW_PAIRS = 256
"""Pairs of values that a cross of two lists may have in one row."""


class _Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    side: Side
    required: bool = False

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The index columns that this field fills."""
        return (self.name,)


class Categorical(_Field, frozen=True, kw_only=True, tag_field="kind", tag="categorical"):
    """One value of a vocabulary."""

    dtype: Literal["integer", "string"] = "string"
    min_count: Annotated[int, Meta(ge=1)] = 2
    empty_is_missing: bool = True


class MultiCategorical(
    _Field, frozen=True, kw_only=True, tag_field="kind", tag="multi_categorical"
):
    """A list of values of a vocabulary; text files hold them split by ``separator``."""

    dtype: Literal["integer", "string"] = "string"
    min_count: Annotated[int, Meta(ge=1)] = 2
    empty_is_missing: bool = True
    separator: Annotated[str, Meta(min_length=1)] = "|"
    max_values: Annotated[int, Meta(ge=1, le=MAX_LIST_VALUES)] = 16


class Numeric(_Field, frozen=True, kw_only=True, tag_field="kind", tag="numeric"):
    """A number that falls into one of several buckets, or is ``scaled``."""

    encoding: Literal["quantile", "log_squared", "edges", "scaled"] = "quantile"
    buckets: Annotated[int, Meta(ge=2, le=65_536)] = 64
    edges: tuple[float, ...] = ()
    min_count: Annotated[int, Meta(ge=1)] = 2


class Time(_Field, frozen=True, kw_only=True, tag_field="kind", tag="time"):
    """A moment, of which parts of the local date and hour become categorical values.

    ``format`` (in strptime's letters) is for text that is neither seconds since 1970 nor ISO 8601.
    """

    parts: Annotated[tuple[TimePart, ...], Meta(min_length=1)]
    timezone: str = "UTC"
    format: str | None = None

    @property
    def slot_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{part}" for part in self.parts)


Field = Categorical | MultiCategorical | Numeric | Time


def is_scaled(field: Field) -> bool:
    """Tell whether a field's embedding is multiplied by its value."""
    return isinstance(field, Numeric) and field.encoding == "scaled"


class Cross(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two fields whose pairs of values have weights; a part of a time is written ``time.hour``."""

    fields: tuple[str, str]
    min_count: Annotated[int, Meta(ge=1)] = 2

    @property
    def name(self) -> str:
        """The name of the cross in messages."""
        return " x ".join(self.fields)


class Negatives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of the rows without a click that files hold, where they do not hold all."""

    kept: Annotated[float, Meta(gt=0, le=1)]
    parts: Annotated[tuple[DataPart, ...], Meta(min_length=1)] = ("train", "validation", "test")
    """Parts of the data that hold this share; the others hold all rows."""


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The columns of the data, and how their values become indices.

    ``columns`` names the columns of files without a header; ``delimiter`` overrides the one that
    a file's ending suggests. ``crosses`` are for networks with weights of pairs.
    """

    label: Annotated[str, Meta(min_length=1)]
    fields: Annotated[tuple[Field, ...], Meta(min_length=1)]
    timestamp: str | None = None
    timestamp_format: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] | None = None
    crosses: tuple[Cross, ...] = ()
    negatives: Negatives | None = None

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        """Read and check a TOML file.

        Raises:
            SpecError: the file is absent, not TOML, or breaks a rule; the message names
                the field and the key.
        """
        return cls.parse(cls.read(path))

    @staticmethod
    def read(path: Path) -> str:
        """Return a spec file's text.

        Raises:
            SpecError: it is absent or not UTF-8.
        """
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(f"cannot read feature spec {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SpecError(f"feature spec {path} is not UTF-8: {error.reason}") from error

    @classmethod
    def parse(cls, text: str) -> FeatureSpec:
        """Like :meth:`load`, from the file's text."""
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"feature spec is not TOML: {error}") from error
        try:
            spec = msgspec.convert(raw, cls)
        except msgspec.ValidationError as error:
            raise SpecError(_explain(str(error), raw)) from error
        _check(spec)
        return spec

    def side(self, side: Side) -> Iterator[Field]:
        """Yield the fields of one side, in the order of the spec."""
        return (field for field in self.fields if field.side == side)

    def kept(self, part: DataPart) -> float:
        """Return the share of all rows without a click that a part of the data holds."""
        if self.negatives is None or part not in self.negatives.parts:
            return 1.0
        return self.negatives.kept


def _explain(message: str, raw: dict[str, Any]) -> str:
    """Name the field or the cross instead of its number, and the nearest known key."""
    if found := re.search(r"unknown field `(.+?)`", message):
        known = {name for kind in (FeatureSpec, Categorical, MultiCategorical, Numeric, Time, Cross,
                 Negatives)
                 for name in kind.__struct_fields__}  # fmt: skip
        if near := get_close_matches(found[1], known, 1):
            message += f"; did you mean `{near[0]}`?"
    if found := re.search(r"\$\.fields\[(\d+)\]", message):
        entries = raw["fields"]
        entry = entries[int(found[1])] if isinstance(entries, list) else None
        if isinstance(entry, dict) and "name" in entry:
            message = message.replace(found[0], f"field {entry['name']!r}")
    if found := re.search(r"\$\.crosses\[(\d+)\]", message):
        entries = raw["crosses"]
        entry = entries[int(found[1])] if isinstance(entries, list) else None
        if isinstance(entry, dict) and isinstance(entry.get("fields"), list):
            name = " x ".join(map(str, entry["fields"]))
            message = message.replace(found[0], f"cross {name!r}")
    return f"feature spec: {message}"


def _check(spec: FeatureSpec) -> None:
    names = [field.name for field in spec.fields]
    for name in [*names, spec.label, spec.timestamp or "", *(spec.columns or ())]:
        if "\0" in name:
            raise SpecError(f"feature spec: the name {name!r} must not have the character NUL")
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"feature spec: field {name!r} is given more than once")
    if spec.label in names:
        raise SpecError(f"feature spec: the label {spec.label!r} must not be a field too")
    for side in ("context", "candidate"):
        if not any(field.side == side for field in spec.fields):
            raise SpecError(f"feature spec: no field has side = {side!r}; each side needs one")
    if spec.timestamp_format is not None:
        if spec.timestamp is None:
            raise SpecError("feature spec: `timestamp_format` needs `timestamp`")
        _check_format(spec.timestamp_format, "feature spec: `timestamp_format`")
    if spec.columns is not None:
        wanted = [*names, spec.label, *filter(None, [spec.timestamp])]
        for name in wanted:
            if name not in spec.columns:
                raise SpecError(f"feature spec: {name!r} is not among `columns`")
    for field in spec.fields:
        if isinstance(field, Numeric):
            _check_numeric(field)
        elif isinstance(field, Time):
            _check_time(field)
    slots = [slot for field in spec.fields for slot in field.slot_names]
    for slot in slots:
        if slots.count(slot) > 1:
            raise SpecError(
                f"feature spec: a field and a part of a time have the same name {slot!r}"
            )
    _check_crosses(spec, slots)


def _check_crosses(spec: FeatureSpec, slots: list[str]) -> None:
    by_name = {field.name: field for field in spec.fields}
    seen: set[frozenset[str]] = set()
    for cross in spec.crosses:
        where = f"feature spec: cross {cross.name!r}:"
        for name in cross.fields:
            field = by_name.get(name)
            if field is not None and is_scaled(field):
                raise SpecError(f"{where} {name!r} is scaled, and scaled fields cannot be crossed")
            if name in slots:
                continue
            if field is not None:
                parts = ", ".join(map(repr, field.slot_names))
                raise SpecError(f"{where} {name!r} is a time; name one of its parts: {parts}")
            near = get_close_matches(name, slots, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"{where} there is no field {name!r}{hint}")
        pair = frozenset(cross.fields)
        if len(pair) == 1:
            raise SpecError(f"{where} a field cannot be crossed with itself")
        if pair in seen:
            raise SpecError(f"{where} this cross is given more than once")
        seen.add(pair)
        lists = [by_name.get(name) for name in cross.fields]
        places = prod(field.max_values for field in lists if isinstance(field, MultiCategorical))
        if places > MAX_ROW_PAIRS:
            raise SpecError(
                f"{where} its lists make up to {places:,} pairs in a row, but at most"
                f" {MAX_ROW_PAIRS} are allowed; lower their `max_values`"
            )


def _check_numeric(field: Numeric) -> None:
    where = f"feature spec: field {field.name!r}:"
    if (field.encoding == "edges") != bool(field.edges):
        raise SpecError(
            f'{where} `edges` is needed with encoding = "edges", and allowed only there'
        )
    for low, high in pairwise(field.edges):
        if not low < high:
            raise SpecError(f"{where} `edges` must increase, but {low} is before {high}")
    if any(not abs(edge) < 3.4e38 for edge in field.edges):
        raise SpecError(f"{where} `edges` must be finite float32 numbers")


def _check_time(field: Time) -> None:
    where = f"feature spec: field {field.name!r}:"
    if len(set(field.parts)) != len(field.parts):
        raise SpecError(f"{where} a part is given twice")
    try:
        ZoneInfo(field.timezone)
    except (ValueError, OSError, KeyError) as error:
        raise SpecError(f"{where} unknown timezone {field.timezone!r}") from error
    if field.format is not None:
        _check_format(field.format, f"{where} `format`")


def _check_format(text: str, where: str) -> None:
    if "Z" in re.findall("%(.)", text):
        raise SpecError(
            f"{where} has `%Z`, but names of time zones cannot be read; use `%z` for offsets such"
            " as +0200, or write the name as text and give `timezone`"
        )
    moment = datetime(2014, 10, 21, 13, tzinfo=UTC)
    try:
        if datetime.strptime(moment.strftime(text), text).year != 2014:
            raise ValueError("it has no year")
    except ValueError as error:
        raise SpecError(f"{where} cannot be read back: {error}") from error
