"""Vocabularies: kept exactly on disk, and refused when they are not."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from app.errors import BundleError
from app.features.arrangement import arrange
from app.features.spec import Categorical, FeatureSpec, Field, MultiCategorical, Numeric, Time
from app.features.vocabulary import Edges, Integers, Scale, Texts, Vocabulary
from tests.support.frames import learned

FIELDS: tuple[Field, ...] = (
    Categorical(name="user/../id", side="context", dtype="integer", min_count=1),
    Categorical(name="città 城", side="context", min_count=1, empty_is_missing=False),
    Categorical(name="CITTÀ 城", side="candidate", min_count=1),
    MultiCategorical(name="tags", side="candidate", min_count=1),
    Numeric(name="price", side="candidate", buckets=4),
    Numeric(name="clicks", side="candidate", encoding="log_squared", min_count=1),
    Time(name="when", side="context", parts=("hour", "weekday")),
    Numeric(name="weight", side="candidate", encoding="scaled"),
)
SPEC = FeatureSpec(label="click", fields=FIELDS)
NAMES = [name for field in FIELDS for name in field.slot_names]
INTEGERS = [-(2**63), -1, 0, 7, 2**63 - 1, 2**63, 2**64 - 1]
TEXTS = ["", "a", "é", "\x00", "z\x00", "城", "\U0001f600"]


@pytest.fixture
def vocabulary() -> Vocabulary:
    """A vocabulary learned from a few odd rows."""
    rows = len(INTEGERS)
    frame = pl.DataFrame({
        "user/../id": [str(value) for value in INTEGERS],
        "città 城": TEXTS,
        "CITTÀ 城": [None] * rows,
        "tags": ["a|b", "", "é|a", "", "", "", "c"],
        "price": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, None],
        "clicks": [-3, 0, 1, 2, 3, 100, 100],
        "when": [0, 3_600, 86_400, None, None, None, None],
        "weight": [1.0, 3.0, None, None, None, None, None],
    })  # fmt: skip
    return learned(SPEC, frame)


@pytest.fixture
def saved(vocabulary: Vocabulary, tmp_path: Path) -> Path:
    """A directory that holds it."""
    directory = tmp_path / "vocabulary"
    directory.mkdir()
    vocabulary.save(directory)
    return directory


def array(saved: Path, start: str, part: str) -> Path:
    """The file of one array of the slot that has this number."""
    (path,) = saved.glob(f"{start}-*.{part}.npy")
    return path


def test_everything_comes_back(vocabulary: Vocabulary, saved: Path) -> None:
    """Layout, keys, rows and edges are after loading what they were before saving."""
    loaded = Vocabulary.load(saved, SPEC)
    assert loaded.layout == vocabulary.layout
    for name, slot in vocabulary.slots.items():
        other = loaded.slots[name]
        if isinstance(slot, Edges):
            assert isinstance(other, Edges)
            np.testing.assert_array_equal(other.edges, slot.edges, strict=True)
        elif isinstance(slot, Scale):
            assert isinstance(other, Scale)
            assert (other.mean, other.std) == (slot.mean, slot.std) == (2.0, 1.0)
        else:
            assert not isinstance(other, Edges | Scale)
            assert other.lookup() == slot.lookup()


def test_keys_are_exact(saved: Path) -> None:
    """Integers keep their sign and all 64 bits; texts keep every byte, the empty one too."""
    slots = Vocabulary.load(saved, SPEC).slots
    users, cities = slots["user/../id"], slots["città 城"]
    assert isinstance(users, Integers)
    assert isinstance(cities, Texts)
    assert list(users.lookup()) == INTEGERS
    assert set(cities.lookup()) == set(TEXTS)
    assert all(type(key) is int for key in users.lookup())


def test_no_value_at_all_is_a_vocabulary(saved: Path) -> None:
    """A column that was always missing has no keys, and its slot only the two reserved rows."""
    loaded = Vocabulary.load(saved, SPEC)
    empty = loaded.slots["CITTÀ 城"]
    assert not isinstance(empty, Edges | Scale)
    assert empty.lookup() == {}
    assert {slot.name: slot.size for slot in loaded.layout.slots}["CITTÀ 城"] == 2


@pytest.mark.parametrize("mapped", [False, True])
def test_single_keys_are_found(saved: Path, mapped: bool) -> None:
    """Bisection in the arrays, mapped or not, finds what the whole table has, and nothing else."""
    for part in Vocabulary.load(saved, SPEC, mapped).slots.values():
        if isinstance(part, Edges | Scale):
            continue
        table, find = part.lookup(), part.finder()
        assert {key: find(key) for key in table} == table
        unseen: list[int | str] = (
            [key + 1 for key in INTEGERS if key + 1 not in table and key + 1 < 2**64] + [5, -7]
            if isinstance(part, Integers)
            else ["b", "aa", "zz", "\x00\x00", "ê", "\U0001f601", "a" * 1_000]
        )
        assert [find(key) for key in unseen if key not in table] == [
            None for key in unseen if key not in table
        ]


def test_keys_by_place_are_those_of_the_table(saved: Path) -> None:
    """Their text comes in the order of the places asked for, with the length of the longest."""
    for part in Vocabulary.load(saved, SPEC, mapped=True).slots.values():
        if isinstance(part, Edges | Scale):
            continue
        places = np.arange(len(part.rows))[::-1]
        texts = part.texts(places)
        keys = sorted(part.lookup(), key=lambda key: key if type(key) is int else key.encode())
        expected = [str(key).encode() for key in keys][::-1]
        assert texts == expected
        assert part.texts(places[:0]) == []
        assert part.longest >= max(map(len, texts), default=0)


def test_mapped_arrays_stay_on_disk(saved: Path) -> None:
    """A mapped vocabulary is a view of the file and cannot be written to."""
    users = Vocabulary.load(saved, SPEC, mapped=True).slots["user/../id"]
    assert isinstance(users, Integers)
    assert isinstance(users.rows.base, mmap.mmap)
    assert not users.rows.flags.writeable


@pytest.mark.parametrize("keys", [[], [""], ["", "a"]])
def test_texts_may_be_empty(keys: list[str]) -> None:
    """No keys, and the empty key, can be packed."""
    rows = np.arange(3, 3 + len(keys), dtype=np.int32)
    assert Texts.of(keys, rows).lookup() == dict(zip(keys, rows.tolist(), strict=True))


def test_files_stay_inside_the_directory(saved: Path) -> None:
    """A field's name never decides where a file lies, and needs no other than ASCII names."""
    names = [path.name for path in saved.iterdir()]
    assert len(names) == 1 + 3 * 7 + 1 + 1, "three arrays for a slot with keys, one for others"
    assert all(name.isascii() for name in names)
    assert {path.name for path in saved.parent.iterdir()} == {saved.name}


def test_saving_twice_gives_the_same_bytes(vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Files depend on the content only."""
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        vocabulary.save(tmp_path / name)
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_slots_tile_the_table(vocabulary: Vocabulary) -> None:
    """Ranges follow each other from row 1 on, without gap or overlap; the means end the table."""
    slots = sorted(vocabulary.layout.slots, key=lambda slot: slot.first)
    end = 1
    for slot in slots:
        assert slot.first == end
        end += slot.size
    assert end == vocabulary.layout.encoded_rows
    assert [slot.mean for slot in slots] == list(range(end, vocabulary.layout.table_rows))


def test_no_value_has_the_mean(vocabulary: Vocabulary) -> None:
    """The row of a slot's mean is no row of a value: what is encoded never names it."""
    means = {slot.mean for slot in vocabulary.layout.slots}
    for slot in vocabulary.layout.slots:
        assert means.isdisjoint(range(slot.first, slot.first + slot.size))
        part = vocabulary.slots[slot.name]
        if not isinstance(part, Edges | Scale):
            assert means.isdisjoint(part.lookup().values())


def test_a_layout_of_format_1_has_no_means(vocabulary: Vocabulary, saved: Path) -> None:
    """Format 1 has no means: all values have the rows that they have in format 2."""
    path = saved / "layout.json"
    records = msgspec.json.decode(path.read_bytes())
    path.write_bytes(
        msgspec.json.encode([{k: v for k, v in r.items() if k != "mean"} for r in records])
    )
    loaded = Vocabulary.load(saved, SPEC)
    assert loaded.layout.table_rows == loaded.layout.encoded_rows
    for now, before in zip(vocabulary.layout.slots, loaded.layout.slots, strict=True):
        assert before == replace(now, mean=None)


@pytest.mark.parametrize("wrong", [None, 1, 0, -1, 10**6])
def test_means_elsewhere_are_refused(saved: Path, wrong: int | None) -> None:
    """Means are one a slot, behind all values; a damaged layout is told."""
    path = saved / "layout.json"
    records = msgspec.json.decode(path.read_bytes())
    records[1]["mean"] = wrong
    path.write_bytes(msgspec.json.encode(records))
    with pytest.raises(BundleError, match="mean rows"):
        Vocabulary.load(saved, SPEC)


def test_scaled_slots_are_the_last_of_their_input() -> None:
    """The graph multiplies the last rows of a side, wherever the spec has the fields."""
    fields = (FIELDS[-1], *FIELDS[:-1])
    layout = arrange(FeatureSpec(label="click", fields=fields), dict.fromkeys(NAMES, 1))
    assert [slot.name for slot in layout.candidate][-2:] == ["clicks", "weight"]
    assert [slot.scaled for slot in layout.candidate] == [False] * 3 + [True]
    assert (layout.context_values, layout.candidate_values) == (0, 1)
    assert layout.candidate[-1].first == 1


@pytest.mark.parametrize(
    "wrong", [[0.0, 0.0], [0.0, -1.0], [np.nan, 1.0], [0.0, np.inf], [1.0], [1.0, 1.0, 1.0]]
)
def test_what_does_not_scale_is_refused(saved: Path, wrong: list[float]) -> None:
    """A mean is a number and a deviation above zero, or the bundle is damaged."""
    np.save(array(saved, "007", "scale"), np.array(wrong, np.float32))
    with pytest.raises(BundleError, match="slot 'weight' has no valid mean"):
        Vocabulary.load(saved, SPEC)


def test_arrange_sorts_slots_into_inputs() -> None:
    """Each input has the slots of its side and form, in the order of the spec."""
    layout = arrange(SPEC, dict.fromkeys(NAMES, 3))
    names = {
        "context": [slot.name for slot in layout.context],
        "candidate": [slot.name for slot in layout.candidate],
        "lists": [slot.name for slot in layout.candidate_lists],
    }
    assert names == {
        "context": ["user/../id", "città 城", "when.hour", "when.weekday"],
        "candidate": ["CITTÀ 城", "price", "clicks", "weight"],
        "lists": ["tags"],
    }
    assert layout.context_lists == ()
    assert layout.table_rows == 1 + 9 * (2 + 3) + 9


def test_absent_file_is_named(saved: Path) -> None:
    """An array that is not there is an error with its name."""
    path = array(saved, "000", "rows")
    path.unlink()
    with pytest.raises(BundleError, match=path.name):
        Vocabulary.load(saved, SPEC)


@pytest.mark.parametrize("size", [0, 20, 130])
def test_truncated_file_is_named(saved: Path, size: int) -> None:
    """An array cut anywhere is an error with its name."""
    path = array(saved, "000", "keys")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BundleError, match=path.name):
        Vocabulary.load(saved, SPEC)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros(7, np.float64), np.zeros(7, ">i4"), np.zeros((7, 1), np.int32), np.array(["a"])],
    ids=["float", "big endian", "two axes", "text"],
)
def test_other_kind_of_array_is_named(saved: Path, wrong: np.ndarray) -> None:
    """An array of another type or form is an error with its name."""
    path = array(saved, "000", "rows")
    np.save(path, wrong)
    with pytest.raises(BundleError, match=path.name):
        Vocabulary.load(saved, SPEC)


def test_pickles_are_never_read(saved: Path) -> None:
    """An array of objects, which only a pickle holds, is an error with its name."""
    path = array(saved, "000", "rows")
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(BundleError, match=path.name):
        Vocabulary.load(saved, SPEC)


@pytest.mark.parametrize("row", [0, 1, 2, 10, -1, 10**9])
def test_rows_outside_the_slot_are_refused(saved: Path, row: int) -> None:
    """No key may have a reserved row, or one of another slot."""
    path = array(saved, "000", "rows")
    rows = np.load(path)
    rows[3] = row
    np.save(path, rows)
    with pytest.raises(BundleError, match=r"'user/\.\./id' has rows outside"):
        Vocabulary.load(saved, SPEC)


@pytest.mark.parametrize(
    ("slot", "part"), [("000", "keys"), ("000", "rows"), ("001", "offsets"), ("005", "edges")]
)
def test_arrays_of_other_lengths_are_refused(saved: Path, slot: str, part: str) -> None:
    """A slot whose arrays do not go together is an error with its name."""
    path = array(saved, slot, part)
    np.save(path, np.load(path)[:-1])
    with pytest.raises(BundleError, match="slot "):
        Vocabulary.load(saved, SPEC)


def test_layout_that_is_no_json_is_refused(saved: Path) -> None:
    """A damaged description is an error."""
    (saved / "layout.json").write_bytes(b"[{")
    with pytest.raises(BundleError, match="cannot be read"):
        Vocabulary.load(saved, SPEC)


def test_another_specs_vocabulary_is_refused(saved: Path) -> None:
    """The slots must be those of the spec."""
    other = FeatureSpec(label="click", fields=FIELDS[:-1])
    with pytest.raises(BundleError, match="not those of the feature spec"):
        Vocabulary.load(saved, other)
