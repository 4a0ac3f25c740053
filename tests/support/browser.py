"""A real browser, whose pages note every request and everything that goes wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tests.support.environments import ROOT
from tests.support.programs import program
from tests.support.registry import environment_or_skip, node_environment_or_skip

EXTRAS = ROOT / "tests" / "extras"
PINNED, LIBRARIES = EXTRAS / "browser.txt", EXTRAS / "page-libraries"
SHOTS = ROOT / "data" / "screenshots"
"""Pictures of a run, for people to look at."""
WAIT_MS = 60_000
"""A browser draws slowly beside other work."""
SERIOUS = ("serious", "critical")
NETWORK_NOTE = "Failed to load resource"
"""Beginning of the line that a browser itself writes about an answer of 400 or above, or none."""


def library(name: str) -> Path:
    """Return the directory of an npm package, as pinned; skip the test where none can be had."""
    program("npm")
    return node_environment_or_skip(LIBRARIES) / "node_modules" / name


@contextmanager
def chromium(scratch: Path) -> Iterator[Any]:
    """Run Debian's Chromium, driven by playwright out of an environment of its own."""
    path = program("chromium")
    home = environment_or_skip(PINNED, scratch)
    [packages] = home.glob("lib/python*/site-packages")
    sys.path.append(str(packages))
    try:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
            yield browser
            browser.close()
    finally:
        sys.path.remove(str(packages))


class Watched:
    """A page of a browser that knows what it asked for and what went wrong.

    ``page`` is playwright's.
    """

    def __init__(self, browser: Any, axe: str, width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self._axe, self._width, self._scheme = axe, width, scheme
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.problems.append(f"raised: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self._dismiss)

    def _note(self, message: Any) -> None:
        # Refused requests of a test are seen by what the page shows of them.
        if message.type in ("error", "warning") and not message.text.startswith(NETWORK_NOTE):
            self.problems.append(f"{message.type}: {message.text}")

    def _dismiss(self, dialog: Any) -> None:
        self.problems.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, url: str, key: str | None = None) -> None:
        """Go to an address; type the key where one is given."""
        self.page.goto(url)
        if key is not None:
            self.page.get_by_label("Key").fill(key)
            self.page.get_by_role("button", name="Open").click()
            self.page.get_by_role("navigation").get_by_role("link", name="Now").wait_for()

    def go(self, name: str) -> None:
        """Choose one of the pages, by its link."""
        pages = self.page.get_by_role("navigation", name="Pages")
        pages.get_by_role("link", name=name, exact=True).click()
        self.heading(name).wait_for()

    def heading(self, name: str) -> Any:
        """The heading of a page."""
        return self.page.get_by_role("heading", name=name, level=1, exact=True)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that this page's requests tell; they come in while it waits."""
        end = monotonic() + WAIT_MS / 1000
        while not condition():
            assert monotonic() < end, "it did not come about"
            self.page.wait_for_timeout(50)

    def look(self, name: str) -> None:
        """Take a picture; nothing may be wider than the window, nor hard to use."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        picture = SHOTS / f"{name}-{self._width}-{self._scheme}.png"
        self.page.screenshot(path=picture, full_page=True)
        over = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{name} is {over} pixels wider than {self._width}"
        self.page.evaluate(self._axe)
        found = self.page.evaluate("axe.run()")["violations"]
        faults = [
            f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in SERIOUS
        ]
        assert not faults, f"{name}: {faults}"

    def close(self, *hosts: str) -> None:
        """Close the page, which has asked only these hosts, and nothing has gone wrong in it."""
        self.context.close()
        assert self.problems == []
        outside = [url for url in self.requests if not url.startswith((*hosts, "blob:", "data:"))]
        assert outside == []


def stored(page: Any) -> str:
    """Everything that a page has left in the browser, and its address."""
    kept = page.evaluate(
        "[Object.entries(localStorage), Object.entries(sessionStorage), document.cookie,"
        " location.href]"
    )
    return json.dumps(kept)
