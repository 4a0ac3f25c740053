"""The files of the pages are all there, and need nothing of elsewhere."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from app.pages.files import page_files

STATIC = Path(__file__).resolve().parents[3] / "app" / "pages" / "static"
OWN = sorted(name for name in page_files() if name.startswith("pages/") and "vendor/" not in name)


def test_every_file_is_found_once() -> None:
    """A file that is kept as gzip has the content that it was packed from."""
    names = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert {name.removesuffix(".gz") for name in names} == set(page_files())
    packed = page_files()["docs/swagger-ui-bundle.js"]
    assert packed.packed is not None
    assert gzip.decompress(packed.packed) == packed.content
    assert packed.content.startswith(b"/*! For license information")


@pytest.mark.parametrize("name", [*OWN, "docs/index.html", "docs/docs.js"])
def test_own_files_name_no_other_host(name: str) -> None:
    """Neither markup nor scripts nor styles lead elsewhere, nor hold script or style inline."""
    text = page_files()[name].content.decode()
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://127.0.0.1:8000"}
    if name.endswith(".html"):
        assert not re.search(r"<style|style=|<script>|\son\w+=", text)


@pytest.mark.parametrize("name", [name for name in OWN if name.endswith(".js")])
def test_modules_import_files_that_are_there(name: str) -> None:
    """Every import leads to a file beside it, and every name to an export of that file."""
    text = page_files()[name].content.decode()
    for names, target in re.findall(r'import \{([^}]*)\} from "\./([^"]+)"', text):
        found = page_files()[f"pages/{target}"].content.decode()
        for each in (word.strip() for word in names.split(",") if word.strip()):
            exported = rf"export (async )?(const|let|class|function) {each}\b|[ ,{{]{each}[,}}]"
            assert re.search(exported, found), f"{target} exports no {each}"


def test_libraries_have_their_licences() -> None:
    """A text for each library that is shipped."""
    names = set(page_files())
    for licence in ("htm", "preact", "uplot"):
        assert f"pages/vendor/{licence}.LICENSE.txt" in names
    assert {"docs/swagger-ui.LICENSE.txt", "docs/swagger-ui.NOTICE.txt"} <= names
