"""The tables of settings in docs/settings.md, out of ``app/settings.py``.

``python -m tests.docs.settings_page`` writes them, and what the chart has of them; tests compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.command_line import readable_bytes
from app.settings import Description, descriptions
from tests.docs import chart_values
from tests.support.markdown import ROOT

PAGE = ROOT / "docs" / "settings.md"
BETWEEN = re.compile(r"(<!-- settings -->\n).*(<!-- end -->)", re.DOTALL)


def default(setting: Description) -> str:
    """Return a default with its unit, as it would be typed."""
    if not setting.default:
        return "–"
    if setting.unit == "bytes":
        return f"`{setting.default}` ({readable_bytes(int(setting.default))})"
    return f"`{setting.default}` {setting.unit}".rstrip()


def text(setting: Description) -> str:
    """Return what a setting does, and its choices."""
    choices = ", ".join(f"`{choice}`" for choice in setting.choices)
    shown = f"{setting.text} ({choices})" if choices else setting.text
    return shown.replace("|", "\\|")


def tables() -> Iterator[str]:
    """Yield the lines of a heading and a table for each group of settings."""
    group = ""
    for setting in descriptions():
        if setting.group != group:
            group = setting.group
            yield from ("", f"## {group}", "", "| setting | default | |", "|---|---|---|")
        yield f"| `{setting.variable}` | {default(setting)} | {text(setting)} |"


def page() -> str:
    """Return the page with the tables as they should be."""
    lines = "\n".join(tables())
    return BETWEEN.sub(
        lambda found: f"{found[1]}{lines}\n\n{found[2]}", PAGE.read_text(encoding="utf-8")
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    chart_values.write()
