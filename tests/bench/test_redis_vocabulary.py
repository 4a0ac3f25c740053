"""The benchmark of Redis, with few values: its parts run, and their figures make sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from tests.bench import redis_vocabulary
from tests.support.redis_server import binaries
from tests.support.vocabularies import rows_of

pytestmark = pytest.mark.slow

VALUES = 3_000


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_buckets_need_less_room_than_a_plain_hash() -> None:
    """On every server that can be run here."""
    found = [cells(line) for line in list(redis_vocabulary.layouts([VALUES]))[2:]]
    assert len(found) == 2 * len(binaries())
    for plain, buckets in zip(found[::2], found[1::2], strict=True):
        assert plain[:3] == [buckets[0], f"{VALUES:,}", "plain hash"]
        assert 0 < float(buckets[3]) < float(plain[3])


@pytest.mark.e2e
def test_a_field_is_published_and_served_in_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle has as many values as were asked for, and is made once."""
    monkeypatch.setattr(redis_vocabulary, "REPEATS", 1)
    said = list(redis_vocabulary.field(VALUES, tmp_path, tmp_path))
    assert said[0].startswith(f"{VALUES:,} values published in ")
    assert [cells(line)[0] for line in said[3:]] == ["memory", "redis"]
    for line in said[3:]:
        start, memory = (float(cell) for cell in cells(line)[1:])
        assert 0 < start < 60
        assert memory > 10
    made = tmp_path / f"field-{VALUES}"
    bundle = redis_vocabulary.field_bundle(made, VALUES)
    assert len(rows_of(Bundle.open(bundle), "user")) == VALUES
    assert [path.name for path in made.iterdir()] == [bundle.name]
