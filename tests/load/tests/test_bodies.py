"""Bodies have the mix's sizes and shares, values that their fields take, and a fixed seed."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.bundle.bundle import Bundle
from app.features.encoder import Encoder
from tests.conftest import Sample
from tests.load.bodies import TOP_K, Body, Deck, Maker, Part, parse_mix, read_bodies
from tests.load.errors import UsageError
from tests.load.values import Draws, Pool, Pools, Shape, from_bundle, from_rows, synthetic
from tests.support import samples


def shapes_of(bundle: Bundle) -> list[Shape]:
    """A bundle's fields as /model tells them."""
    told = [
        {"name": field.name, "kind": type(field).__struct_config__.tag, "side": field.side,
         "required": field.required, "dtype": getattr(field, "dtype", None)}
        for field in bundle.spec.fields
    ]  # fmt: skip
    return msgspec.convert(told, list[Shape])


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    """The sample's bundle."""
    return Bundle.open(tiny_bundle)


def bodies(shapes: list[Shape], pools: Pools, mix: str, columnar: float = 0.5) -> list[Part]:
    """The parts of a mix, four bodies each."""
    return Maker(shapes, Draws(pools, 1.1, 3), 4, columnar).mix(parse_mix(mix))


def rows_of(body: Body) -> list[dict[str, Any]]:
    """The whole rows that a body asks about."""
    decoded = json.loads(body.content)
    if body.path == "/predict":
        return list(decoded["instances"])
    candidates = decoded["candidates"]
    if isinstance(candidates, dict):
        columns = candidates["features"]
        candidates = [
            {"features": dict(zip(columns, values, strict=True))}
            for values in zip(*columns.values(), strict=True)
        ]
    return [decoded["context"] | each["features"] for each in candidates]


@pytest.mark.parametrize(
    "source", [pytest.param("synthetic", marks=pytest.mark.slow), "bundle", "rows"]
)
def test_every_field_takes_what_is_drawn_for_it(
    source: str, bundle: Bundle, sample: Sample, tmp_path: Path
) -> None:
    """Made-up values, a bundle's and a file's all encode; those of a bundle are known to it."""
    shapes = shapes_of(bundle)
    if source == "synthetic":
        pools = synthetic(shapes, sample.rows[0], 1)
    elif source == "bundle":
        pools = from_bundle(bundle, shapes, 1)
    else:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in sample.rows))
        pools = from_rows(file, shapes)
    encoder = Encoder(bundle.spec, bundle.vocabulary)
    oov = {slot.oov for slot in bundle.vocabulary.layout.slots}
    for part in bodies(shapes, pools, "predict:3,rank:5"):
        assert [len(rows_of(body)) for body in part.bodies] == [int(part.kind[-1])] * 4
        for row in (row for body in part.bodies for row in rows_of(body)):
            context = encoder.context.row(samples.context_of(row))
            candidate = encoder.candidate.row(samples.candidate_of(row))
            indices = np.frombuffer(context + candidate, np.int32)
            assert source != "bundle" or not oov & set(indices.tolist())


def test_made_up_booleans_are_booleans() -> None:
    """Integers are no values of a boolean field."""
    shapes = [Shape("b", "categorical", "context", dtype="boolean"), Shape("n", "time", "context")]
    assert list(synthetic(shapes, {}, 1)["b"].values) == [True, False]


def test_forms_and_counts_of_answers(bundle: Bundle) -> None:
    """Half of the lists are columns; a right answer has a score for each row, or the top ones."""
    shapes = shapes_of(bundle)
    pools = synthetic(shapes, {}, 1)
    predict, short, long = bodies(shapes, pools, "predict:2,rank:3,rank:100")
    assert [part.bodies[0].answers for part in (predict, short, long)] == [2, 3, TOP_K]
    forms = [type(json.loads(body.content)["candidates"]) for body in short.bodies]
    assert Counter(forms) == {dict: 2, list: 2}


def test_the_seed_decides_every_body(bundle: Bundle) -> None:
    """The same seed gives the same bytes."""
    shapes = shapes_of(bundle)
    pools = synthetic(shapes, {"time": 1_700_000_000}, 1)
    assert bodies(shapes, pools, "predict:2,rank:3") == bodies(shapes, pools, "predict:2,rank:3")


def test_values_follow_zipfs_law_of_their_position() -> None:
    """The first of a thousand values is drawn 2^1.1 times as often as the second."""
    draws = Draws({"f": Pool(range(1000))}, 1.1, 5).column("f", 200_000)
    counts = Counter(draws)
    assert counts[0] / counts[1] == pytest.approx(2**1.1, rel=0.05)
    assert counts[0] / counts[9] == pytest.approx(10**1.1, rel=0.1)
    assert set(counts) <= set(range(1000))


def test_an_absent_value_is_left_out_and_a_list_keeps_its_length(tmp_path: Path) -> None:
    """Absence is a value of its own, as frequent as in the file."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1, "t": ["x", "y"]}\n\n{"t": ["x", "z"], "unknown": 1}\n')
    shapes = [Shape("a", "numeric", "context"), Shape("t", "multi_categorical", "candidate")]
    pools = from_rows(file, shapes)
    assert set(pools["a"].values) == {1, None}
    assert (pools["t"].values[0], pools["t"].lengths) == ("x", [2])
    [part] = bodies(shapes, pools, "predict:1")
    for row in (rows_of(body)[0] for body in part.bodies):
        assert row.get("a", 1) == 1
        assert len(row["t"]) == 2


def test_a_deck_has_the_shares_of_the_mix() -> None:
    """Parts come by their shares, and each part's bodies evenly."""
    first = [Body("/predict", b"%d" % number, 1) for number in range(3)]
    parts = [Part("a", 0.8, first), Part("b", 0.2, [Body("/rank", b"r", 1)])]
    drawn = list(islice(Deck(parts, 1), 10_000))
    kinds = Counter(kind for kind, _ in drawn)
    assert kinds["a"] == pytest.approx(8000, rel=0.03)
    each = Counter(body.content for kind, body in drawn if kind == "a")
    assert max(each.values()) - min(each.values()) <= 1


def test_own_bodies_are_sent_byte_by_byte(tmp_path: Path) -> None:
    """The endpoint follows from the form, and so does what a right answer holds."""
    lines = [
        b'{"instances":  [{}, {}]}',
        b'{"context": {}, "candidates": [{"features": {}}], "top_k": 5}',
        b'{"context": {}, "candidates": {"features": {"a": [1, 2, 3]}}, "top_k": 2}',
    ]
    file = tmp_path / "bodies.jsonl"
    file.write_bytes(b"\n".join(lines))
    predict, rank = read_bodies(file)
    assert list(predict.bodies) == [Body("/predict", lines[0], 2)]
    assert list(rank.bodies) == [Body("/rank", lines[1], 1), Body("/rank", lines[2], 2)]
    assert (predict.share, rank.share) == (1 / 3, 2 / 3)


def test_a_mix_is_read_as_shares() -> None:
    """Weights need not add up to 1, and are 1 where none is given."""
    assert parse_mix("predict:1=3, rank:100") == {"predict:1": 0.75, "rank:100": 0.25}


@pytest.mark.parametrize(
    "text",
    ["", "predict", "predict:0", "predict:1=", "predict:1=0", "score:1", "predict:1=-1",
     "predict:1,predict:1", "predict:1=1;rank:2=1"],
)  # fmt: skip
def test_what_is_no_mix_is_refused(text: str) -> None:
    """An unknown endpoint, no rows, no weight, the same part twice."""
    with pytest.raises(UsageError):
        parse_mix(text)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no line"), ("[1]", "line 1: "), ("{", "line 1: "),
        ('{"f": 1, "r": 1}', "line 1: 'f' must be a list"),
        ('{"r": 1}\n{"f": []}', "line 2: the required field 'r' is absent"),
        ('{"f": [null], "r": 1}', "line 1: 'f' has a null"),
        ('{"f": [[]], "r": 1}', "line 1: 'f' holds a list"),
    ],
)  # fmt: skip
def test_unusable_rows_are_named(content: str, problem: str, tmp_path: Path) -> None:
    """By line and field."""
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    shapes = [Shape("f", "multi_categorical", "candidate"), Shape("r", "time", "context", True)]
    with pytest.raises(UsageError, match=problem):
        from_rows(file, shapes)


def test_a_bundle_of_other_fields_is_refused(bundle: Bundle) -> None:
    """The service's field that the bundle lacks is named."""
    with pytest.raises(UsageError, match="no field 'height'"):
        from_bundle(bundle, [Shape("height", "numeric", "context")], 1)


def test_a_body_of_neither_endpoint_is_named(tmp_path: Path) -> None:
    """By its line."""
    file = tmp_path / "bodies.jsonl"
    file.write_text('{"instances": []}\n{"rows": []}')
    with pytest.raises(UsageError, match="line 2: neither"):
        read_bodies(file)
