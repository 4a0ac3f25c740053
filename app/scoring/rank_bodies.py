"""``/rank`` bodies, split into their parts; one that has faults is read again, to name them all."""

from __future__ import annotations

from typing import Any

import msgspec

from app.errors import Detail, Invalid
from app.scoring.decoding import UNREADABLE, decode, rank_decoder
from app.scoring.problems import FieldNames, Problems
from app.scoring.wire import KnownRankBody, RankBody

_known_decoder = msgspec.json.Decoder(KnownRankBody)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list_decoder = msgspec.json.Decoder(list[Any])
_KEYS = frozenset(RankBody.__struct_fields__)
_IDS = {"ids": False, "exclude": False, "id": True}
"""The lists of ids that candidates have, and whether an id may be null there."""
_NAMES = {dict: "object", list: "array", float: "float", bool: "bool", type(None): "null"}


def decode_rank(body: bytes, names: FieldNames, problems: Problems) -> RankBody:
    """Split a body; keys that it should not have are told or refused as fields are.

    Raises:
        TooLarge, Undecodable: as :func:`app.scoring.decoding.decode`.
        Invalid: the body is JSON, but not of the form that ``/rank`` takes.
    """
    try:
        return decode(_known_decoder, body)
    except Invalid as error:
        given = _object(body)
        unknown = [key for key in given if key not in _KEYS]
        names.check_keys(unknown, _KEYS, problems)
        _check_ids(_object(given.get("candidates", b"")), problems)
        problems.raise_if_any()
        if not unknown:
            raise error
    return decode(rank_decoder, body)


def _object(part: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Return the members of an object; none of anything else."""
    try:
        return _object_decoder.decode(part)
    except UNREADABLE:
        return {}


def _check_ids(candidates: dict[str, msgspec.Raw], problems: Problems) -> None:
    """Add a problem for each id that is neither an integer nor text: the decoder names one."""
    for name, may_be_null in _IDS.items():
        try:
            ids = _list_decoder.decode(candidates.get(name, b"[]"))
        except UNREADABLE:
            continue
        taken = {int, str, type(None)} if may_be_null else {int, str}
        wrong = [place for place, each in enumerate(ids) if type(each) not in taken]
        told = (
            Detail(
                f"candidates.{name}[{place}]",
                f"Expected `int | str`, got `{_NAMES[type(ids[place])]}`",
            )
            for place in wrong
        )
        problems.add_many(told, len(wrong))
