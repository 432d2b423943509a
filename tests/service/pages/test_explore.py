"""The page that moves between pictures, in a real browser."""

import base64
import hashlib
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.service.pages.browsing import violations, visit
from tests.service.serving import Running, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chosen = {name: models[name] for name in ("gan", "text", "raster")}
    with served(chosen, tmp_path_factory.mktemp("data")) as running:
        yield running


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


def pixels(file: bytes) -> str:
    """A digest of what a picture shows, without its marks."""
    return hashlib.sha256(Image.open(io.BytesIO(file)).convert("RGBA").tobytes()).hexdigest()
