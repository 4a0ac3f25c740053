"""The index of a slot's texts finds what the whole table has, and nothing else."""

from __future__ import annotations

from mmap import mmap
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BundleError
from app.features import vocabulary
from app.features.spec import Categorical, FeatureSpec
from app.features.text_index import TextIndex
from app.features.vocabulary import Texts, Vocabulary
from tests.support.frames import learned

SPEC = FeatureSpec(label="click", fields=(Categorical(name="user", side="context", min_count=1),))
TEXTS = st.text(max_size=12) | st.text("ab\x00", max_size=40) | st.text("ü城\U0001f600", max_size=3)


@pytest.fixture(autouse=True)
def every_slot_has_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index slots of a few values."""
    monkeypatch.setattr(vocabulary, "INDEXED_VALUES", 1)


def indexed(keys: set[str]) -> Texts:
    """Pack keys with an index."""
    texts = Texts.of(sorted(keys, key=str.encode), np.arange(3, 3 + len(keys), dtype=np.int32))
    assert (texts.index is not None) == bool(keys)
    return texts


@given(st.sets(TEXTS, max_size=40), st.lists(TEXTS, max_size=20), st.integers(0, 50))
@settings(max_examples=300)
def test_every_text_is_found_as_in_a_table(keys: set[str], others: list[str], most: int) -> None:
    """Known texts, unknown ones, the empty one and parts of others have the table's rows."""
    texts = indexed(keys)
    table = texts.lookup()
    near = [key + "\x00" for key in keys] + [key[:-1] for key in keys] + [key * 2 for key in keys]
    for text in (*keys, *others, *near, "", "\x00", "x" * 100_000, "\ud800"):
        assert texts.finder()(text) == table.get(text)
    assert texts.lookup(most) == dict(list(table.items())[:most])


def test_texts_that_share_a_bucket_are_found() -> None:
    """Callers of the trainer may choose values: a bucket of all keys is bisected."""
    chosen = [text for text in map(str, range(60_000)) if crc32(text.encode()) >> 24 == 7][:128]
    texts = indexed(set(chosen))
    assert texts.index is not None
    assert np.diff(texts.index.starts).max() == len(chosen) == 128
    table = texts.lookup()
    assert [texts.finder()(text) for text in chosen] == [table[text] for text in chosen]
    assert texts.finder()(chosen[0] + " ") is None


def saved(directory: Path, users: list[str]) -> Path:
    """Write a vocabulary."""
    directory.mkdir()
    learned(SPEC, pl.DataFrame({"user": users})).save(directory)
    return directory


def test_the_index_is_kept_on_disk(tmp_path: Path) -> None:
    """It is mapped with the other arrays."""
    users = [f"user {number}" for number in range(3_000)]
    path = saved(tmp_path / "vocabulary", users)
    part = Vocabulary.load(path, SPEC, mapped=True).slots["user"]
    assert isinstance(part, Texts)
    assert part.index is not None
    assert isinstance(part.index.places.base, mmap)
    table = part.lookup()
    assert {user: part.finder()(user) for user in users} == table
    assert part.finder()("user 3000") is None


def test_a_vocabulary_without_an_index_is_bisected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of before, and small slots, have none."""
    monkeypatch.setattr(vocabulary, "INDEXED_VALUES", 10)
    part = Vocabulary.load(saved(tmp_path / "vocabulary", ["b", "a"]), SPEC, True).slots["user"]
    assert isinstance(part, Texts)
    assert part.index is None
    assert part.finder()("a") == part.lookup()["a"]


@pytest.mark.parametrize(
    ("part", "array"),
    [
        ("starts", np.array([0, 1, 2], np.uint32)),
        ("starts", np.array([0, 1, 2, 3], np.uint32)),
        ("starts", np.array([], np.uint32)),
        ("starts", np.array([3], np.uint32)),
        ("places", np.array([0, 1], np.uint32)),
        ("places", np.array([0, 1, 2], np.int64)),
    ],
)
def test_an_index_of_other_values_is_refused(
    tmp_path: Path, part: str, array: np.ndarray[tuple[int], np.dtype[np.generic]]
) -> None:
    """Its arrays must have the sizes of the slot's keys."""
    path = saved(tmp_path / "vocabulary", ["a", "b", "c"])
    np.save(path / f"000-user.{part}.npy", array)
    with pytest.raises(BundleError, match=r"has an index of other values|holds int64"):
        Vocabulary.load(path, SPEC, mapped=True)


def test_an_index_has_about_as_many_buckets_as_keys() -> None:
    """So that a look-up compares one or two texts, whatever the number of values."""
    for count in (1, 2, 3, 1_000, 1_024):
        index = TextIndex.of([b"%d" % number for number in range(count)], count)
        assert count / 2 < len(index.starts) - 1 <= count
        assert index.fits(count)
        assert not index.fits(count + 1)
