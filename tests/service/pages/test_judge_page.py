"""The page for judging in a browser: two languages, keyboard, reloads, and nothing that axe finds."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from danqing.service.judging.judge import Judging, judge
from tests.service.judging.judged import Rater, folders, serving
from tests.service.pages.browsing import violations, visit
from tests.service.serving import served

pytestmark = pytest.mark.slow


DOOR, BALLOT = "#door:not([hidden])", ".picture:enabled"


class Served(NamedTuple):
    """Where sessions of pairs and of fours are judged; each key may judge in one of them."""

    url: str
    data: Path
    pairs: Judging
    fours: Judging
    keys: dict[str, Iterator[str]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("judging")
    sources = folders(folder / "given", ("a", "b", "c", "d"), side=24)
    data = folder / "data"
    pairs = judge(sources, out=folder / "pairs", raters=12, ballots=4, checks=0, data=data)
    fours = judge(sources, out=folder / "fours", raters=12, ballots=3, checks=0, fours=True, data=data)
    keys = {"pairs": iter(pairs.keys.values()), "fours": iter(fours.keys.values())}
    with serving(data) as url:
        yield Served(url, data, pairs, fours, keys)


def ready(page: Page, answered: int, wanted: int, language: str = "en") -> None:
    """Wait until a ballot can be answered."""
    told = f"{answered} of {wanted}" if language == "en" else f"{answered} / {wanted}"
    expect(page.locator("#count")).to_have_text(told)
    expect(page.locator(".picture:enabled").first).to_be_visible()


WORDS = {
    "en": ("Which one is better?", "Picture A is better", "Thank you: you have judged everything."),
    "zh": ("哪一张更好？", "图片 A 更好", "谢谢，你已完成全部评选。"),
}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_rater_judges_by_link_and_keyboard_alone(browser: Browser, service: Served, language: str) -> None:
    link = f"{service.url}{service.pairs.link}&key={next(service.keys['pairs'])}"
    page, trouble = visit(browser, link, ready=BALLOT, locale={"en": "en-GB", "zh": "zh-CN"}[language])
    step, better, thanks = WORDS[language]
    ready(page, 0, 4, language)
    assert "key=" not in page.url  # nobody reads it from the address
    expect(page.locator("#step")).to_have_text(step)
    expect(page.get_by_role("button", name=better)).to_be_visible()
    page.keyboard.press("ArrowLeft")
    ready(page, 1, 4, language)
    page.keyboard.press("ArrowRight")
    ready(page, 2, 4, language)
    page.keyboard.press("ArrowDown")
    ready(page, 3, 4, language)
    page.reload()  # the same ballot, and the key is still there
    ready(page, 3, 4, language)
    page.get_by_role("button", name=better).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#end-text")).to_have_text(thanks)
    expect(page.locator("#end-text")).to_be_focused()
    assert trouble == []
    page.close()


def test_the_best_and_the_worst_of_four_can_be_chosen_and_chosen_again(
    browser: Browser, service: Served
) -> None:
    page, trouble = visit(browser, f"{service.url}/judge", ready=DOOR, locale="en-GB")
    trouble.clear()  # the browser says that the first request had no key
    page.get_by_label("Key", exact=True).fill("dq_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This key is not valid.")
    page.get_by_label("Key", exact=True).fill(next(service.keys["fours"]))
    page.keyboard.press("Enter")
    ready(page, 0, 3)
    trouble.clear()
    expect(page.locator("#step")).to_have_text("Which one is the best?")
    page.keyboard.press("2")
    expect(page.locator("#step")).to_have_text("And which one is the worst?")
    expect(page.get_by_role("button", name="Picture B, chosen as the best")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.keyboard.press("2")  # the best cannot be the worst
    page.keyboard.press("Escape")
    expect(page.locator("#step")).to_have_text("Which one is the best?")
    page.get_by_role("button", name="Picture D is the best").click()
    page.get_by_role("button", name="Picture A is the worst").click()
    ready(page, 1, 3)
    assert trouble == []
    page.close()


@pytest.mark.parametrize("kind", ["pairs", "fours"])
@pytest.mark.parametrize(("scheme", "width", "language"), [("light", 1280, "en-GB"), ("dark", 360, "zh-CN")])
def test_axe_finds_nothing_and_a_phone_shows_all(
    browser: Browser, service: Served, kind: str, scheme: str, width: int, language: str
) -> None:
    session = getattr(service, kind)
    link = f"{service.url}{session.link}&key={next(service.keys[kind])}"
    page, trouble = visit(browser, link, width, ready=BALLOT, color_scheme=scheme, locale=language)
    expect(page.locator(".picture:enabled").first).to_be_visible()
    if kind == "fours":
        page.keyboard.press("1")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelector('.picture img').complete")
    assert trouble == []
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.close()
    page, _ = visit(browser, f"{service.url}/judge", width, ready=DOOR, color_scheme=scheme)
    expect(page.locator("#key")).to_be_visible()
    assert violations(page) == []
    page.close()


def test_a_vote_that_the_service_did_not_confirm_is_sent_again_and_counted_once(
    browser: Browser, service: Served
) -> None:
    link = f"{service.url}{service.pairs.link}&key={next(service.keys['pairs'])}"
    page, _ = visit(browser, link, ready=BALLOT, locale="en-GB")
    ready(page, 0, 4)
    page.route("**/v1/judging/ballots/*", lambda route: (route.fetch(), route.abort()))  # stored, unheard of
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/v1/judging/ballots/*")
    page.get_by_role("button", name="Try again").click()
    ready(page, 1, 4)
    expect(page.get_by_role("alert")).to_be_hidden()
    page.close()


def test_both_languages_have_the_same_words(browser: Browser, service: Served) -> None:
    page, _ = visit(browser, f"{service.url}/judge", ready=DOOR, locale="en-GB")
    words = page.evaluate(
        """import(document.querySelector('script[type=module]').src.replace('judge', 'words'))
        .then(({ WORDS }) => [WORDS.en, WORDS.zh].map(Object.keys))"""
    )
    assert words[0] == words[1]
    page.get_by_role("button", name="中文").click()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("label[for=key]")).to_have_text("密钥")
    page.close()


def test_the_studio_lists_sessions_and_shows_administrators_the_ratings(
    browser: Browser, models: dict[str, str], tmp_path: Path
) -> None:
    sources = folders(tmp_path / "given", ("painter", "sketcher"))
    started = judge(sources, out=tmp_path / "out", checks=0, data=tmp_path / "data")
    with served({"gan": models["gan"]}, tmp_path / "data") as running:
        page, trouble = visit(browser, f"{running.url}/#/judge", locale="en-GB")
        expect(page.locator("#page-judge")).to_contain_text("Nobody has voted yet.")
        page.get_by_role("link", name="Judge", exact=True).last.click()
        page.wait_for_selector(BALLOT)
        page.keyboard.press("ArrowLeft")
        ready(page, 1, 60)
        assert Rater(running.url).ballot(started.session)["answered"] == 1
        page.goto(f"{running.url}/#/judge")
        expect(page.locator("#page-judge tbody tr")).to_have_count(2)
        expect(page.locator("#page-judge")).to_contain_text("1 votes of 1 raters")
        assert violations(page) == []
        page.get_by_role("button", name="中文").click()
        expect(page.locator("#page-judge h2")).to_have_text("哪张图片更好？")
        assert violations(page) == []
        assert trouble == []
        page.close()
