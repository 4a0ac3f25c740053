"""The feature spec: a TOML file that describes the fields, for trainer and service."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from app.errors import SpecError
from app.features.nearest import suggestion
from app.features.spec_rules import (
    FIELD_RULES,
    attends_problems,
    delimiter_problem,
    format_problem,
    serve_problem,
)
from app.features.spec_tables import SpecTables, shown
from app.features.toml_files import TomlError, listed, parse_toml, read_toml_text

Side = Literal["context", "candidate"]
Dtype = Literal["integer", "string", "boolean"]
TimePart = Literal["hour", "weekday", "day", "month", "year"]
DataPart = Literal["train", "validation", "test"]
WHAT = "feature spec"
MAX_LIST_VALUES = 256
MAX_ROW_PAIRS = 256
"""Pairs of values that a cross of two lists may have in one row."""


class _Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    side: Side
    required: bool = False
    null_values: tuple[str, ...] | None = None
    """Texts that count as missing; None stands for those of the whole spec."""
    dynamic: bool = False
    """The value depends on the moment: it comes with a request, and a stored one is not used."""

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The index columns that this field fills."""
        return (self.name,)


class Categorical(_Field, frozen=True, kw_only=True, tag_field="kind", tag="categorical"):
    """One value of a vocabulary."""

    dtype: Dtype = "string"
    min_count: Annotated[int, Meta(ge=1)] = 2
    empty_is_missing: bool = True
    serve: bool | int | float | str | None = None
    """The value that every request has, whatever it says: the field is known in training only."""


class MultiCategorical(
    _Field, frozen=True, kw_only=True, tag_field="kind", tag="multi_categorical"
):
    """A list of values of a vocabulary; text files hold them split by ``separator``."""

    dtype: Dtype = "string"
    min_count: Annotated[int, Meta(ge=1)] = 2
    empty_is_missing: bool = True
    separator: Annotated[str, Meta(min_length=1)] = "|"
    max_values: Annotated[int, Meta(ge=1, le=MAX_LIST_VALUES)] = 16
    attends: Annotated[str, Meta(min_length=1)] | None = None
    """The candidate's field whose vocabulary and embeddings its values have."""
    ages: str | None = None
    """The list that has the ages of its values, place by place."""


class Numeric(_Field, frozen=True, kw_only=True, tag_field="kind", tag="numeric"):
    """A number that falls into one of several buckets, or is ``scaled``."""

    encoding: Literal["quantile", "log_squared", "edges", "scaled"] = "quantile"
    buckets: Annotated[int, Meta(ge=2, le=65_536)] = 64
    edges: tuple[float, ...] = ()
    min_count: Annotated[int, Meta(ge=1)] = 2
    serve: bool | int | float | str | None = None
    """As of a categorical field."""


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
KINDS: Mapping[str, type[Field]] = {
    "categorical": Categorical,
    "multi_categorical": MultiCategorical,
    "numeric": Numeric,
    "time": Time,
}


def served_value(field: Field) -> bool | int | float | str | None:
    """Return the value that every request has of a field; None if it is the request's own."""
    return field.serve if isinstance(field, Categorical | Numeric) else None


def attended(field: Field) -> str | None:
    """Return the name of the field whose vocabulary a list has, if it is another's."""
    return field.attends if isinstance(field, MultiCategorical) else None


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
    a file's ending suggests. ``null_values`` are texts that count as missing in every field that
    names none of its own. ``crosses`` are for networks with weights of pairs. ``weight`` is the
    column with the weight of a row, in the loss of training and in figures.
    """

    label: Annotated[str, Meta(min_length=1)]
    fields: Annotated[tuple[Field, ...], Meta(min_length=1)]
    timestamp: str | None = None
    timestamp_format: str | None = None
    columns: tuple[str, ...] | None = None
    delimiter: Annotated[str, Meta(min_length=1)] | None = None
    null_values: tuple[str, ...] = ()
    crosses: tuple[Cross, ...] = ()
    negatives: Negatives | None = None
    weight: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if self.null_values:
            fields = tuple(
                msgspec.structs.replace(field, null_values=self.null_values)
                if field.null_values is None
                else field
                for field in self.fields
            )
            msgspec.structs.force_setattr(self, "fields", fields)

    @classmethod
    def load(cls, path: Path) -> FeatureSpec:
        """Read and check a TOML file.

        Raises:
            SpecError: the file is absent, not TOML, or breaks rules; the message names every
                field and key at fault.
        """
        return cls.parse(cls.read(path), path.name)

    @staticmethod
    def read(path: Path) -> str:
        """Return a spec file's text.

        Raises:
            SpecError: it is absent, of another kind, or not UTF-8.
        """
        try:
            return read_toml_text(path, WHAT)
        except TomlError as error:
            raise SpecError(str(error)) from error

    @classmethod
    def parse(cls, text: str, name: str = WHAT) -> FeatureSpec:
        """Like :meth:`load`, from the file's text; ``name`` stands for the file in messages."""
        try:
            table = parse_toml(text, name, WHAT)
        except TomlError as error:
            raise SpecError(str(error)) from error
        if not table.keys() & {"label", "fields"}:
            raise SpecError(
                f"{name}: `label` and `[[fields]]` are missing, so this is no feature spec; a file"
                " of training settings is given with --config"
            )
        tables = SpecTables()
        read = _read(table, tables)
        if tables.errors:
            raise SpecError(listed(tables.errors, name))
        return cls(**read)

    def side(self, side: Side) -> Iterator[Field]:
        """Yield the fields of one side, in the order of the spec."""
        return (field for field in self.fields if field.side == side)

    def kept(self, part: DataPart) -> float:
        """Return the share of all rows without a click that a part of the data holds."""
        if self.negatives is None or part not in self.negatives.parts:
            return 1.0
        return self.negatives.kept


def _read(table: Mapping[str, Any], tables: SpecTables) -> dict[str, Any]:
    """Return the values of a spec's keys; ``tables`` notes the errors."""
    # Fields with an error, "" for one without a name: sides and crosses are judged without them.
    unread: set[str] = set()
    read = tables.read(
        FeatureSpec,
        table,
        rules={"timestamp_format": format_problem, "delimiter": delimiter_problem},
        inner={
            "fields": lambda entries: _read_fields(entries, tables, unread),
            "crosses": lambda entries: _read_crosses(entries, tables),
            "negatives": lambda entry: _read_negatives(entry, tables),
        },
        elsewhere=lambda key: "; it belongs into a [[fields]] table" if _kinds_with(key) else None,
    )
    _check_names(read, unread, tables)
    _check_crosses(read, unread, tables)
    for name, problem in attends_problems(read.get("fields", ()), unread):
        tables.add(f"field {name!r}", problem)
    return read


def _kinds_with(key: str) -> list[str]:
    """Return the kinds of field that have a key."""
    return [tag for tag, kind in KINDS.items() if key in kind.__struct_fields__]


def _read_fields(entries: object, tables: SpecTables, unread: set[str]) -> tuple[Field, ...]:
    found: list[Field] = []
    before = len(tables.errors)
    listed = tables.entries("fields", entries)
    if entries == []:
        tables.add("", "`fields` is empty; each side needs one")
    if len(tables.errors) > before:
        # Sides without a field, and crosses of unknown fields, follow from this one.
        unread.add("")
    for number, entry in enumerate(listed, 1):
        name = entry.get("name")
        place = f"field {name!r}" if name and isinstance(name, str) else f"field {number}"
        before = len(tables.errors)
        values = _read_field(entry, place, tables)
        if len(tables.errors) == before:
            found.append(KINDS[entry["kind"]](**values))
        else:
            unread.add(name if isinstance(name, str) else "")
    return tuple(found)


def _read_field(entry: Mapping[str, Any], place: str, tables: SpecTables) -> dict[str, Any]:
    tag = entry.get("kind")
    kind = KINDS.get(tag) if isinstance(tag, str) else None
    if kind is None:
        allowed = f"one of {', '.join(map(repr, KINDS))}"
        near = suggestion(tag, KINDS) if isinstance(tag, str) else ""
        if tag is None:
            tables.add(place, f"`kind` is missing; it is {allowed}")
        else:
            tables.add(place, f"`kind` must be {allowed}, got {shown(tag)}{near}")
        common = {key: entry[key] for key in _Field.__struct_fields__ if key in entry}
        return tables.read(_Field, common, place)

    def elsewhere(key: str) -> str | None:
        if key in FeatureSpec.__struct_fields__:
            return "; it belongs above the first [[fields]]"
        if having := _kinds_with(key):
            return f"; fields of kind {' or '.join(map(repr, having))} have it, not {tag!r}"
        return None

    values = tables.read(kind, entry, place, FIELD_RULES, elsewhere=elsewhere)
    if values.get("dynamic"):
        if values.get("side") == "context":
            tables.add(place, '`dynamic` is for fields with side = "candidate"')
        if values.get("required"):
            tables.add(place, "`dynamic` excludes `required`: no stored item has a value")
    if values.get("attends") and "min_count" in entry:
        tables.add(place, "`min_count` is that of the field which it attends to")
    if (problem := serve_problem(values, kind is Numeric)) is not None:
        tables.add(place, problem)
    # Judged where both are right, or absent.
    judged = kind is Numeric and not (entry.keys() - values.keys()) & {"encoding", "edges"}
    if judged and (values.get("encoding") == "edges") != bool(values.get("edges")):
        tables.add(place, '`edges` is needed with encoding = "edges", and allowed only there')
    return values


def _read_crosses(entries: object, tables: SpecTables) -> tuple[Cross, ...]:
    found = []
    for number, entry in enumerate(tables.entries("crosses", entries), 1):
        names = entry.get("fields")
        place = f"cross {' x '.join(map(str, names))!r}" if isinstance(names, list) else ""
        values = tables.read(Cross, entry, place or f"cross {number}")
        if "fields" in values:
            found.append(Cross(**values))
    return tuple(found)


def _read_negatives(entry: object, tables: SpecTables) -> Negatives | None:
    if not isinstance(entry, dict):
        tables.add("", f"`negatives` must be a table, [negatives], got {shown(entry)}")
        return None
    before = len(tables.errors)
    values = tables.read(Negatives, entry, "[negatives]")
    return Negatives(**values) if len(tables.errors) == before else None


def _check_names(read: Mapping[str, Any], unread: Collection[str], tables: SpecTables) -> None:
    """Check the names of fields and columns, and that each side has a field."""
    fields: Sequence[Field] = read.get("fields", ())
    names = [field.name for field in fields]
    label, timestamp, weight = read.get("label"), read.get("timestamp"), read.get("weight")
    given = [*names, label or "", timestamp or "", weight or "", *(read.get("columns") or ())]
    for name in dict.fromkeys(given):
        if "\0" in name:
            tables.add("", f"the name {name!r} must not have the character NUL")
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            tables.add(f"field {name!r}", "it is given more than once")
    if label in names:
        tables.add("", f"the label {label!r} must not be a field too")
    if weight is not None and weight in (*names, label, timestamp):
        tables.add("", f"the weight {weight!r} must not be a field, the label or the timestamp too")
    for side in ("context", "candidate"):
        if not unread and "fields" in read and all(field.side != side for field in fields):
            tables.add("", f"no field has side = {side!r}; each side needs one")
    if "timestamp_format" in read and timestamp is None:
        tables.add("", "`timestamp_format` needs `timestamp`")
    if (columns := read.get("columns")) is not None:
        for name in dict.fromkeys(filter(None, [*names, label, timestamp, weight])):
            if name not in columns:
                tables.add("", f"{name!r} is not among `columns`{suggestion(name, columns)}")
    slots = [slot for field in fields for slot in field.slot_names]
    for slot in dict.fromkeys(slots):
        if slots.count(slot) > 1 and names.count(slot) < 2:
            tables.add("", f"a field and a part of a time have the same name {slot!r}")


def _check_crosses(read: Mapping[str, Any], unread: Set[str], tables: SpecTables) -> None:
    by_name: dict[str, Field] = {field.name: field for field in read.get("fields", ())}
    seen: set[frozenset[str]] = set()
    for cross in read.get("crosses", ()):
        place = f"cross {cross.name!r}"
        for name in dict.fromkeys(cross.fields):
            known = unread.isdisjoint({"", name, name.partition(".")[0]})
            if known and (problem := _cross_problem(name, by_name)):
                tables.add(place, problem)
        pair = frozenset(cross.fields)
        if len(pair) == 1:
            tables.add(place, "a field cannot be crossed with itself")
        elif pair in seen:
            tables.add(place, "this cross is given more than once")
        seen.add(pair)
        lists = [by_name.get(name) for name in cross.fields]
        places = prod(field.max_values for field in lists if isinstance(field, MultiCategorical))
        if places > MAX_ROW_PAIRS:
            tables.add(
                place,
                f"its lists make up to {places:,} pairs in a row, but at most {MAX_ROW_PAIRS} are"
                " allowed; lower their `max_values`",
            )


def _cross_problem(name: str, fields: Mapping[str, Field]) -> str | None:
    """Return why a cross cannot have a field of this name, if it cannot."""
    field = fields.get(name)
    slots = [slot for each in fields.values() for slot in each.slot_names]
    if field is not None and is_scaled(field):
        return f"{name!r} is scaled, and scaled fields cannot be crossed"
    if name in slots:
        return None
    if field is not None:
        parts = ", ".join(map(repr, field.slot_names))
        return f"{name!r} is a time; name one of its parts: {parts}"
    return f"there is no field {name!r}{suggestion(name, slots)}"
