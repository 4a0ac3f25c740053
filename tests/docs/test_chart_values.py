"""The chart's values: schema, defaults, documentation and program say the same."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml

from app.settings import Settings, descriptions
from tests.docs.chart_values import (
    CHART,
    OF_THE_CHART,
    PAGE,
    SCHEMA,
    default,
    leaves,
    page,
    schema,
    values,
)
from tests.support.markdown import ROOT


def test_settings_are_those_of_the_service() -> None:
    """The schema is written by ``python -m tests.docs.chart_values``, as is the table."""
    assert SCHEMA.read_text(encoding="utf-8") == schema()
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_setting_is_the_callers_or_the_charts() -> None:
    """What the chart decides itself exists, and templates name it or leave it at its default."""
    assert {each.variable for each in descriptions()} >= OF_THE_CHART
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    named = set(re.findall(r"\bCTR_[A-Z_]+", templates))
    assert OF_THE_CHART - named == {"CTR_VERIFIED_FILES"}
    assert named <= {each.variable for each in descriptions()}


def test_every_value_has_a_default_and_a_meaning() -> None:
    """Values without a default are those of resources and GPUs that nobody has to ask for."""
    found = dict(leaves(json.loads(SCHEMA.read_text(encoding="utf-8"))))
    absent = {path for path in found if default(path) is None}
    assert absent == {path for path in found if re.search(r"ephemeral-storage$", path)} | {
        "resources.limits.cpu"
    }
    assert all(each.get("description") for each in found.values())


def test_a_value_with_a_default_cannot_be_taken_away() -> None:
    """Null removes a default in helm: templates would write it out, or fail without a name."""
    known = json.loads(SCHEMA.read_text(encoding="utf-8"))

    def missing(found: dict[str, Any], defaults: dict[str, Any], path: str) -> Iterator[str]:
        required = found.get("required", ())
        for name, value in defaults.items():
            if name not in required:
                yield f"{path}{name}"
            each = found["properties"][name]
            if isinstance(value, dict) and "required" in each:
                yield from missing(each, value, f"{path}{name}.")

    assert set(missing(known, values(), "")) == {"resources.requests.memory"}
    # Limits, and what a training asks for, may be given up one by one.
    for whose in (known, known["properties"]["trainer"]):
        assert whose["properties"]["resources"]["required"] == ["requests", "limits"]


def test_the_chart_names_the_version_of_the_program() -> None:
    """An image is tagged by it."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == project["version"]
    assert chart["name"] == project["name"]


def test_times_are_longer_than_those_of_the_service() -> None:
    """The chart's drain is the service's own; a lame duck, of which there is none by default, is
    longer than it takes to notice it."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert default("drainSeconds") >= defaults["drain_seconds"]
    noticed = default("readiness.periodSeconds") * default("readiness.failureThreshold")
    assert default("lameDuckSeconds") > noticed >= defaults["lame_duck_seconds"]


def test_alerts_are_those_of_the_dashboard() -> None:
    """``cp docker/observe/alerts.yml docker/chart/files``: a chart holds all that it needs."""
    copied = (CHART / "files" / "alerts.yml").read_bytes()
    assert copied == (ROOT / "docker" / "observe" / "alerts.yml").read_bytes()
