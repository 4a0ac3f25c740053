"""The pages of the documentation: links, paths, length, pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, anchors, blocks, links, pages, paths, prose

README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "img"
PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
MADE = ("docker/secrets",)
"""Paths that a user makes; they are not part of the repository."""
HISTORY = (ROOT / "CHANGELOG.md",)
"""Pages that speak of what was."""
DARK = {"#1f2328": "#e6edf3", "#59636e": "#9198a1", "#0969da": "#58a6ff", "#ffffff": "#0d1117",
        "#f6f8fa": "#151b23", "#1a7f37": "#3fb950", "#9a6700": "#d29922"}  # fmt: skip
"""The light pictures' colours, and those of their dark variants."""


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that a page links to exist."""
    for target in links(page):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page if not name else (page.parent / name).resolve()
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: Path) -> None:
    """A file or folder of the repository that a page names in code is there."""
    if page in HISTORY:
        return
    missing = [
        name
        for name in paths(page)
        # Capitals are a reader's to fill in; a path may be relative to the page's own folder.
        if not re.search(r"\b[A-Z]{4,}\b(?!\.md)", name)
        and not name.startswith(MADE)
        and not any(ROOT.glob(name))
        and not any(page.parent.glob(name))
    ]
    assert not missing


def test_readme_is_short() -> None:
    """The README is at most 150 lines and 1,500 words."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1_500


def test_every_page_can_be_found() -> None:
    """The README links to every page of docs/."""
    linked = {(README.parent / link.partition("#")[0]).resolve() for link in links(README)}
    assert set((ROOT / "docs").glob("*.md")) <= linked


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_closed(page: Path) -> None:
    """Every fence of a page opens or closes a block."""
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(list(blocks(page)))
    assert "```" not in prose(page)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_an_unmerged_conflict(page: Path) -> None:
    """Both sides of a merge were read."""
    assert not re.search(r"^(<{7}|>{7})", page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("picture", sorted(IMAGES.glob("*.png")), ids=lambda path: path.stem)
def test_photographs_are_small_and_shown(picture: Path) -> None:
    """A page of the browser takes less than 100 kB, and some page of the documentation shows it."""
    assert picture.stat().st_size < 100_000
    assert any(picture.name in page.read_text(encoding="utf-8") for page in pages())


@pytest.mark.parametrize("light", sorted(IMAGES.glob("*-light.svg")), ids=lambda path: path.stem)
def test_dark_pictures_show_what_the_light_ones_show(light: Path) -> None:
    """A dark picture is the light one in other colours."""
    text = light.read_text(encoding="utf-8")
    assert set(re.findall(r"#[0-9a-f]{6}", text)) <= DARK.keys()
    expected = re.sub(r"#[0-9a-f]{6}", lambda found: DARK[found[0]], text)
    dark = light.with_name(light.name.replace("-light", "-dark"))
    assert dark.read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("picture", sorted(IMAGES.glob("*-light.svg")), ids=lambda path: path.stem)
def test_files_in_pictures_exist(picture: Path) -> None:
    """A picture names files of app/ or model/ only by names that they have."""
    for name in re.findall(r"[\w/]+\.py", picture.read_text(encoding="utf-8")):
        assert (
            any(ROOT.glob(f"app/**/{name}"))
            or any(ROOT.glob(f"model/**/{name}"))
            or ((ROOT / name).is_file())
        ), name
