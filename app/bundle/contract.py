"""The request contract of a bundle: which fields a request has, and which values they take."""

from __future__ import annotations

from app.features.spec import (
    Categorical,
    FeatureSpec,
    Field,
    MultiCategorical,
    Time,
    served_value,
)


def differences(served: FeatureSpec, other: FeatureSpec) -> list[str]:
    """Return why requests for ``served`` may fail, or mean something else, for ``other``.

    The list is empty if every request that ``served`` takes is taken by ``other`` with the same
    values. A new field that is not required, or one that is no longer required, breaks no request.
    """
    found = []
    fields = {field.name: field for field in other.fields}
    for field in served.fields:
        now = fields.pop(field.name, None)
        if now is None:
            found.append(f"field {field.name!r} is gone")
        else:
            found += [f"field {field.name!r} {change}" for change in _changes(field, now)]
    found += [
        f"field {name!r} is new and required"
        for name, field in fields.items()
        if field.required and served_value(field) is None
    ]
    return found


def _changes(before: Field, now: Field) -> list[str]:
    """Return what has changed in a field that both specs have."""
    served = served_value(before), served_value(now)
    if None not in served:
        return []  # Whatever a request has of it is ignored.
    if served[1] is not None:
        return [f"is known in training only, and counts as {served[1]!r}"]
    if served[0] is not None:
        return ["is no longer known in training only"]
    if type(before) is not type(now):
        return [f"is {_kind(now)} instead of {_kind(before)}"]
    changes = []
    if before.side != now.side:
        changes.append(f"belongs to the {now.side} instead of the {before.side}")
    if now.required and not before.required:
        changes.append("is required")
    if before.dynamic != now.dynamic:
        changes.append("is dynamic" if now.dynamic else "is no longer dynamic")
    if set(before.null_values or ()) != set(now.null_values or ()):
        changes.append(f"has the null values {_listed(now)} instead of {_listed(before)}")
    match before, now:
        case (
            Categorical(dtype=old) | MultiCategorical(dtype=old),
            Categorical(dtype=new) | MultiCategorical(dtype=new),
        ):
            if old != new:
                changes.append(f"takes values of type {new} instead of {old}")
        case Time(format=old_format, timezone=old_zone), Time(format=new_format, timezone=new_zone):
            if old_format != new_format:
                changes.append(f"has the format {new_format!r} instead of {old_format!r}")
            if old_zone != new_zone:
                changes.append(f"has the time zone {new_zone} instead of {old_zone}")
        case _:
            pass
    return changes


def _listed(field: Field) -> str:
    return ", ".join(map(repr, field.null_values or ())) or "none"


def _kind(field: Field) -> str:
    return str(type(field).__struct_config__.tag)
