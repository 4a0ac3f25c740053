"""The table of settings in docs/settings.md, out of ``app/settings.py``.

``python -m tests.docs.settings_page`` writes it; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.settings import Settings
from tests.support.markdown import ROOT

PAGE = ROOT / "docs" / "settings.md"
BETWEEN = re.compile(r"(<!-- settings -->\n).*(<!-- end -->)", re.DOTALL)
SIZES = ((2**20, "MiB"), (2**10, "KiB"))


def default(name: str, field: FieldInfo) -> str:
    """Return a default as a reader writes it: bytes in MiB, thousands with commas."""
    value: Any = field.default
    if value in (None, PydanticUndefined):
        return "–"
    if name.endswith("_bytes"):
        size, unit = next(pair for pair in SIZES if value % pair[0] == 0)
        return f"{value // size} {unit}"
    if isinstance(value, bool | str):
        return f"`{value}`"
    return f"{value:,.10g}" if isinstance(value, float) else f"{value:,}"


def rows() -> Iterator[str]:
    """Yield the table's lines, a setting each, in the order of the settings."""
    yield "| setting | default | |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        text = str(field.description).replace("|", "\\|")
        text = text[0].upper() + text[1:]
        yield f"| `CTR_{name.upper()}` | {default(name, field)} | {text} |"


def page() -> str:
    """Return the page with the table as it should be."""
    table = "".join(f"{line}\n" for line in rows())
    text = PAGE.read_text(encoding="utf-8")
    return BETWEEN.sub(lambda found: f"{found[1]}\n{table}\n{found[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
