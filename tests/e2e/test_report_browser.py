"""The report in a real browser: nothing is fetched, nothing hostile runs, it reads well at every width."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from danqing.training.report import document as report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def visit(browser: Browser, path: Path, width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text))
    page.on(
        "request", lambda request: trouble.append(request.url) if request.url.startswith("http") else None
    )
    page.goto(path.resolve().as_uri())
    return page, trouble


def test_nothing_is_fetched_and_nothing_hostile_runs(browser: Browser, written_run: Path) -> None:
    page, trouble = visit(browser, report.write(written_run))
    assert page.title() == "a run & <b>more · Danqing"
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    )
    assert page.title() == "a run & <b>more · Danqing", "the page's policy lets only its own script run"
    assert len(trouble) == 1
    assert "Content Security Policy" in trouble[0]


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_needs_sideways_scrolling_and_text_stands_out(
    browser: Browser, scored_run: Path, width: int, scheme: str
) -> None:
    page, _ = visit(browser, report.write(scored_run), width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 50
    assert min(ratios) >= 4.5


def test_the_slider_and_the_play_button_show_samples_over_time(browser: Browser, written_run: Path) -> None:
    page, trouble = visit(browser, report.write(written_run))
    caption = page.locator(".frames output")
    assert caption.inner_text() == "Samples after 192,000 images"
    slider = page.get_by_label("Samples over time")
    slider.focus()
    slider.press("Home")
    assert caption.inner_text() == "Samples after 0 images"
    assert page.locator(".frames img:visible").get_attribute("alt") == "Samples after 0 images"
    page.get_by_role("button", name="Play").click()
    expect(caption).to_have_text("Samples after 192,000 images")
    assert page.get_by_role("button", name="Play").is_visible(), "it stops at the end"
    assert trouble == []


def test_a_curve_tells_its_value_under_the_pointer(browser: Browser, written_run: Path) -> None:
    page, _ = visit(browser, report.write(written_run))
    figure = page.locator(".chart", has_text="learning rate")
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 46 / 360, box["y"] + 40)
    assert figure.locator("b").inner_text() == "2.0e-4 at 1280"
    page.mouse.move(0, 0)
    assert " at " not in figure.locator("b").inner_text()


def test_it_reads_without_scripts_too(browser: Browser, written_run: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.write(written_run).resolve().as_uri())
    assert page.get_by_alt_text("Samples after 192,000 images").is_visible()
    assert not page.get_by_role("button", name="Play").is_visible()
    context.close()


def test_every_chart_and_picture_says_what_it_shows(browser: Browser, written_run: Path) -> None:
    page, _ = visit(browser, report.write(written_run))
    unnamed = page.evaluate(
        "[...document.querySelectorAll('img:not([alt]), svg:not([aria-label]):not([aria-hidden]), "
        "input:not([aria-label])')].map(element => element.outerHTML.slice(0, 80))"
    )
    assert json.dumps(unnamed) == "[]"
    assert page.locator("h1").count() == 1


CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const paper = (element) => {
    for (; element; element = element.parentElement) {
      const colour = numbers(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const style = getComputedStyle(e);
      const pair = [light(numbers(e instanceof SVGElement ? style.fill : style.color)), light(paper(e))];
      return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    });
}"""
