"""Bundles of format 1 are served as before, and what they lack is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bundle.bundle import Bundle
from app.bundle.manifest import FORMAT_VERSION
from tests.conftest import Sample, StartService
from tests.support.format_1 import as_format_1
from tests.support.serving import Service

pytestmark = pytest.mark.e2e
MEMBERS = ["mean_rows", "slot_histograms", "score_histogram"]


def test_a_bundle_of_format_1_lacks_what_came_later(tiny_bundle: Path, tmp_path: Path) -> None:
    """It opens with all that it has; its values have the rows that they have in format 2."""
    now, before = Bundle.open(tiny_bundle), Bundle.open(as_format_1(tiny_bundle, tmp_path))
    assert (now.manifest.format_version, now.lacks) == (FORMAT_VERSION, [])
    assert (before.manifest.format_version, before.lacks) == (1, MEMBERS)
    assert before.examples == now.examples
    for name, part in now.vocabulary.slots.items():
        assert repr(before.vocabulary.slots[name]) == repr(part)
    layout = before.vocabulary.layout
    assert layout.table_rows == layout.encoded_rows == now.vocabulary.layout.encoded_rows


def test_a_bundle_of_format_1_is_served(
    tiny_bundle: Path, tmp_path: Path, service: Service, sample: Sample, start_service: StartService
) -> None:
    """It scores as the same weights in format 2, to the last bit, in int8 too; /model tells."""
    old = as_format_1(tiny_bundle, tmp_path)
    rows = sample.rows[:200]
    served = start_service(old)
    assert served.predict(rows) == service.predict(rows)
    shown = served.client.get("/model").json()
    assert (shown["version"], shown["format_version"], shown["lacks"]) == (old.name, 1, MEMBERS)
    shown = service.client.get("/model").json()
    assert (shown["format_version"], shown["lacks"]) == (FORMAT_VERSION, [])
    int8 = start_service(old, precision="int8")
    assert int8.predict(rows) == start_service(precision="int8").predict(rows)
