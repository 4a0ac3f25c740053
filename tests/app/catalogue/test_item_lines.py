"""Items as JSON lines, checked by a bundle's spec."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.catalogue.item_lines import BadLine, open_lines, read_lines
from app.features.encoder import Encoder
from app.features.spec import FeatureSpec
from tests.support.samples import with_dynamic_fields


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> Encoder:
    opened = Bundle.open(tiny_bundle)
    return Encoder(opened.spec, opened.vocabulary)


def test_lines_of_both_forms_are_items(encoder: Encoder) -> None:
    """Empty lines and a byte order mark are passed over; fields that are not known are kept."""
    plain = [b'\xef\xbb\xbf{"id": 7, "features": {"item_id": 7, "title": "\xc3\xa9"}}\n', b"\r\n"]
    assert list(read_lines(plain, encoder)) == [(7, {"item_id": 7, "title": "é"})]
    assert list(read_lines([b'{"sku": "x1", "price": 2.5}'], encoder, id_field="sku")) == [
        ("x1", {"sku": "x1", "price": 2.5})
    ]


@pytest.mark.parametrize(
    ("line", "field", "problem"),
    [
        (b"{", "", "truncated"),
        (b"[]", "", "Expected `object`, got `array`"),
        (b'{"item_id": 1, "x": "\xff"}', "", "UTF-8"),
        (b'{"item_id": 1, "x": ' + b"[" * 100_000, "", "nested too deeply"),
        (b'{"price": 1}', "item_id", "expected the item's id"),
        (b'{"item_id": true}', "item_id", "expected the item's id"),
        (b'{"item_id": 7.0}', "item_id", "expected the item's id"),
        (b'{"item_id": 1, "tags": [1, null]}', r"tags\[1\]", "null inside a list"),
        (b'{"item_id": 1, "price": "dear"}', "price", "expected a number"),
        (b'{"item_id": 1, "price": NaN}', "", "malformed|invalid"),
        (b'{"item_id": ""}', "", "an id of 1 to 512 bytes"),
        (b'{"item_id": "%s"}' % (b"x" * 513), "", "an id of 1 to 512 bytes"),
        (b'{"item_id": 1, "x": "%s"}' % (b"y" * 2**16), "", "over 65536 bytes of JSON"),
        (b'{"item_id": 1, "age": 3}', "age", "this is a context field"),
        (rb'{"item_id": "\ud800"}', "", "truncated"),
        (b'{"item_id": 1}\r{"item_id": 2}\r', "", r"trailing.*a line ends in \\n or \\r\\n"),
    ],
)
def test_a_wrong_line_is_named(encoder: Encoder, line: bytes, field: str, problem: str) -> None:
    """By number, field and rule; the lines around it are items."""
    good = b'{"item_id": 5}'
    first, bad, last = read_lines([good, line, good], encoder, id_field="item_id")
    assert first == last == (5, {"item_id": 5})
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    assert re.fullmatch(field, bad.field)
    assert re.search(problem, bad.problem)


def test_what_just_fits_is_an_item(encoder: Encoder) -> None:
    """Bytes of the id as UTF-8, and of the values without the spaces of their line."""
    longest = "é" * 256
    rest = "y" * (2**16 - len('{"x":""}'))
    line = json.dumps({"id": longest, "features": {"x": rest}}, ensure_ascii=False).encode()
    assert list(read_lines([line.replace(b":", b":  ")], encoder)) == [(longest, {"x": rest})]


def test_a_value_of_a_dynamic_field_is_not_judged(tiny_bundle: Path) -> None:
    """It is not used; a wrong one is no reason to refuse the item."""
    spec = FeatureSpec.parse(with_dynamic_fields())
    made = Encoder(spec, Bundle.open(tiny_bundle).vocabulary)
    line = b'{"id": 7, "features": {"item_id": 7, "price": "dear", "quality": "x"}}'
    [found] = read_lines([line], made)
    assert isinstance(found, BadLine)
    assert found.field == "quality"
    line = line.replace(b', "quality": "x"', b"")
    assert list(read_lines([line], made)) == [(7, {"item_id": 7, "price": "dear"})]


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    """By its name."""
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(gzip.compress(b"1\n2\n"))
    with open_lines(path) as lines:
        assert list(lines) == [b"1\n", b"2\n"]
