"""Instances as structs: one pass over the JSON gives the values in the order of the encoders.

A struct has a member for each field of a spec, so a decoder compares names instead of hashing
them, and encoding reads members instead of looking names up. An instance with an unknown field
has no struct: it is decoded as a mapping, which tells the name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from app.features.column_encoding import FieldEncoder


def member_names(encoders: Sequence[FieldEncoder]) -> Mapping[str, str]:
    """Return the member of each field: a name that Python takes, whatever the field's is."""
    return {encoder.name: f"m{place}" for place, encoder in enumerate(encoders)}


def instance_type(encoders: Sequence[FieldEncoder]) -> type[msgspec.Struct] | None:
    """Return the struct that an instance decodes to; absent fields are None.

    None if a field has a name that a struct cannot have, with a quote in it for example.
    """
    members = member_names(encoders)
    fields = [(members[encoder.name], Any, None) for encoder in encoders]
    try:
        return msgspec.defstruct(
            "Instance",
            fields,
            rename={member: name for name, member in members.items()},
            forbid_unknown_fields=True,
            # Values of JSON cannot refer back to their instance.
            gc=False,
        )
    except ValueError:
        return None
