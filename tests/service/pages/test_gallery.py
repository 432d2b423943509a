"""The gallery in a real browser: found, rated, collected, downloaded and deleted, by keyboard as well."""

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from danqing.service.gallery import store
from danqing.service.gallery.manager import new_picture
from tests.service.pages.browsing import violations, visit
from tests.service.serving import Running, served

pytestmark = pytest.mark.slow

COUNT = 400
COLOURS = {"red": (220, 40, 40), "blue": (40, 40, 220), "green": (40, 190, 60), "grey": (120, 120, 120)}


def fill(running: Running) -> None:
    """Put pictures of four colours into the gallery of everybody on this machine."""
    made = []
    for number in range(COUNT):
        name = list(COLOURS)[number % 4]
        pixels = np.full((12, 12, 3), COLOURS[name], np.uint8)
        pixels[number % 12, number // 12 % 12] = number % 256
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        record = {
            "danqing": 1,
            "endpoint": "generations",
            "request": {"model": "text", "prompt": f"a {name} square {number}", "seed": number, "n": 1},
            "title": f"a {name} square {number}",
            "words": [],
        }
        made.append(new_picture(content.getvalue(), record, 0))
    database = running.service.database
    database.transact(store.keep, "", made, running.service.settings.gallery, time.time())


@pytest.fixture
def service(models: dict[str, str], tmp_path: Path) -> Iterator[Running]:
    with served({"text": models["text"]}, tmp_path, gallery={"keep": 30}) as running:
        fill(running)
        yield running


def test_pictures_are_found_rated_collected_downloaded_and_deleted(
    browser: Browser, service: Running
) -> None:
    page, trouble = visit(browser, f"{service.url}/#/gallery", ready=".cell img", locale="en-US")
    expect(page.locator("#gallery-use")).to_contain_text("400 pictures")
    assert violations(page) == []
    page.get_by_label("Search by words").fill("blue 41")
    expect(page.locator("#said")).to_have_text("1 pictures")
    page.get_by_label("Search by words").fill("blue")
    expect(page.locator("#said")).to_have_text("100 pictures")
    page.get_by_label("Enlarge a blue square 397").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("seed 397")
    dialog.get_by_label("4 stars").click()
    expect(dialog.get_by_label("4 stars")).to_have_attribute("aria-pressed", "true")
    dialog.get_by_label("Tags, with commas").fill("best, 海")
    dialog.get_by_label("Tags, with commas").press("Tab")
    assert violations(page) == []
    dialog.get_by_role("button", name="Similar pictures").click()
    expect(page.locator("#gallery-like")).to_be_visible()
    expect(page.locator(".cell button").first).to_have_attribute("aria-label", "Enlarge a blue square 397")
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Search by words").fill("海")
    expect(page.locator("#said")).to_have_text("1 pictures")
    page.get_by_label("Search by words").fill("")
    page.get_by_label("Rating").select_option("4")
    expect(page.locator("#said")).to_have_text("1 pictures")
    page.get_by_label("Rating").select_option("")
    page.get_by_text("Edit albums").click()
    page.get_by_label("Name of a new album").fill("sea")
    page.get_by_role("button", name="Create").click()
    page.get_by_label("Select a grey square 399").check(force=True)
    page.get_by_label("Select a green square 398").check(force=True)
    expect(page.locator("#gallery-count")).to_have_text("2 selected")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(saving.value.path()) as found:
        assert len(found.namelist()) == 3
    page.get_by_label("Put into an album …").select_option("sea (0)")
    page.get_by_label("Album", exact=True).select_option("sea (2)")
    expect(page.locator("#said")).to_have_text("2 pictures")
    page.get_by_label("Select a grey square 399").check(force=True)
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("Delete 1 pictures?")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#said")).to_have_text("1 pictures")
    expect(page.locator("#gallery-use")).to_contain_text("399 pictures")
    page.get_by_label("Enlarge a green square 398").click()
    dialog.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Describe a picture")).to_have_value("a green square 398")
    expect(page.get_by_label("Seed")).to_have_value("398")
    assert trouble == []


@pytest.mark.parametrize(("locale", "width", "scheme"), [("en-US", 1280, "dark"), ("zh-CN", 360, "light")])
def test_the_grid_holds_few_cells_and_is_walked_by_keyboard(
    browser: Browser, service: Running, locale: str, width: int, scheme: str
) -> None:
    page, trouble = visit(
        browser, f"{service.url}/#/gallery", width, ready=".cell img", locale=locale, color_scheme=scheme
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    assert page.locator(".cell").count() < 80
    page.locator(".cell button").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-index='1'] button")).to_be_focused()
    page.keyboard.press("End")
    expect(page.locator(f"[data-index='{COUNT - 1}'] button")).to_be_focused()
    assert page.locator(".cell").count() < 80
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("a red square 0")
    page.keyboard.press("Escape")
    expect(page.locator(f"[data-index='{COUNT - 1}'] button")).to_be_focused()
    assert trouble == []


def test_there_is_no_gallery_unless_it_is_switched_on(
    browser: Browser, models: dict[str, str], tmp_path: Path
) -> None:
    with served({"text": models["text"]}, tmp_path) as running:
        page, _ = visit(browser, f"{running.url}/#/gallery", ready="#studio:not([hidden])")
        assert page.locator("#menu a[href='#/account']").count() == 1
        assert page.locator("#menu a[href='#/gallery']").count() == 0
        answer = httpx.get(f"{running.url}/v1/gallery")
        assert answer.status_code == 404
        assert "gallery.keep" in answer.json()["error"]["message"]
