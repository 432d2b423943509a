"""The page of a cleaning in a real browser: decisions are changed there, and the list is saved."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

import danqing as dq
from danqing.data.clean_list import read_clean_list
from tests.e2e.test_report_browser import CHROMIUM, CONTRASTS, browser, visit

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy, three blank images and names that a page could stumble over."""
    folder = tmp_path_factory.mktemp("clean")
    rng = np.random.default_rng(0)
    images = folder / "photos <b>"
    images.mkdir()
    for number in range(12):
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        small.resize((64, 64)).save(images / f"{number}.png")
        if number == 3:
            small.resize((64, 64)).save(images / 'a "quoted", <i>name.png')
    for level in (0, 128, 255):
        Image.new("RGB", (64, 64), (level, level, level)).save(images / f"level {level}.png")
    dq.clean(images, out=folder / "clean.html", features="pixels")
    return folder / "clean.html"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_needs_sideways_scrolling_and_text_stands_out(
    browser: Browser, page_file: Path, width: int, scheme: str
) -> None:
    page, trouble = visit(browser, page_file, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    assert trouble == []


def test_decisions_are_saved_as_a_list_that_can_be_read(
    browser: Browser, page_file: Path, tmp_path: Path
) -> None:
    before = read_clean_list(page_file.with_suffix(".csv"))
    assert {row.decision for row in before} == {"drop"}
    page, trouble = visit(browser, page_file)
    assert page.locator("#list span").inner_text() == "4 images dropped"
    page.locator('[data-set="keep"]').first.click()
    assert page.locator("#list span").inner_text() == "3 images dropped"
    page.locator('[data-all="keep"]').last.click()
    assert page.locator("#list span").inner_text() == "0 images dropped"
    page.locator('[data-set="drop"]').last.click()
    with page.expect_download() as download:
        page.locator("#list button").click()
    assert download.value.suggested_filename == "clean.csv"
    download.value.save_as(tmp_path / "saved.csv")
    after = read_clean_list(tmp_path / "saved.csv")
    assert [row.decision for row in after] == ["keep", "keep", "keep", "drop"]
    assert [row._replace(decision="drop") for row in after] == list(before)
    assert trouble == []
