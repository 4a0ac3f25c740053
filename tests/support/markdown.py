"""The project's Markdown pages: their blocks, links, anchors and the paths that they name."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
FOLDERS = ("app", "model", "tests", "scripts", "docs", "docker")
PATH = re.compile(rf"(?<![\w./\-<$])(?:{'|'.join(FOLDERS)})/[\w./*\-]*\w/?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words after it, its text and the line where it begins."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int


@cache
def pages() -> tuple[Path, ...]:
    """Return every page that is part of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return tuple(ROOT / name for name in sorted(set(listed.stdout.split())))


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's fenced blocks in their order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        language, *words = found[2].split() or [""]
        yield Block(language, tuple(words), found[3], text[: found.start()].count("\n") + 1)


def prose(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    unquoted = re.sub(r"`[^`]*`", "", prose(page))
    return [first or second for first, second in LINK.findall(unquoted)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := slug if number == 0 else f"{slug}-{number}") in found:
            number += 1
        found.add(name)
    return found


def paths(page: Path) -> set[str]:
    """Return the paths of this repository that a page names in code: in backticks or blocks."""
    code = re.findall(r"`([^`\n]+)`", prose(page))
    code += [block.text for block in blocks(page)]
    return {found.rstrip("/") for text in code for found in PATH.findall(text)}


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, the head left out."""
    text = page.read_text(encoding="utf-8")
    below = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    lines = re.search(r"(^\|.*\n)+", below, re.MULTILINE)
    assert lines, f"no table below {heading!r}"
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[0].splitlines()]
    return [[cell.strip() for cell in row] for row in rows[2:]]
