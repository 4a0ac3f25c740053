"""Every page in a real browser, for every network: opened, used, and looked at."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from model.config import NETWORKS
from tests.conftest import StartService
from tests.support.admin import KEY
from tests.support.browser import Watched
from tests.support.pages import QUICK, Open, films, with_store
from tests.support.samples import Sample
from tests.support.serving import Service
from tests.support.trained import trained

pytestmark = pytest.mark.extras
LOOKS = [(1400, "light"), (1400, "dark"), (400, "light"), (400, "dark")]


def use_every_page(watched: Watched, name: str, service: Service, sample: Sample) -> None:
    """Do on each page what it is for, and look at it."""
    page = watched.page
    page.get_by_role("button", name="Rank", exact=True).click()
    page.get_by_role("heading", name="Ranking").wait_for()
    watched.look(f"{name}-try")
    watched.go("Why")
    page.get_by_role("heading", name="With another value").wait_for()
    page.get_by_text("this candidate", exact=True).wait_for()
    page.get_by_label("beside").select_option(index=2)
    page.get_by_role("heading", name=re.compile("^Why the (first|second) is before")).wait_for()
    for field in ("price", "tags", "time", "placement"):
        page.get_by_label("Field").select_option(field)
        page.get_by_text(f"as {field} changes").wait_for()
        page.locator(".wide ol.waterfall li, .wide figure.lines").first.wait_for()
    # Rankings alone are completed from profiles.
    assert not [url for url in watched.requests if url.endswith("/predict")]
    watched.look(f"{name}-why")
    service.predict(sample.rows[:300])
    watched.go("Now")
    page.get_by_role("button", name="country", exact=True).click()
    page.get_by_text("Values whose share has changed most").wait_for()
    page.get_by_role("heading", name="Scores").wait_for()
    watched.look(f"{name}-now")
    watched.go("Bundles")
    page.get_by_role("heading", name="In the directory").wait_for()
    page.get_by_role("heading", name="Reliability").wait_for()
    page.get_by_role("button", expanded=False).first.click()
    page.get_by_text("Calibration is predicted clicks").wait_for()
    page.get_by_role("button", expanded=True).first.click()
    watched.look(f"{name}-bundles")
    watched.go("Catalogue")
    page.get_by_label("Search").fill("film 7")
    page.get_by_text("1 of 40 items").wait_for()
    page.get_by_role("button", name="7", exact=True).click()
    page.get_by_role("heading", name="Item 7").wait_for()
    page.get_by_role("button", name="Add to Try").click()
    page.get_by_text("of the page Try").wait_for()
    watched.look(f"{name}-catalogue")


@pytest.mark.parametrize("network", NETWORKS)
def test_every_page_works_with_every_network(
    network: str, sample: Sample, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """In light and dark, wide and narrow, and nothing is asked of another host."""
    bundles = scratch / "bundles"
    bundle = trained(sample.spec, sample.data, replace(QUICK, network=network), bundles)
    both = with_store(start_service, bundle, scratch, films(sample))
    for width, scheme in LOOKS if network == "deepfm" else LOOKS[::3]:
        watched = open_page(f"{both.url}/pages/", KEY, width, scheme)
        use_every_page(watched, network, both.service, sample)
        watched.page.close()
