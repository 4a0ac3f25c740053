"""The pages in a real browser: what they show, and to whom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.store.sqlite import SqliteStore
from app.store.store import Item
from tests.conftest import PATIENT_MS, StartService
from tests.support.admin import KEY, WithAdmin, start_with_admin
from tests.support.browser import stored
from tests.support.pages import QUICK, Open, films, with_store
from tests.support.programs import program
from tests.support.samples import KNOWN_USER, SPEC, Sample, candidate_of, context_of
from tests.support.trained import trained

pytestmark = pytest.mark.extras
SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def served(
    start_shared_service: StartService, tmp_path_factory: pytest.TempPathFactory, sample: Sample
) -> WithAdmin:
    """A service that shows pages on both ports."""
    return start_with_admin(start_shared_service, tmp_path_factory.mktemp("admin"), pages="on")


def test_a_ranking_is_that_of_the_service(
    served: WithAdmin, open_page: Open, tmp_path: Path
) -> None:
    """The scores of the page are the answer's, and so are those of its curl and Python."""
    watched = open_page(f"{served.url}/pages/#/try", KEY)
    page = watched.page
    shown = {}
    for path, button in (("rank", "Rank"), ("predict", "Score")):
        page.get_by_role("button", name=path, exact=True).click()
        page.get_by_role("button", name="JSON").click()
        body = json.loads(page.locator("pre.code").inner_text())
        answer = served.service.client.post(f"/{path}", json=body).json()
        page.get_by_role("button", name=button, exact=True).click()
        page.locator("ol.scores b.figure").first.wait_for()
        shown[path] = [float(text) for text in page.locator("ol.scores b.figure").all_inner_texts()]
        scores = answer.get("predictions") or [each["score"] for each in answer["ranking"]]
        assert shown[path] == pytest.approx(scores, abs=6e-5)
        for kind, words in (("curl", ["bash", "-c"]), ("Python", [sys.executable, "-c"])):
            page.get_by_role("button", name=kind).click()
            code = page.locator("pre.code").inner_text()
            if kind == "curl":
                program("curl")
            done = subprocess.run([*words, code], capture_output=True, text=True, timeout=30)
            assert done.returncode == 0, done.stderr
            assert str(answer["version"]) in done.stdout
            first = re.search(r"0\.\d+", done.stdout)
            assert first is not None
            assert float(first[0]) == pytest.approx(scores[0], abs=1e-5)
    assert sorted(shown["predict"], reverse=True) == shown["rank"]


def test_values_are_offered_and_wrong_ones_are_told(served: WithAdmin, open_page: Open) -> None:
    """Known values as one types; a value that never occurred and a missing one; an error stands
    at its field."""
    watched = open_page(f"{served.url}/pages/", KEY)
    page = watched.page
    field = page.get_by_label("country", exact=False).first
    field.fill("u")
    page.locator('datalist option[value="us"]').wait_for(state="attached")
    assert {option.get_attribute("value") for option in page.locator("datalist option").all()} == {
        "us"
    }
    field.fill("us")
    page.get_by_label("user_id: kind of value").select_option("oov")
    page.get_by_label("age: kind of value").select_option("missing")
    page.get_by_role("button", name="JSON").click()
    context = json.loads(page.locator("pre.code").inner_text())["context"]
    assert (context["country"], context["user_id"]) == ("us", 987654321987)
    assert "age" not in context
    page.locator("button.fold").first.click()
    page.get_by_label("price", exact=False).first.fill("cheap")
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator(".field .problem").wait_for()
    assert "price" in page.locator(".field", has=page.locator(".problem")).inner_text()
    page.get_by_label("price", exact=False).first.fill("3.5")
    page.get_by_role("button", name="Rank", exact=True).click()
    page.get_by_role("heading", name="Ranking").wait_for()
    watched.look("form")


def test_names_and_values_that_are_markup_stay_texts(
    sample: Sample, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """A field, values and an item's title that would run if any page took them for its own."""
    spec, data = scratch / "sly.toml", scratch / "sly.csv"
    spec.write_text(SPEC.replace('name = "country"', f'name = "{SCRIPT}"'), encoding="utf-8")
    text = sample.data.read_text(encoding="utf-8").replace("country", SCRIPT, 1)
    data.write_text(text.replace(",DE,", f",{IMAGE},"), encoding="utf-8")
    bundle = trained(spec, data, QUICK, scratch / "bundles")
    items = [Item("a", {**candidate_of(sample.rows[0]), "title": IMAGE, SCRIPT: SCRIPT})]
    both = with_store(start_service, bundle, scratch, items)
    watched = open_page(f"{both.url}/pages/", KEY)
    page = watched.page
    page.get_by_text(SCRIPT).first.wait_for()
    page.locator(".field", has_text=SCRIPT).locator("input").fill(IMAGE)
    page.get_by_role("button", name="Rank", exact=True).click()
    page.get_by_role("heading", name="Ranking").wait_for()
    watched.go("Why")
    page.get_by_label("Field").select_option(SCRIPT)
    page.locator("ol.waterfall .name", has_text=IMAGE).first.wait_for()
    row = sample.rows[0]
    asked = {**context_of(row), SCRIPT: IMAGE, **candidate_of(row)}
    asked.pop("country", None)
    both.service.predict([asked] * 20)
    watched.go("Now")
    page.get_by_role("button", name=SCRIPT, exact=True).click()
    page.locator("th.value", has_text=IMAGE).wait_for()
    watched.go("Catalogue")
    page.get_by_role("button", name="a", exact=True).click()
    page.locator("td.value", has_text=IMAGE).first.wait_for()
    page.get_by_role("button", name="Add to Try").click()
    watched.go("Try")
    page.get_by_role("button", name="Rank", exact=True).click()
    page.locator("ol.scores .name", has_text=IMAGE).wait_for()
    assert page.locator("img:not([src='icon.svg']), main script").count() == 0


def test_a_service_that_goes_away_and_comes_back(
    tiny_bundle: Path, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """The page says that it does not answer, and goes on when it does."""
    both = start_with_admin(start_service, scratch, tiny_bundle)
    watched = open_page(f"{both.url}/pages/#/now", KEY)
    page = watched.page
    page.get_by_text("rows since the start").wait_for()
    assert both.service.stop() == 0
    page.get_by_text("The service does not answer. Asking again").wait_for()
    watched.look("away")
    port = int(both.url.rsplit(":", 1)[1])
    hashes = scratch / "admin.sha256"
    again = start_service(tiny_bundle, admin_port=port, admin_key_file=hashes)
    page.get_by_text("The service does not answer").wait_for(state="detached")
    page.get_by_text("rows since the start").wait_for()
    assert again.stop() == 0
    watched.go("Try")
    page.get_by_text("The service does not answer").wait_for()
    start_service(tiny_bundle, admin_port=port, admin_key_file=hashes)
    page.get_by_role("button", name="Rank", exact=True).click()
    page.get_by_role("heading", name="Ranking").wait_for()


def test_a_hidden_page_asks_nothing(served: WithAdmin, browser: Any, open_page: Open) -> None:
    """Once a second while it is seen; what has not changed is not sent again."""
    watched = open_page(f"{served.url}/pages/#/now", KEY)
    page = watched.page
    asked = lambda: [url for url in watched.requests if "/now?" in url]  # noqa: E731
    watched.wait_until(lambda: len(asked()) >= 3)
    assert "have=&" in asked()[0]
    assert re.search(r"have=[0-9a-f]{8}%2C", asked()[1])
    page.evaluate("""() => {
        Object.defineProperty(document, "hidden", { value: true, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    page.wait_for_timeout(1500)
    before = len(asked())
    page.wait_for_timeout(3500)
    assert len(asked()) == before
    page.evaluate("""() => {
        Object.defineProperty(document, "hidden", { value: false, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    watched.wait_until(lambda: len(asked()) > before)


def test_the_key_is_kept_nowhere(served: WithAdmin, open_page: Open) -> None:
    """A wrong one is told; the right one is gone with the page, and by "Lock"."""
    watched = open_page(f"{served.url}/pages/")
    page = watched.page
    watched.look("key")
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Open").click()
    page.get_by_text("This is no valid key.").wait_for()
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    watched.heading("Try").wait_for()
    assert KEY not in stored(page)
    assert not [url for url in watched.requests if KEY in url]
    page.reload()
    page.get_by_label("Key").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Lock").click()
    page.get_by_label("Key").wait_for()


def test_the_best_items_of_the_catalogue_are_named_and_explained(
    sample: Sample, tiny_bundle: Path, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """By their titles, on both ports; Why takes them as candidates."""
    settings = {"pages": "on", "explain": "on"}
    both = with_store(start_service, tiny_bundle, scratch, films(sample), **settings)
    for url, key in ((both.url, KEY), (both.service.url, None)):
        watched = open_page(f"{url}/pages/#/try", key)
        page = watched.page
        page.get_by_label("placement", exact=False).first.fill("top")
        page.get_by_label("rank the whole catalogue").check()
        page.get_by_role("button", name="Rank", exact=True).click()
        names = page.locator("ol.scores .name")
        names.first.wait_for()
        shown = names.all_inner_texts()
        assert len(shown) == 20
        assert all(re.fullmatch(r"Film \d+", name) for name in shown)
        scores = page.locator("ol.scores b.figure").all_inner_texts()
        watched.look("catalogue-ranked")
        page.get_by_role("link", name=f"why {shown[2]} has its score").click()
        page.get_by_role("heading", name=shown[2], exact=True).wait_for()
        page.get_by_text("this candidate", exact=True).wait_for()
        first = page.locator("section", has=page.get_by_role("heading", name=shown[2], exact=True))
        assert first.locator("b.figure").first.inner_text() == scores[2]
        page.get_by_label("beside").select_option(label=f"1. {shown[0]}")
        page.get_by_role("heading", name=re.compile("^Why the (first|second) is before")).wait_for()


def test_values_of_a_profile_are_told_from_missing_ones(
    sample: Sample, tiny_bundle: Path, scratch: Path, start_service: StartService, open_page: Open
) -> None:
    """Why shows them to holders of the key, and to others that they come from the profile."""
    both = with_store(
        start_service, tiny_bundle, scratch, films(sample),
        profile_key="user_id", redis_timeout_ms=PATIENT_MS, pages="on", explain="on",
    )  # fmt: skip
    store = SqliteStore(scratch / "store.db")
    store.profiles.put([Item(KNOWN_USER, {"age": 41, "country": "us"})])
    store.close()
    for url, key, told in (
        (both.url, KEY, "41, from the profile"),
        (both.service.url, None, "from the profile"),
    ):
        watched = open_page(f"{url}/pages/#/try", key)
        page = watched.page
        page.get_by_label("placement", exact=False).first.fill("top")
        page.get_by_label("user_id", exact=False).first.fill(str(KNOWN_USER))
        page.get_by_label("age: kind of value").select_option("missing")
        page.get_by_label("country: kind of value").select_option("missing")
        watched.go("Why")
        step = page.locator("ol.waterfall li .name[title=age]").first
        step.wait_for()
        assert told in step.inner_text()
        assert "missing" not in step.inner_text()
        page.get_by_text(re.compile(f"age {told}")).first.wait_for()
        page.get_by_label("Field").select_option("country")
        page.get_by_text(f"Now: {'us, ' if key else ''}from the profile").wait_for()
        watched.look("profile")
        page.close()


def test_the_keyboard_is_enough(served: WithAdmin, open_page: Open) -> None:
    """A ranking, another page and the way back without a mouse."""
    watched = open_page(f"{served.url}/pages/")
    page = watched.page
    page.get_by_label("Key").focus()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    watched.heading("Try").wait_for()

    def tab_to(words: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            name = page.evaluate("document.activeElement.textContent.trim()")
            if name == words:
                return
        raise AssertionError(f"{words} cannot be reached")

    tab_to("Rank")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Ranking").wait_for()
    tab_to("Why")
    page.keyboard.press("Enter")
    watched.heading("Why").wait_for()


def test_public_pages_show_no_person_and_change_nothing(
    served: WithAdmin, open_page: Open, sample: Sample
) -> None:
    """Three pages without a key; Why without values of contexts."""
    served.service.predict(sample.rows[:100])
    watched = open_page(f"{served.service.url}/pages/")
    page = watched.page
    page.get_by_label("placement", exact=False).first.fill("top")
    page.get_by_role("button", name="Rank", exact=True).click()
    page.get_by_role("heading", name="Ranking").wait_for()
    names = page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert names == ["Try", "Why", "Now"]
    assert page.get_by_label("user_id", exact=False).first.input_value() == ""
    page.get_by_label("user_id", exact=False).first.fill("1")
    watched.go("Now")
    page.get_by_role("button", name="user_id", exact=True).click()
    page.get_by_text(re.compile(r"^no\. \d+$")).first.wait_for()
    watched.go("Why")
    page.get_by_role("heading", name="With another value").wait_for()
    page.goto(f"{served.service.url}/pages/#/bundles")
    watched.heading("Try").wait_for()
    assert not [url for url in watched.requests if "/values?field=user_id" in url]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_requests_of_the_documentation_can_be_tried(
    served: WithAdmin, open_page: Open, scheme: str
) -> None:
    """Every operation is shown; the example of /rank is sent and gets the answer that it names."""
    watched = open_page(f"{served.service.url}/docs", scheme=scheme)
    page = watched.page
    document = served.service.client.get("/openapi.json").json()
    page.locator(".opblock").first.wait_for()
    shown = page.locator(".opblock-summary-path").all_inner_texts()
    assert {text.replace("\u200b", "") for text in shown} == set(document["paths"])
    block = page.locator("#operations-scoring-rank")
    block.click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table .highlight-code").first
    answer.wait_for()
    example = document["paths"]["/rank"]["post"]
    version = example["responses"]["200"]["content"]["application/json"]["example"]["version"]
    assert version in answer.inner_text()
