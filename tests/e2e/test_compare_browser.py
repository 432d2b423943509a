"""The page of a comparison in a real browser: at every width, in both schemes, with hostile names."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from danqing.studies import compare_page
from tests.e2e.test_report_browser import CHROMIUM, CONTRASTS, browser, visit
from tests.studies.written import write_comparison

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    return compare_page.write(write_comparison(tmp_path), tmp_path)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_needs_sideways_scrolling_and_text_stands_out(
    browser: Browser, page_file: Path, width: int, scheme: str
) -> None:
    page, trouble = visit(browser, page_file, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 100
    assert min(ratios) >= 4.5
    assert trouble == [], "nothing is fetched, and nothing fails"
    assert page.title().startswith("pets & more <script>")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_a_wide_table_scrolls_in_its_own_box_with_its_names_in_sight(
    browser: Browser, page_file: Path
) -> None:
    page, _ = visit(browser, page_file, 390)
    box = page.get_by_role("region", name="Measured")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")
    box.evaluate("box => { box.scrollLeft = 200; }")
    name, frame = page.get_by_role("rowheader", name="Recall").bounding_box(), box.bounding_box()
    assert name is not None
    assert frame is not None
    assert abs(name["x"] - frame["x"]) < 3


def test_what_is_shown_is_said_too(browser: Browser, page_file: Path) -> None:
    page, _ = visit(browser, page_file)
    unnamed = page.evaluate(
        "[...document.querySelectorAll('img:not([alt]), svg:not([aria-label]):not([aria-hidden])')]"
        ".map(element => element.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert page.locator("h1").count() == 1
    assert page.get_by_role("columnheader", name="gan-32").is_visible()
    plot = page.get_by_role("img", name="precision against recall")
    assert "gan-32: precision 0.71, recall 0.31" in (plot.get_attribute("aria-label") or "")


def test_a_curve_tells_its_value_under_the_pointer(browser: Browser, page_file: Path) -> None:
    page, _ = visit(browser, page_file)
    figure = page.locator(".chart[data-points]")
    figure.scroll_into_view_if_needed()
    before = figure.locator("b").first.inner_text()
    box = figure.locator("svg[role=img]").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 46 / 360, box["y"] + 40)
    assert figure.locator("b").first.inner_text().endswith(" at 1")
    page.mouse.move(0, 0)
    assert figure.locator("b").first.inner_text() == before
