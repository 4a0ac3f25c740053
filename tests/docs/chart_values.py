"""The chart's values: its schema of settings, out of ``app/settings.py``, and the table of values.

``python -m tests.docs.chart_values`` writes both; a test compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from app.settings import Settings, descriptions
from tests.support.markdown import ROOT

CHART = ROOT / "docker" / "chart"
SCHEMA = CHART / "values.schema.json"
PAGE = ROOT / "docs" / "kubernetes.md"
BETWEEN = re.compile(r"(<!-- values -->\n).*(<!-- end -->)", re.DOTALL)
OF_THE_CHART = frozenset(
    f"CTR_{name}"
    for name in (
        "BUNDLE", "GATE", "HOST", "PORT", "WORKERS", "LAME_DUCK_SECONDS", "DRAIN_SECONDS",
        "PROVIDER", "REDIS_URL", "REDIS_PASSWORD_FILE", "STORE", "PARTS_DIR", "REQUEST_LOG",
        "FEEDBACK", "FEEDBACK_KEY_FILE", "ADMIN_PORT", "ADMIN_HOST", "ADMIN_KEY_FILE",
        "VERIFIED_FILES",
    )
)  # fmt: skip
"""Settings that follow from other values, or that a pod has no place for."""
KEPT = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength", "pattern")


def settings() -> dict[str, Any]:
    """The schema of ``settings``: every setting of the service that no other value decides."""
    known = Settings.model_json_schema()["properties"]
    properties: dict[str, Any] = {}
    for setting in descriptions():
        if setting.variable in OF_THE_CHART:
            continue
        found = known[setting.name]
        kind = next((each for each in found.get("anyOf", [found]) if each["type"] != "null"), found)
        rules = {name: kind[name] for name in KEPT if name in kind}
        properties[setting.variable] = {"description": setting.text, **rules}
    return {
        "description": "More settings of the service, by their variables",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def schema() -> str:
    """Return the schema with the settings as they should be."""
    found = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found["properties"]["settings"] = settings()
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


@cache
def values() -> dict[str, Any]:
    """The chart's defaults."""
    found = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def leaves(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the values that the schema knows one by one, each by its path."""
    for name, each in found["properties"].items():
        whole = f"{path}{name}"
        if "properties" in each and whole != "settings":
            yield from leaves(each, f"{whole}.")
        elif whole != "global":
            yield whole, each


def default(path: str) -> Any:
    """Return the default of a value; None where values.yaml has none."""
    found: Any = values()
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def shown(value: Any) -> str:
    """Return a default as values.yaml would have it."""
    return "–" if value is None else f"`{json.dumps(value)}`"


def tables() -> Iterator[str]:
    """Yield the lines of the table of values."""
    yield from ("", "| value | default | |", "|---|---|---|")
    for path, each in leaves(json.loads(SCHEMA.read_text(encoding="utf-8"))):
        choices = ", ".join(f"`{choice}`" for choice in each.get("enum", ()))
        text = each["description"] + (f" ({choices})" if choices else "")
        yield f"| `{path}` | {shown(default(path))} | {text} |"


def page() -> str:
    """Return the page with the table as it should be."""
    lines = "\n".join(tables())
    return BETWEEN.sub(
        lambda found: f"{found[1]}{lines}\n\n{found[2]}", PAGE.read_text(encoding="utf-8")
    )


def write() -> None:
    """Write the schema, and the table."""
    SCHEMA.write_text(schema(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
