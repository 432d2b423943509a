"""The page of a batch of edits in a real browser: with a mouse, a finger or keys, and without scripts."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from danqing.editing.compare_page import CompareResults, write_page
from tests.e2e.test_report_browser import CHROMIUM, CONTRASTS, browser, visit

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
HOSTILE = "pets/<script>document.title='broken'</script>.png"


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    """Red images that became blue: of 8 and 16 bits, larger than the page shows them, and extended."""
    results = CompareResults("fill", {"model": "9f2c", "steps": {"num_steps": 20}, "note": HOSTILE}, 5)
    for name, shape, dtype in (
        (HOSTILE, (400, 600, 3), np.uint8),
        ("tall.tiff", (1800, 300, 3), np.uint16),
        ("tiny.png", (8, 8, 4), np.uint8),
    ):
        before = np.zeros(shape, dtype)
        before[..., [0, 3][: shape[2] - 2]] = np.iinfo(dtype).max
        after = before[..., [2, 1, 0, 3][: shape[2]]]
        kept = np.ones(shape[:2], bool)
        results.add(name, before, after, file_sizes=(1000, 2000), seconds=0.5, kept=kept)
    grey = np.full((10, 10, 1), 90, np.uint8)
    results.add(
        "wide.png", grey, np.pad(grey, ((0, 0), (5, 9), (0, 0))), file_sizes=(9, 9), seconds=1, offset=(5, 0)
    )
    results.fail("broken.png", HOSTILE)
    return write_page(results, tmp_path / "compare.html")


def blue_share(page: Page) -> float:
    """How much of the first image shows its edit, as the screen shows it."""
    stage = page.locator(".stage").first
    pixels = np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB")).astype(int)
    middle = pixels[len(pixels) // 4]
    return float((middle[:, 2] > middle[:, 0]).mean())


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_needs_sideways_scrolling_and_text_stands_out(
    browser: Browser, page_file: Path, width: int, scheme: str
) -> None:
    page, trouble = visit(browser, page_file, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 40
    assert min(ratios) >= 4.5
    page.evaluate("document.querySelectorAll('img').forEach(one => { one.loading = 'eager'; })")
    page.wait_for_function("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert trouble == [], "nothing is fetched, and nothing fails"
    assert page.title() == "danqing fill · Danqing"


def test_a_slider_follows_keys_a_mouse_and_a_finger(browser: Browser, page_file: Path) -> None:
    page, _ = visit(browser, page_file)
    stage, slider = page.locator(".stage").first, page.get_by_role("slider").first
    assert (slider.get_attribute("aria-label") or "").endswith(HOSTILE)
    assert abs(blue_share(page) - 0.5) < 0.03
    slider.focus()
    slider.press("Home")
    assert blue_share(page) > 0.97
    slider.press("End")
    assert blue_share(page) < 0.03
    for _ in range(10):
        slider.press("ArrowLeft")
    assert abs(blue_share(page) - 0.1) < 0.03
    assert slider.get_attribute("aria-valuetext") == "90% before, 10% after"
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20, steps=3)
    page.mouse.up()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 20)
    assert abs(blue_share(page) - 0.7) < 0.03
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "31% before, 69% after"
    phone = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.goto(page_file.resolve().as_uri())
    page.locator(".stage").first.scroll_into_view_if_needed()
    box = page.locator(".stage").first.bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 0.2 * box["width"], box["y"] + 20)
    assert abs(blue_share(page) - 0.8) < 0.03
    phone.close()


def test_it_reads_without_scripts_too(browser: Browser, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.resolve().as_uri())
    before, after = (page.get_by_alt_text(f"tiny.png, {side}") for side in ("before", "after"))
    before.scroll_into_view_if_needed()
    left, right = before.bounding_box(), after.bounding_box()
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert page.get_by_role("slider").count() == 0
    context.close()
