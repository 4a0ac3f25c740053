"""Specs of real click logs, as they come, read every row of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.features.spec import FeatureSpec
from model.draft.draft import draft
from model.draft.look import look_at
from tests.support import realdata
from tests.support.frames import read

CRITEO = FeatureSpec.load(realdata.SPECS / "criteo.toml")


@pytest.mark.parametrize(
    ("name", "label", "candidate", "options", "fields", "timestamp"),
    [
        ("criteo", "label", [], {"columns": CRITEO.columns}, 39, None),
        ("frappe", "label", ["item"], {}, 10, None),
        ("avazu", "click", ["C14"], {}, 21, "hour"),
        ("open-bandit", "click", ["item_id"], {}, 72, "timestamp"),
    ],
)
def test_every_row_is_read(
    name: str, label: str, candidate: list[str], options: dict[str, Any], fields: int,
    timestamp: str | None, tmp_path: Path,
) -> None:  # fmt: skip
    """No bad line, the fields that the shipped spec has, and the time to split by."""
    files = realdata.files(name, tmp_path)[-1:]
    look = look_at(files, label, progress=False, **options)
    spec = FeatureSpec.parse(draft(look, (), candidate).text())
    assert (len(spec.fields), spec.timestamp) == (fields, timestamp)
    assert read(spec, files, moment=timestamp is not None).height == look.rows
    shipped = realdata.SPECS / f"{name}.toml"
    if shipped.exists():
        wanted = {field.name for field in FeatureSpec.load(shipped).fields} - {"device_ip"}
        assert {field.name for field in spec.fields} == wanted
