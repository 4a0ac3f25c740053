"""Files → a feature spec that trains as it is, with what was noticed in its comments."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from msgspec.structs import replace

from app.features.nearest import suggestion
from app.features.spec import (
    Categorical,
    FeatureSpec,
    Field,
    MultiCategorical,
    Numeric,
    Side,
    Time,
)
from model.data.errors import DataError
from model.data.reader import check_labels, labels
from model.draft.column import Column
from model.draft.fields import Found, find
from model.draft.look import Look
from model.draft.names import is_place
from model.draft.serving import Serving, is_seen
from model.draft.sides import Guess, guess_sides
from model.draft.toml_text import comment, field_table, in_comment, quoted, top
from model.text_table import table

SUSPICIOUS = 0.9
"""AUC of a column alone from which on a comment asks whether it is known before the click."""
SHOWN_VALUES = 3
FREQUENT_NULLS = 0.01
"""Share of the rows from which on a text that may be a null is worth a comment."""
HEADINGS = ("column", "kind", "side", "distinct", "missing", "AUC alone", "most frequent values")


@dataclass(frozen=True, slots=True)
class Draft:
    """A feature spec, and what it was made from."""

    spec: FeatureSpec
    look: Look
    click_rate: float
    found: Mapping[str, Found]
    guesses: Mapping[str, Guess]
    unusable: Mapping[str, str]
    """Columns that are left out, each with the reason."""
    keyed: bool
    """True if a column was known to be of a side."""
    span: tuple[datetime, datetime] | None = None
    """The first and the last moment of the spec's timestamp in the sample."""

    @property
    def unsure(self) -> list[str]:
        """The fields whose side only a person can tell."""
        return [name for name, guess in self.guesses.items() if not guess.sure]

    def table(self) -> list[str]:
        """Return a line for each column: what it is, and what its values are like."""
        rows = [HEADINGS, *map(self._row, self.found.values())]
        return table(rows)

    def left_out(self) -> list[str]:
        """Return a line for each column that is left out, with the reason."""
        return [
            f"{in_comment(name)}: {why}" if name else why for name, why in self.unusable.items()
        ]

    def warnings(self) -> list[str]:
        """Return what a person should look at before training."""
        look, lines = self.look, []
        if not look.whole:
            lines.append(
                f"looked at {look.frame.height:,} of {look.rows:,} rows, in blocks from beginning"
                " to end; --sample-rows looks at more"
            )
        if look.bad.count:
            lines.append(f"{look.bad.report()}; train needs --max-bad-lines with such lines")
        if look.items is not None and look.items.unknown:
            lines.append(
                f"{look.items.unknown:,} rows were left out: their {in_comment(look.items.key)} is"
                " in no file of --items; train needs --max-bad-lines with such lines"
            )
        if look.items is not None and look.items.bad.count:
            lines.append(f"--items: {look.items.bad.report()}")
        if self.click_rate in (0.0, 1.0):
            lines.append(f"the labels are all {self.click_rate:.0f}: nothing can be learned")
        if self.unsure:
            names = ", ".join(map(in_comment, self.unsure[:SHOWN_VALUES]))
            more = len(self.unsure) - SHOWN_VALUES
            one = len(self.unsure) == 1
            whose, guesses = ("the side", "is a guess") if one else ("the sides", "are guesses")
            lines.append(
                f"{whose} of {names}{f' and {more} more' if more > 0 else ''} {guesses}, and"
                f" /rank refuses a field on the wrong side; {self._advice()}"
            )
        lines += [
            f"--serve: no row that was looked at has this value of {in_comment(each.name)}, so it"
            " counts as OOV in every request"
            for each in self.spec.fields
            if not is_seen(each, self.found[each.name].column)
        ]
        lines += [
            f"{in_comment(name)} alone has an AUC of {each.auc:.3f}: make sure that it is known"
            " before the click"
            for name, each in self.found.items()
            if each.field is not None and each.auc is not None and each.auc > SUSPICIOUS
        ]
        return lines

    def text(self) -> str:
        """Return the spec as a TOML file."""
        return "\n".join(self._lines()) + "\n"

    def _advice(self) -> str:
        """Return what makes the guesses sure."""
        if self.keyed:
            return "check them in the file, or name them with --context or --candidate"
        return (
            "name the column of the item's id with --candidate, or that of the user or the request"
            " with --context: what goes with it is found by its rows"
        )

    def _row(self, found: Found) -> Sequence[str]:
        column, field = found.column, found.field
        usual = ", ".join(
            f"{in_comment(value)} ({count / column.rows:.1%})"
            for value, count in column.most_frequent(SHOWN_VALUES)
        )
        return (
            in_comment(column.name),
            _kind(field) if field else "left out",
            field.side if field else "",
            f"{len(column.present):,}",
            f"{found.missing:.1%}",
            "" if found.auc is None else f"{found.auc:.3f}",
            usual,
        )

    def _lines(self) -> Iterator[str]:
        look = self.look
        rows = f"{look.rows:,} rows, {self.click_rate:.2%} of them with a click"
        if not look.whole:
            rows = (
                f"a sample of {look.frame.height:,} of {look.rows:,} rows,"
                f" {self.click_rate:.2%} of them with a click"
            )
        files = ", ".join(in_comment(name, 80) for name in look.names[:SHOWN_VALUES])
        more = len(look.names) - SHOWN_VALUES
        yield from comment(
            [
                f"Feature spec of {files}{f' and {more} more files' if more > 0 else ''}: {rows}.",
                *self._of_items(),
                "Every key is explained in docs/feature-spec.md. The figures are those of the data",
                "that were looked at; AUC alone is what a column tells of a click by itself, 0.5 is"
                " nothing.",
                "Where 0.0% are missing, `required = true` refuses requests without a value.",
                "",
                *self.table(),
            ]
        )
        if self.unusable:
            yield from comment(["", "Left out:", *(f"  {line}" for line in self.left_out())])
        if self.unsure:
            yield from comment(
                [
                    "",
                    "PLEASE CHECK the sides that are marked as guesses: `context` is one value for"
                    " all",
                    "items of a request (user, page, time), `candidate` belongs to the item."
                    " Wrong sides",
                    "train as well, but /rank asks for the values in the wrong place. A column that"
                    " is known",
                    "in training only (a position) has `serve`, one that depends on the moment"
                    " `dynamic`:",
                    "`spec` writes them with --serve FIELD=VALUE and --dynamic FIELD.",
                ]
            )
        yield ""
        comments = {"label": "0 or 1"}
        if self.span is not None:
            first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in self.span)
            comments["timestamp"] = f"the earliest rows train, the latest test: {first} to {last}"
        yield from top(self.spec, comments)
        for field in self.spec.fields:
            found, guess = self.found[field.name], self.guesses[field.name]
            yield ""
            yield from comment(self._notes(found))
            asked = "" if guess.sure else "; context or candidate?"
            yield from field_table(field, {"side": f"{guess.reason}{asked}"})

    def _of_items(self) -> Iterator[str]:
        """Yield what must be told of files of items: the commands need them, too."""
        items = self.look.items
        if items is not None:
            files = ", ".join(in_comment(name, 80) for name in items.names)
            yield f"Values of items are from {files}, by {in_comment(items.key)}: the commands that"
            yield "read data need --items and --id, too, and a service a catalogue of the items."

    def _notes(self, found: Found) -> list[str]:
        """Return what is worth knowing of a field beside its keys."""
        notes = [found.note] if found.note else []
        notes += self._of_serving(found)
        if found.auc is not None and found.auc > SUSPICIOUS:
            notes.append(f"AUC alone {found.auc:.3f}: make sure that it is known before the click")
        column, field = found.column, found.field
        if field is not None and not field.null_values:
            nulls = [
                f"{quoted(text)} ({rows / column.rows:.1%})"
                for text, rows in column.null_texts.items()
                if rows >= FREQUENT_NULLS * column.rows
            ]
            if nulls:
                notes.append(
                    f"if these mean that the value is missing, name them in null_values:"
                    f" {', '.join(nulls)}"
                )
        return notes

    def _of_serving(self, found: Found) -> Iterator[str]:
        """Yield what is known of a field in serving, or what may be where its rows leave it open.

        A value that varies within the rows of an item or a user may be known in training only, or
        depend on the moment; so may one whose name is a place's.
        """
        name, guess = in_comment(found.column.name), self.guesses[found.column.name]
        match found.field:
            case Categorical(serve=value) | Numeric(serve=value) if value is not None:
                yield "known in training only: every request counts as having the value of `serve`"
                return
            case Time() | MultiCategorical() | None:
                served = False
            case _:
                served = True
        if found.field is not None and found.field.dynamic:
            return
        of_items = self.look.items is not None and found.column.name in self.look.items.columns
        place = is_place(found.column.name) and not of_items
        if not place and (guess.sure or not guess.varies):
            return
        if served:
            yield f"known in training only, as a position is? Then `serve`: --serve {name}=VALUE"
        if guess.side == "candidate":
            yield f"depends on the moment? Then `dynamic = true`: --dynamic {name}"


def draft(
    look: Look,
    context: Sequence[str] = (),
    candidate: Sequence[str] = (),
    serving: Serving | None = None,
) -> Draft:
    """Make a spec of what was seen.

    ``context`` and ``candidate`` are columns known to be of a side, as are those of files of items
    and their id. Others that are the same in all rows of such a column's value are of its side,
    too. ``serving`` has what is known of fields in serving; one that is dynamic is a candidate's.

    Raises:
        DataError: there is no such column, a label is neither 0 nor 1, no field is left, or a
            field cannot have what is given.
    """
    label_name = look.layout.label
    serving = serving or Serving()
    _check_columns(
        look,
        {
            "--label": [label_name],
            "--context": context,
            "--candidate": candidate,
            "--serve": serving.serve,
            "--dynamic": serving.dynamic,
        },
    )
    of_items: frozenset[str] = frozenset()
    if look.items is not None:
        of_items = look.items.columns
        candidate = [*(name for name in candidate if name != look.items.key), look.items.key]
    for name in context:
        if name in of_items or (look.items is not None and name == look.items.key):
            raise DataError(f"{name!r} is named by --context, and is a column of items")
        if name in candidate:
            raise DataError(f"{name!r} is named by --context and by --candidate")
    for name in serving.dynamic:
        if name in context:
            raise DataError(
                f"{name!r} is named by --context and by --dynamic: dynamic fields are the"
                " candidate's"
            )
        if name in of_items or (look.items is not None and name == look.items.key):
            raise DataError(
                f"{name!r} is named by --dynamic, and is a column of items: a dynamic value comes"
                " with the request, and a stored one is not used"
            )
    check_labels(look.layout, look.frame)
    label = labels(look.layout, look.frame)
    found = {
        name: find(Column(look.frame[name]), label) for name in look.columns if name != label_name
    }
    kept = {name: each for name, each in found.items() if each.field is not None}
    unusable = dict(look.unusable)
    unusable |= {name: each.note for name, each in found.items() if each.field is None}
    for option, names in (("--serve", serving.serve), ("--dynamic", serving.dynamic)):
        for name in names:
            if name not in kept:
                raise DataError(f"{option}: column {name!r} is left out: {unusable[name]}")
    if len(kept) < 2:
        reasons = "".join(f"\n  {name!r}: {why}" for name, why in unusable.items())
        raise DataError(f"a spec needs two fields, one of each side; left out are{reasons}")
    guesses = guess_sides(
        {name: each.codes for name, each in found.items()},
        [n for n, each in kept.items() if isinstance(each.field, Time) and n not in of_items],
        context,
        candidate,
        list(kept),
        look.items.key if look.items is not None else None,
    )
    told = {name: Guess("candidate", "of --items", True) for name in kept if name in of_items}
    if look.items is not None and look.items.key in kept:
        told[look.items.key] = Guess("candidate", "the item's id", True)
    told |= {name: Guess("candidate", "given by --dynamic", True) for name in serving.dynamic}
    guesses |= told
    for name in serving.serve:
        if not guesses[name].sure:
            side = guesses[name].side
            guesses[name] = Guess(side, "requests need not have it", True)
    kept = {name: replace_field(each, guesses[name].side, serving) for name, each in kept.items()}
    spec = _spec(look, kept, of_items)
    timed = kept.get(spec.timestamp) if spec.timestamp else None
    span = None
    if timed is not None and timed.moments is not None:
        second = timed.moments.seconds[timed.moments.present]
        span = (_moment(second.min()), _moment(second.max()))
    return Draft(
        spec,
        look,
        float(label.mean()),
        found | kept,
        guesses,
        unusable,
        bool(context or candidate),
        span,
    )


def _check_columns(look: Look, named: Mapping[str, Collection[str]]) -> None:
    """Refuse names, by option, that are no columns of the data."""
    for option, names in named.items():
        for name in names:
            if name in look.unusable:
                raise DataError(f"{option}: column {name!r} is left out: {look.unusable[name]}")
            if name not in look.columns:
                known = ", ".join(map(repr, look.columns))
                raise DataError(
                    f"{option}: there is no column {name!r}{suggestion(name, look.columns)}; the"
                    f" columns are {known}"
                )
            if name == look.layout.label and option != "--label":
                raise DataError(f"{option}: {name!r} is the label")


def replace_field(found: Found, side: Side, serving: Serving) -> Found:
    """Return a column with its field on a side, and with what is known of it in serving."""
    assert found.field is not None
    field = serving.marked(replace(found.field, side=side))
    return Found(found.column, field, found.codes, found.auc, found.note, found.moments)


def _spec(look: Look, kept: Mapping[str, Found], of_items: Collection[str]) -> FeatureSpec:
    fields = [each.field for each in kept.values() if each.field is not None]
    ordered = [field for side in ("context", "candidate") for field in fields if field.side == side]
    times = [
        each
        for each in kept.values()
        if each.moments is not None
        and each.moments.present.all()
        and each.column.name not in of_items
    ]
    timestamp = max(times, key=lambda each: len(each.column.values), default=None)
    return replace(
        look.layout,
        fields=tuple(ordered),
        timestamp=timestamp.column.name if timestamp else None,
    )


def _moment(second: np.int64) -> datetime:
    return datetime.fromtimestamp(int(second), UTC)


def _kind(field: Field) -> str:
    """Return the kind of a field, and what else says how its values are read."""
    match field:
        case Numeric():
            return f"numeric, {field.encoding}"
        case Time():
            return f"time: {', '.join(field.parts)}"
        case MultiCategorical():
            return f"list of {field.dtype}"
        case _:
            return f"categorical, {field.dtype}"
