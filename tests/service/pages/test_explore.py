"""The page that moves between pictures, in a real browser."""

import base64
import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from danqing.service.storage.database import Database
from tests.service.pages.browsing import violations, visit
from tests.service.routes.test_attributions import recognizers
from tests.service.serving import Running, served
from tests.service.training.sets import TRAINING, Client
from tests.service.training.test_nearest import prepared
from tests.service.training.test_training import add_run

pytestmark = pytest.mark.slow

WORDS = {
    "en-US": {
        "moved": "+2.5 standard deviations",
        "nearest": "Nearest training images",
        "counts": "What counts",
        "words": "Where words act",
        "owl": "Which places count for owl",
    },
    "zh-CN": {
        "moved": "+2.5 个标准差",
        "nearest": "最相似的训练图片",
        "counts": "哪里起作用",
        "words": "词语作用的位置",
        "owl": "对 owl 起作用的位置",
    },
}


@pytest.fixture(scope="module")
def service(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chosen = {name: models[name] for name in ("gan", "text", "raster")}
    chosen |= recognizers(tmp_path_factory.mktemp("recognizers"))
    with served(chosen, tmp_path_factory.mktemp("data"), training=TRAINING) as running:
        prepared(running.service.training.run_folder("run_1"), models["gan"])
        add_run(running.service.database, running.service.training.home, "run_1", "finished")
        Client(running.url).ask("POST", "/v1/runs/run_1/service", json={"name": "squares"})
        yield running


def saved(page: Page) -> str:
    """A digest of the picture between the corners."""
    with page.expect_download() as saving:
        page.locator(".explore-side a[download]").click()
    return pixels(saving.value.path().read_bytes())


@pytest.mark.parametrize(("language", "scheme", "width"), [("en-US", "light", 1280), ("zh-CN", "dark", 360)])
def test_a_place_between_the_corners_is_the_mix_of_their_seeds(
    browser: Browser, service: Running, language: str, scheme: str, width: int
) -> None:
    page, trouble = visit(
        browser,
        f"{service.url}/#/explore",
        width,
        ready="#page-explore .middle img[src]",
        locale=language,
        color_scheme=scheme,
    )
    page.locator("#explore-across").fill("5")
    page.locator("#explore-down").press("End")
    status = page.locator(".explore-side [role=status]")
    expect(status).to_contain_text("25%")
    expect(status).to_contain_text("100%")
    seeds = page.evaluate("JSON.parse(localStorage.getItem('danqing-explore')).seeds")
    mix = [{"seed": seeds[2], "share": 0.75}, {"seed": seeds[3], "share": 0.25}]
    body = {"model": "gan", "prompt": "", "mix": mix}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=60).json()
    with page.expect_download() as saving:
        page.locator(".explore-side a[download]").click()
    assert pixels(saving.value.path().read_bytes()) == pixels(base64.b64decode(answer["data"][0]["b64_json"]))
    page.locator(".pad").scroll_into_view_if_needed()
    box = page.locator(".pad").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 20, box["y"] - 20, steps=3)
    page.mouse.up()
    expect(page.locator("#explore-across")).to_have_value("20")
    expect(page.locator("#explore-down")).to_have_value("0")
    page.locator(".sheet-panel > button").click()
    expect(page.locator(".cell img")).to_have_count(25, timeout=60_000)
    page.locator(".cell").nth(12).click()
    expect(page.locator("#explore-across")).to_have_value("10")
    page.locator("#explore-model").select_option("raster")
    page.locator("#explore-reading").select_option("star")
    expect(status).to_contain_text("50%")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    assert trouble == []
    page.close()


def test_a_corner_shows_the_seed_that_was_drawn_last(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, f"{service.url}/#/explore", ready="#page-explore .middle img[src]")
    held: list[Route] = []
    page.route("**/v1/images/generations", lambda route: held.append(route), times=1)
    page.get_by_role("button", name="Four new seeds").click()
    page.wait_for_timeout(100)
    page.locator(".corner-0 button").click()  # while its picture is on its way
    held[0].continue_()
    expect(page.locator(".explore-side [role=status]")).to_contain_text("50%", timeout=60_000)
    seed = page.evaluate("JSON.parse(localStorage.getItem('danqing-explore')).seeds[0]")
    body = {"model": "gan", "prompt": "", "seed": seed}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=60).json()
    shown = page.evaluate("""() => {
        const image = document.querySelector('.corner-0 img'), canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext('2d').drawImage(image, 0, 0);
        return canvas.toDataURL('image/png').split(',')[1];
    }""")
    assert pixels(base64.b64decode(shown)) == pixels(base64.b64decode(answer["data"][0]["b64_json"]))
    assert trouble == []
    page.close()


@pytest.mark.parametrize(("language", "scheme", "width"), [("en-US", "light", 1280), ("zh-CN", "dark", 360)])
def test_a_picture_is_moved_along_directions_and_shows_what_is_behind_it(
    browser: Browser, service: Running, language: str, scheme: str, width: int
) -> None:
    page, trouble = visit(
        browser,
        f"{service.url}/#/explore",
        width,
        ready="#page-explore .middle img[src]",
        locale=language,
        color_scheme=scheme,
    )
    page.locator("#explore-model").select_option("run:squares")
    status, done = page.locator(".explore-side [role=status]"), re.compile("50%")
    expect(status).to_contain_text(done)
    still = saved(page)
    second = page.locator("#explore-direction-2")
    for _ in range(5):
        second.press("ArrowRight")
    assert second.get_attribute("aria-valuetext") == WORDS[language]["moved"]
    expect(status).to_contain_text(done)
    seeds = page.evaluate("JSON.parse(localStorage.getItem('danqing-explore')).seeds")
    mix = [{"seed": seed, "share": 0.25} for seed in seeds]
    directions = [{"number": 2, "distance": 2.5}]
    body = {"model": "run:squares", "prompt": "", "mix": mix, "directions": directions}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=body, timeout=60).json()
    moved = pixels(base64.b64decode(answer["data"][0]["b64_json"]))
    assert saved(page) == moved != still

    page.get_by_role("button", name=WORDS[language]["nearest"]).click()
    found = page.locator(".findings li")
    expect(found).to_have_count(12)
    expect(found.first.locator("img")).to_have_attribute("alt", re.compile(r"\d+\.png"))
    page.evaluate("Promise.all([...document.querySelectorAll('.findings img')].map(one => one.decode()))")
    assert violations(page) == []

    page.locator("#explore-judge").select_option("kinds")
    page.locator("#explore-judged").select_option("owl")
    page.get_by_role("button", name=WORDS[language]["counts"]).click()
    expect(found.last.locator("img")).to_have_attribute("alt", WORDS[language]["owl"])
    assert violations(page) == []

    page.locator(".directions button").press("Enter")
    expect(second).to_have_value("0")
    expect(found).to_have_count(0)  # they were those of another picture
    expect(status).to_contain_text(done)
    assert saved(page) == still

    page.locator("#explore-model").select_option("text")
    expect(page.locator(".directions")).to_be_hidden()
    expect(page.get_by_role("button", name=WORDS[language]["nearest"])).to_be_hidden()
    expect(page.get_by_role("button", name=WORDS[language]["words"])).to_be_hidden()
    page.locator("#explore-reading").fill("a red square")
    page.locator("#explore-reading").press("Tab")
    page.get_by_role("button", name=WORDS[language]["words"]).click()
    expect(found).to_have_count(3)
    expect(found.nth(1)).to_contain_text("red")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    assert trouble == []
    page.close()


def test_a_visitor_without_scopes_sees_no_buttons_for_them(
    browser: Browser, models: dict[str, str], tmp_path: Path
) -> None:
    chosen = {"gan": models["gan"], **recognizers(tmp_path / "recognizers")}
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(Database(f"sqlite:///{data / 'service.db'}")) as database:
        database.migrate()
        key = key_admin.create(database, Grant("anna", scopes=("generate",)))[1]
    with served(chosen, data, training=TRAINING) as running:
        page, trouble = visit(browser, f"{running.url}/#/explore", ready="#key:visible", locale="en-US")
        page.locator("#key").fill(key)
        page.locator("#key").press("Enter")
        page.wait_for_selector("#page-explore .middle img[src]")
        expect(page.locator("#explore-direction-1")).to_be_visible()
        expect(page.locator(".behind")).to_be_hidden()
        assert [line for line in trouble if "401" not in line] == []
        page.close()


def pixels(file: bytes) -> str:
    """A digest of what a picture shows, without its marks."""
    return hashlib.sha256(Image.open(io.BytesIO(file)).convert("RGBA").tobytes()).hexdigest()
