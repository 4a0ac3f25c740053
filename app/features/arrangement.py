"""The slots of a spec: their rows of the table, and their order in the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from app.errors import BundleError
from app.features.layout import RESERVED_ROWS, Layout, Slot
from app.features.spec import FeatureSpec, MultiCategorical, Side, attended, is_scaled


def arrange(spec: FeatureSpec, values: Mapping[str, int]) -> Layout:
    """Give each slot of the spec its table rows; ``values`` is its number of values, by name.

    A list that attends to a field has that field's rows, and no number of its own.
    """
    slots: dict[str, Slot] = {}
    first = 1
    for field in spec.fields:
        for name in field.slot_names if attended(field) is None else ():
            slots[name] = Slot(name, field.name, first, RESERVED_ROWS + values[name])
            first += slots[name].size
    for field in spec.fields:
        if (target := attended(field)) is not None:
            slots[field.name] = replace(
                slots[target], name=field.name, field=field.name, shares=target
            )
    means = count(first)
    return in_order(spec, {name: replace(slot, mean=next(means)) for name, slot in slots.items()})


def in_order(spec: FeatureSpec, slots: Mapping[str, Slot]) -> Layout:
    """Sort slots into the graph's inputs, in the order of the spec, scaled ones last.

    Raises:
        BundleError: the slots are not those of the spec.
    """
    wanted = {name: attended(field) for field in spec.fields for name in field.slot_names}
    if wanted != {name: slot.shares for name, slot in slots.items()}:
        raise BundleError("the vocabulary's slots are not those of the feature spec")

    ages = {f.ages: f.name for f in spec.fields if isinstance(f, MultiCategorical) and f.ages}

    def names(side: Side, lists: bool) -> tuple[Slot, ...]:
        fields = [f for f in spec.side(side) if isinstance(f, MultiCategorical) == lists]
        return tuple(
            replace(
                slots[name],
                scaled=is_scaled(field),
                dynamic=field.dynamic,
                ages_of=ages.get(name),
            )
            for field in sorted(fields, key=is_scaled)
            for name in field.slot_names
        )

    return Layout(
        context=names("context", False),
        candidate=names("candidate", False),
        context_lists=names("context", True),
        candidate_lists=names("candidate", True),
    )
