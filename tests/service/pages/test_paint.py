"""Painting in a real browser: nothing is lost by a reload, and every picture can be made again."""

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.service.pages.browsing import violations, visit
from tests.service.serving import Running, served

pytestmark = pytest.mark.slow

READY = "#studio:not([hidden])"
HASHES = """async () => Promise.all(
    [...document.querySelectorAll('#rounds .round:first-child .tile img')].map(async image => {
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
        const digest = await crypto.subtle.digest('SHA-256', pixels);
        return [...new Uint8Array(digest)].map(one => one.toString(16).padStart(2, '0')).join('');
    }))"""


@pytest.fixture(scope="module")
def service(models: dict[str, str], slow: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chosen = {"text": models["text"], "slow": slow, "gan": models["gan"]}
    with served(chosen, tmp_path_factory.mktemp("data"), gallery={"keep": 1}) as running:
        running.service.scheduler.pool.supervisors[0].grace = 3600.0  # a stopped worker must not be killed
        yield running


def painted(page: Page, count: int = 1) -> None:
    """Wait until as many rounds are there, all of them finished."""
    expect(page.locator("#rounds .round")).to_have_count(count, timeout=60_000)
    expect(page.locator("#rounds .round progress:not([hidden])")).to_have_count(0, timeout=60_000)


def test_a_reload_loses_neither_the_draft_nor_a_job(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, service.url, ready=READY, locale="en-US")
    page.get_by_label("Describe a picture").fill("a draft")
    page.get_by_text("More settings").click()
    page.get_by_label("Randomness").fill("0.5")
    with service.standstill():
        page.get_by_label("Seed").fill("11")
        page.get_by_role("button", name="Generate").click()
        page.get_by_label("Seed").fill("12")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#rounds .round")).to_have_count(2)
        while not page.evaluate("JSON.parse(localStorage['danqing-rounds']).every(one => one.job)"):
            page.wait_for_timeout(50)
        page.reload()
        expect(page.locator("#rounds .round")).to_have_count(2)
    painted(page, 2)
    expect(page.locator("#rounds .round:first-child .tile img")).to_have_count(4)
    expect(page.get_by_label("Describe a picture")).to_have_value("a draft")
    expect(page.get_by_label("Seed")).to_have_value("12")
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Randomness")).to_have_value("0.5")
    page.reload()
    painted(page, 2)
    expect(page.locator("#rounds .round:first-child .tile img")).to_have_count(4)
    assert len(httpx.get(f"{service.url}/v1/jobs").json()["data"]) == 2
    assert trouble == []


def test_a_request_shows_its_progress_and_can_be_cancelled(browser: Browser, service: Running) -> None:
    page, _ = visit(browser, service.url, ready=READY, locale="en-US")
    page.get_by_text("slow", exact=True).click()
    with service.slow_motion():
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(".round progress")).to_have_count(1)
        expect(page.locator(".tile.waiting.begun img").first).to_be_visible(timeout=60_000)
    painted(page, 1)
    with service.standstill():
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#rounds .round")).to_have_count(2)
        page.locator("#rounds").get_by_role("button", name="Stop").click()
        expect(page.locator("#rounds .round")).to_have_count(1, timeout=30_000)
    expect(page.locator("#said")).to_have_text("Stopped.")


def test_prompts_favourites_and_settings_are_remembered(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, service.url, ready=READY, locale="en-US")
    for prompt in ("a red square", "a blue circle"):
        page.get_by_label("Describe a picture").fill(prompt)
        page.get_by_role("button", name="Generate").click()
    painted(page, 2)
    page.get_by_text("Earlier prompts").click()
    page.get_by_label("Favourite: a red square").click()
    page.reload()
    page.get_by_text("Earlier prompts").click()
    entries = page.locator("#history .entry")
    expect(entries.first).to_have_text("a red square")
    page.get_by_role("button", name="Forget all but the favourites").click()
    expect(entries).to_have_count(1)
    page.get_by_label("Describe a picture").fill("")
    entries.first.click()
    expect(page.get_by_label("Describe a picture")).to_have_value("a red square")
    page.get_by_text("More settings").click()
    page.get_by_label("Randomness").fill("0.25")
    page.get_by_label("Name for these settings").fill("calm")
    page.get_by_label("Name for these settings").press("Enter")
    page.get_by_label("Randomness").fill("")
    page.reload()
    page.get_by_text("More settings").click()
    page.get_by_label("Saved settings").select_option("calm")
    expect(page.get_by_label("Randomness")).to_have_value("0.25")
    assert violations(page) == []
    assert trouble == []


@pytest.mark.parametrize("embeds", [False, True])
def test_a_picture_that_is_dropped_on_the_page_is_made_again(
    browser: Browser, service: Running, tmp_path: Path, embeds: bool
) -> None:
    page, trouble = visit(browser, service.url, ready=READY, locale="en-US")
    body = {"model": "text", "prompt": f"a star {embeds}", "n": 3, "seed": 99, "temperature": 0.7}
    asked = {**body, "embed_settings": embeds}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=asked, timeout=60).json()
    files = [base64.b64decode(one["b64_json"]) for one in answer["data"]]
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(files[1])
    if embeds:
        for number in [one["number"] for one in httpx.get(f"{service.url}/v1/gallery").json()["data"]]:
            httpx.delete(f"{service.url}/v1/gallery/{number}")
    page.get_by_label("Settings of a picture").set_input_files(dropped)
    expect(page.locator("#said")).to_contain_text("number 2 of 3")
    expect(page.get_by_label("Describe a picture")).to_have_value(f"a star {embeds}")
    page.get_by_role("button", name="Generate").click()
    painted(page)
    wanted = [
        hashlib.sha256(Image.open(io.BytesIO(file)).convert("RGBA").tobytes()).hexdigest() for file in files
    ]
    assert page.evaluate(HASHES) == wanted
    foreign = tmp_path / "other.png"
    Image.new("RGB", (8, 8)).save(foreign)
    page.get_by_label("Settings of a picture").set_input_files(foreign)
    expect(page.locator("#error")).to_contain_text("has no settings")
    assert [line for line in trouble if "404" not in line] == []


def test_a_picture_of_mixed_seeds_and_directions_is_made_again(
    browser: Browser, service: Running, tmp_path: Path
) -> None:
    mix = [{"seed": 3, "share": 0.25}, {"seed": 9, "share": 0.75}]
    body = {"model": "gan", "prompt": "", "mix": mix, "directions": [{"number": 2, "distance": -1.5}]}
    asked = {**body, "embed_settings": True}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=asked, timeout=60).json()
    dropped = tmp_path / "picture.png"
    dropped.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    page, trouble = visit(browser, service.url, ready=READY, locale="en-US")
    page.get_by_label("Settings of a picture").set_input_files(dropped)
    expect(page.locator("#carried")).to_be_visible()
    page.get_by_role("button", name="Generate").click()
    painted(page)
    wanted = hashlib.sha256(Image.open(dropped).convert("RGBA").tobytes()).hexdigest()
    assert page.evaluate(HASHES) == [wanted]
    expect(page.locator("#rounds")).to_contain_text("3+9")
    assert violations(page) == []
    page.locator("#carried button").click()
    expect(page.locator("#carried")).to_be_hidden()
    page.get_by_role("button", name="Generate").click()
    painted(page, 2)
    assert page.evaluate(HASHES) != [wanted]
    assert trouble == []


def test_each_picture_can_be_enlarged_repeated_and_used(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, service.url, ready=READY, locale="en-US")
    page.get_by_label("Describe a picture").fill("a green star")
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Generate").click()
    painted(page)
    before = page.evaluate(HASHES)
    page.get_by_role("button", name="Enlarge a green star, picture 1 of 4").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 / 4")
    assert violations(page) == []
    page.keyboard.press("ArrowRight")
    expect(dialog).to_contain_text("2 / 4")
    dialog.get_by_role("button", name="Again").click()
    painted(page, 2)
    assert page.evaluate(HASHES) == before
    page.locator("#rounds .round:first-child").get_by_role("button", name="New seed").click()
    painted(page, 3)
    assert page.evaluate(HASHES) != before
    with page.expect_download() as saving:
        page.locator("#rounds .round:first-child").get_by_role("button", name="Contact sheet").click()
    sheet = Image.open(saving.value.path())
    assert sheet.size == (2 * (8 + 2) + 2, 2 * (8 + 2) + 2)
    assert trouble == []
