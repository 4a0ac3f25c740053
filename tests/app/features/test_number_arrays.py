"""Arrays of integers have the words of the same integers in a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.features.encoder import Encoder
from app.features.number_arrays import encode_array
from app.features.spec import Categorical, FeatureSpec
from tests.support.encoding import FIELDS, encoded_columns, encoder_for, side_of, user
from tests.support.frames import learned

DTYPES = ("<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8")
KNOWN: dict[str, Sequence[int]] = {
    "close": range(3, 90), "below zero": range(-20, 20), "far": [0, 5, 2**62],
    "the least": [-(2**63), -(2**63) + 1], "large": [2**63, 2**63 + 1], "none": [],
}  # fmt: skip
CLOSE = ("close", "below zero", "the least")


def serving(field: Categorical, known: Sequence[int]) -> Encoder:
    """An encoder as a service has it."""
    spec = FeatureSpec(label="click", fields=(field, Categorical(name="~", side="candidate")))
    values = pl.Series("user", [str(each) for each in known], pl.String)
    frame = pl.DataFrame([values, pl.Series("~", [None] * len(known), pl.String)])
    return Encoder(spec, learned(spec, frame), in_bulk=True)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    """For each name an encoder that knows its integers."""
    return {name: serving(user(dtype="integer"), known) for name, known in KNOWN.items()}


@given(st.sampled_from([*KNOWN]), st.sampled_from(DTYPES), st.data())
def test_an_array_has_the_words_of_its_integers(
    encoders: dict[str, Encoder], name: str, dtype: str, data: st.DataObject
) -> None:
    """Of each type, at the ends of its range and around the known ones."""
    limits = np.iinfo(dtype)
    near = [each + by for each in KNOWN[name] for by in (-1, 0, 1)]
    ends = [limits.min, limits.max, 0]
    drawn = st.sampled_from([each for each in near + ends if limits.min <= each <= limits.max])
    values = data.draw(st.lists(drawn | st.integers(int(limits.min), int(limits.max)), max_size=9))
    side, array = encoders[name].context, np.array(values, dtype)
    expected = encoded_columns(side, {"user": values}, len(values))
    assert (encoded_columns(side, {"user": array}, len(values)) == expected).all()


@pytest.mark.parametrize("name", KNOWN)
def test_tables_are_for_integers_that_lie_close(encoders: dict[str, Encoder], name: str) -> None:
    """Two integers far from each other make no table of all that lie between."""
    table = encoders[name].context._dense.get("user")
    assert (table is not None) == (name in CLOSE)


@pytest.mark.parametrize("keys", [{"required": True}, {"null_values": ["7"]}, {"dtype": "string"}])
def test_rules_of_a_field_go_before_tables(keys: dict[str, object]) -> None:
    """Null values are missing, and a field of text has the integer's text."""
    side = serving(user(**{"dtype": "integer", **keys}), [6, 7, 8]).context
    array = np.array([6, 7, 8, 9], "<i8")
    expected = encoded_columns(side, {"user": array.tolist()}, 4)
    assert not side._dense
    assert (encoded_columns(side, {"user": array}, 4) == expected).all()
    assert len({*expected.ravel().tolist()}) == 4


@pytest.mark.parametrize("name", ["edges", "scaled", "time"])
def test_fields_without_tables_take_arrays(name: str) -> None:
    """Numbers and times: as from a list."""
    side = side_of(encoder_for(FIELDS[name]), FIELDS[name])
    (encoder,) = (each for each in side.encoders if each.name == FIELDS[name].name)
    array = np.array([0, 1, 880_000_000], "<i8")
    assert (encode_array(encoder, None, array, None) == encoder.many(array.tolist())).all()
