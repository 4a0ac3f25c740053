"""What operators do with bundles on the pages, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.support.admin import KEY, WithAdmin, start_with_admin
from tests.support.pages import QUICK, Open
from tests.support.samples import Sample, candidate_of, context_of
from tests.support.serving import wait_until
from tests.support.trained import trained

pytestmark = pytest.mark.extras


def start_over(bundles: Sequence[Path], scratch: Path, start_service: StartService) -> WithAdmin:
    """Start a service with an admin port over a directory that holds these bundles."""
    directory = scratch / "bundles"
    for each in bundles:
        shutil.copytree(each, directory / each.name)
    return start_with_admin(start_service, scratch, directory)


def test_bundles_are_activated(
    tiny_bundle: Path, other_bundle: Path, scratch: Path, start_service: StartService,
    open_page: Open,
) -> None:  # fmt: skip
    """Only after a second click, and the page tells what serves."""
    both = start_over((tiny_bundle, other_bundle), scratch, start_service)
    serving = lambda: both.service.client.get("/ready").json()["version"]  # noqa: E731
    assert serving() == other_bundle.name
    watched = open_page(f"{both.url}/pages/#/bundles", KEY)
    page = watched.page
    page.get_by_role("button", name="Activate", exact=True).click()
    page.get_by_role("button", name="no", exact=True).click()
    assert serving() == other_bundle.name
    page.get_by_role("button", name="Activate", exact=True).click()
    page.get_by_role("button", name="Activate: yes").click()
    page.get_by_text(f"{tiny_bundle.name} serves; before: {other_bundle.name}").wait_for()
    assert serving() == tiny_bundle.name
    page.get_by_text("newer bundles are not taken up by themselves").wait_for()
    watched.look("activated")
    page.get_by_role("button", name="Follow the newest again").click()
    page.get_by_role("button", name="Follow the newest again: yes").click()
    wait_until(lambda: serving() == other_bundle.name, "the newest serves", 60)


def test_a_canary_is_begun_promoted_and_told_of(
    sample: Sample, tiny_bundle: Path, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """The page shows both sides beside each other; a wrong field is told."""
    later = trained(sample.spec, sample.data, QUICK, scratch / "later", after=tiny_bundle.name)
    both = start_over((tiny_bundle, later), scratch, start_service)
    serving = lambda: both.service.client.get("/ready").json()["version"]  # noqa: E731
    assert serving() == later.name
    watched = open_page(f"{both.url}/pages/#/bundles", KEY)
    page = watched.page
    page.get_by_role("spinbutton").fill("50")
    page.get_by_label("by field").fill("nonsense")
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("alert").get_by_text("key").first.wait_for()
    page.get_by_label("by field").fill("user_id")
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("heading", name="On trial").wait_for()
    both.service.predict(sample.rows[:200])
    page.get_by_role("button", name="Look again").click()
    page.get_by_text("canary, running").wait_for()
    watched.look("canary")
    page.get_by_role("button", name="Promote").click()
    page.get_by_role("button", name="Promote: yes").click()
    page.get_by_text(f"{tiny_bundle.name} serves").wait_for()
    assert serving() == tiny_bundle.name


def test_a_shadow_is_begun_and_stopped(
    sample: Sample, tiny_bundle: Path, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """It answers nobody; the page shows what it scored, and a stopped one waits."""
    later = trained(sample.spec, sample.data, QUICK, scratch / "later", after=tiny_bundle.name)
    both = start_over((tiny_bundle, later), scratch, start_service)
    watched = open_page(f"{both.url}/pages/#/bundles", KEY)
    page = watched.page
    page.locator("form.trial select").select_option("shadow")
    assert page.get_by_label("by field").count() == 0
    page.get_by_role("spinbutton").fill("100")
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("shadow, running").wait_for()
    page.get_by_text("takes 100 % of the requests").wait_for()
    both.service.predict(sample.rows[:50])

    def scored() -> bool:
        page.get_by_role("button", name="Look again").click()
        facts = page.locator("section", has=page.get_by_role("heading", name="On trial"))
        return "50" in facts.locator("dd").first.inner_text()

    watched.wait_until(scored)
    assert both.service.client.get("/ready").json()["version"] == later.name
    watched.look("shadow")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="no", exact=True).click()
    page.get_by_text("shadow, running").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop: yes").click()
    page.get_by_role("heading", name="On trial").wait_for(state="detached")
    page.get_by_role("cell", name="held").wait_for()


def test_a_canary_is_stopped(
    sample: Sample, tiny_bundle: Path, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """Everybody is answered by the bundle in use then."""
    later = trained(sample.spec, sample.data, QUICK, scratch / "later", after=tiny_bundle.name)
    both = start_over((tiny_bundle, later), scratch, start_service)
    row = next(row for row in sample.rows if "user_id" in row)
    asked = {"context": context_of(row), "candidates": [{"features": candidate_of(row)}]}
    watched = open_page(f"{both.url}/pages/#/bundles", KEY)
    page = watched.page
    page.get_by_role("spinbutton").fill("100")
    page.get_by_label("by field").fill("user_id")
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("canary, running").wait_for()
    assert both.service.post("/rank", asked).json()["version"] == tiny_bundle.name
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop: yes").click()
    page.get_by_role("heading", name="On trial").wait_for(state="detached")
    assert both.service.post("/rank", asked).json()["version"] == later.name
    page.get_by_role("cell", name="held").wait_for()
