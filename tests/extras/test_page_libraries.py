"""The libraries of others that the pages are made of are those of their npm packages."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from app.pages.files import page_files
from tests.support.browser import library

pytestmark = pytest.mark.extras
FILES = {
    "pages/vendor/htm-preact.js": ("htm", "preact/standalone.module.js"),
    "pages/vendor/htm.LICENSE.txt": ("htm", "LICENSE"),
    "pages/vendor/uplot.js": ("uplot", "dist/uPlot.iife.min.js"),
    "pages/vendor/uplot.css": ("uplot", "dist/uPlot.min.css"),
    "pages/vendor/uplot.LICENSE.txt": ("uplot", "LICENSE"),
    "docs/swagger-ui-bundle.js": ("swagger-ui-dist", "swagger-ui-bundle.js"),
    "docs/swagger-ui.css": ("swagger-ui-dist", "swagger-ui.css"),
    "docs/swagger-ui.LICENSE.txt": ("swagger-ui-dist", "LICENSE"),
    "docs/swagger-ui.NOTICE.txt": ("swagger-ui-dist", "NOTICE"),
    "docs/swagger-ui-bundle.LICENSE.txt": ("swagger-ui-dist", "swagger-ui-bundle.js.LICENSE.txt"),
}
"""Files of the pages: the package and its file."""
VERSIONS = {"htm": "3.1.1", "uplot": "1.6.32", "swagger-ui-dist": "5.35.0"}
OWN_LICENCE = "pages/vendor/preact.LICENSE.txt"
"""Preact is inside of htm's file; its licence comes from its own package."""


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_that_of_its_package(name: str, tmp_path: Path) -> None:
    """By hash; the package is installed by the integrity that the lock file has."""
    package, file = FILES[name]
    home = library(package)
    assert json.loads((home / "package.json").read_text())["version"] == VERSIONS[package]
    expected = hashlib.sha256((home / file).read_bytes()).hexdigest()
    assert hashlib.sha256(page_files()[name].content).hexdigest() == expected


def test_every_library_is_compared() -> None:
    """No file of others is left out."""
    others = {
        name for name in page_files() if "vendor/" in name or name.startswith("docs/swagger-ui")
    }
    assert others == {*FILES, OWN_LICENCE}
