"""Raw columns → what the trainer reads, and how much of it was missing or unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from app.features.encoder import Encoder
from app.features.layout import Layout
from app.features.spec import Categorical, FeatureSpec, MultiCategorical, Numeric, Time
from model.data.dataset import Dataset
from model.data.encode import encode
from tests.support.frames import learned, read

SPEC = FeatureSpec(
    label="click",
    fields=(
        MultiCategorical(name="likes", side="context", max_values=3, min_count=1),
        Categorical(name="user", side="context", min_count=2),
        Time(name="at", side="context", parts=("hour", "day")),
        Categorical(name="item", side="candidate", min_count=1),
        MultiCategorical(name="tags", side="candidate", max_values=2, min_count=1),
        Numeric(name="n", side="candidate", encoding="log_squared", min_count=1),
    ),
)
LOG = """\
click,likes,user,at,item,tags,n
1,x|y,a,0,i,t,1
0,|,a,3600,j,t|u,1
1,,b,,i,t|v|t,1
0,z|x,,0,k,,100
"""
LEARNED = 3


@pytest.fixture
def frame(tmp_path: Path) -> pl.DataFrame:
    """Four rows, of which the first three are learned from."""
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return read(SPEC, [path])


@pytest.fixture
def encoded(frame: pl.DataFrame) -> tuple[Layout, Dataset]:
    """The rows that training sees."""
    vocabulary = learned(SPEC, frame[:LEARNED])
    return vocabulary.layout, encode(SPEC, Encoder(SPEC, vocabulary), frame)


def test_columns_are_the_layouts_slots(encoded: tuple[Layout, Dataset]) -> None:
    """Each input has the shape of its slots, int32 and in one piece of memory."""
    layout, data = encoded
    assert data.context.shape == (4, len(layout.context)) == (4, 3)
    assert data.candidate.shape == (4, len(layout.candidate)) == (4, 2)
    assert [column.shape for column in data.context_lists] == [(4, 3)]
    assert [column.shape for column in data.candidate_lists] == [(4, 2)]
    arrays = [data.context, data.candidate, *data.context_lists, *data.candidate_lists]
    assert all(array.dtype == np.int32 and array.flags.c_contiguous for array in arrays)
    assert data.label.tolist() == [1, 0, 1, 0]
    assert data.label.dtype == np.uint8


def test_every_index_is_in_its_slot(encoded: tuple[Layout, Dataset]) -> None:
    """Single values lie in their slot's range; a list's places may also be padding."""
    layout, data = encoded
    for slots, columns in (
        (layout.context, data.context.T), (layout.candidate, data.candidate.T),
        (layout.context_lists, data.context_lists),
        (layout.candidate_lists, data.candidate_lists),
    ):  # fmt: skip
        for slot, column in zip(slots, columns, strict=True):
            values = column[column != 0] if column.ndim == 2 else column
            assert values.min() >= slot.first
            assert values.max() < slot.first + slot.size


def test_rare_unseen_and_missing_values(encoded: tuple[Layout, Dataset]) -> None:
    """A rare value and an unseen one are OOV, an absent one is missing, a known one neither."""
    layout, data = encoded
    user, hour, _ = layout.context
    assert data.context[:, 0].tolist() == [user.oov + 1] * 2 + [user.oov, user.missing]
    assert data.context[2, 1] == hour.missing
    item, number = layout.candidate
    assert data.candidate[:, 0].tolist() == [item.oov + 1, item.oov + 2, item.oov + 1, item.oov]
    assert data.candidate[3, 1] == number.oov


def test_lists_are_padded_and_cut(encoded: tuple[Layout, Dataset]) -> None:
    """Lists keep their order, an empty one is padding, a missing one has the missing row."""
    layout, data = encoded
    likes, tags = layout.context_lists[0], layout.candidate_lists[0]
    x, y = likes.oov + 1, likes.oov + 2
    assert data.context_lists[0].tolist() == [
        [x, y, 0], [0, 0, 0], [likes.missing, 0, 0], [likes.oov, x, 0],
    ]  # fmt: skip
    t, u, v = (tags.oov + 1 + place for place in range(3))
    assert data.candidate_lists[0].tolist() == [[t, 0], [t, u], [t, v], [tags.missing, 0]]


def test_labels_may_be_left_out(frame: pl.DataFrame) -> None:
    """Without labels every label is 0."""
    vocabulary = learned(SPEC, frame)
    data = encode(SPEC, Encoder(SPEC, vocabulary), frame, label=False)
    assert data.label.tolist() == [0, 0, 0, 0]
