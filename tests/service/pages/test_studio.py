"""The studio in a real browser: it paints, in two languages, and runs its own code alone."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Route, expect

from danqing.service.pages import studio_page
from tests.service.pages.browsing import violations, visit
from tests.service.serving import Running, served

PIXELS = """[...document.querySelectorAll('#rounds .round:first-child .tile img')].map(image => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
})"""
UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, a')]
    .filter(node => node.checkVisibility())
    .filter(node => !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()))
    .map(node => node.outerHTML)"""
UNTRANSLATED = """import(document.querySelector('script[type=module]').src.replace('studio.js', 'words.js'))
    .then(({ WORDS: { en, zh } }) => [
        ...Object.keys(en).filter(word => !(word in zh)), ...Object.keys(zh).filter(word => !(word in en))
    ])"""
# Text that has less than 4.5:1 of contrast with the nearest background behind it, but for what is disabled.
FAINT = """(() => {
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
            .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = node => {
        for (let one = node; one; one = one.parentElement) {
            const colour = getComputedStyle(one).backgroundColor;
            if (!/, 0\\)$|transparent/.test(colour)) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = [];
    while (text.nextNode()) {
        const node = text.currentNode.parentElement;
        if (!text.currentNode.data.trim() || !node.checkVisibility()) continue;
        if (node.closest('.model:has(:disabled), script')) continue;
        const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(node.textContent.trim().slice(0, 40));
    }
    return faint;
})()"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(
    models: dict[str, str], broken: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    chosen = {name: models[name] for name in ("text", "vae", "gan")}
    with served({**chosen, "broken": broken}, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.mark.parametrize("name", ["paint", "edit", "explore"])
def test_all_modules_of_a_page_are_asked_for_before_one_of_them_runs(
    browser: Browser, service: Running, name: str
) -> None:
    page, _ = visit(browser, f"{service.url}/#/{name}", ready=f"#page-{name}:not([hidden])")
    ahead = page.evaluate("[...document.querySelectorAll('link[rel=modulepreload]')].map(one => one.href)")
    loaded = page.evaluate("performance.getEntriesByType('resource').map(one => one.name)")
    modules = {one for one in loaded if one.endswith(".js")}
    assert modules == {*ahead, page.evaluate("document.querySelector('script[type=module]').src")}
    page.close()


def test_the_page_that_was_chosen_last_is_shown_whichever_is_loaded_last(
    browser: Browser, service: Running
) -> None:
    page, _ = visit(browser, service.url)
    held: list[Route] = []
    page.route("**/edit.js", lambda route: held.append(route), times=1)
    page.get_by_role("link", name="Edit").click()
    page.wait_for_timeout(100)
    page.get_by_role("link", name="Paint").click()
    expect(page.locator("#page-paint")).to_be_visible()
    held[0].continue_()
    page.wait_for_selector("#page-edit h1", state="attached")
    page.wait_for_timeout(100)
    expect(page.locator("#page-paint")).to_be_visible()
    expect(page.locator("#page-edit")).to_be_hidden()
    page.close()


def test_it_paints_what_is_asked_for_and_says_the_code_that_does_the_same(
    browser: Browser, service: Running
) -> None:
    page, trouble = visit(browser, service.url)
    page.get_by_label("Describe a picture").fill("a red square")
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("4 pictures of a red square", timeout=60_000)
    tiles = page.locator("#rounds .round:first-child .tile img")
    expect(tiles).to_have_count(4)
    expect(tiles.first).to_have_attribute("alt", "a red square, picture 1 of 4")
    asked = {"model": "text", "prompt": "a red square", "n": 4, "seed": 7}
    answer = httpx.post(f"{service.url}/v1/images/generations", json=asked, timeout=60).json()
    for shown, picture in zip(page.evaluate(PIXELS), answer["data"], strict=True):
        decoded = Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))).convert("RGBA")
        assert bytes(shown) == decoded.tobytes()
    page.get_by_role("tab", name="curl").press("ArrowRight")
    code = page.locator("#code")
    expect(code).to_contain_text('prompt="a red square"')
    expect(code).to_contain_text('extra_body={"seed": 7}')
    compile(code.inner_text(), "the page", "exec")
    assert trouble == []


def test_pictures_are_varied_saved_and_asked_for_again(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, service.url)
    page.get_by_text("vae", exact=True).click()
    page.get_by_role("button", name="red square", exact=True).click()
    page.get_by_role("button", name="Generate").click()
    first = page.locator("#rounds .round").last
    expect(first.locator("img")).to_have_count(4, timeout=60_000)
    expect(first.locator(".facts")).to_contain_text("seed")
    seed = first.locator(".facts").inner_text().split("seed ")[1].split(" ")[0]
    with page.expect_download() as saving:
        first.get_by_text("Save").first.click(force=True)
    assert saving.value.suggested_filename == f"vae-{seed}-1.png"
    assert Path(saving.value.path()).read_bytes().startswith(b"\x89PNG")
    first.get_by_text("Vary").nth(1).click(force=True)
    expect(page.locator("#rounds .round").first.locator("h3")).to_have_text("Variations: red square")
    expect(page.locator("#said")).to_contain_text("red square")
    first.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Seed")).to_have_value(seed)
    assert page.get_by_role("button", name="red square", exact=True).get_attribute("aria-pressed") == "true"
    assert trouble == []


def test_a_mistake_is_told_beside_its_field_and_takes_nothing_away(
    browser: Browser, service: Running
) -> None:
    page, _ = visit(browser, service.url)
    page.get_by_label("Seed").fill("9" * 25)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("seed")
    expect(page.get_by_label("Seed")).to_be_focused()
    expect(page.get_by_label("Seed")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.get_by_role("radio", name="broken")).to_be_disabled()


def test_it_speaks_chinese_to_who_reads_it_and_remembers_a_choice(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, service.url, locale="zh-CN")
    expect(page.locator("#page-paint h1")).to_have_text("想看到什么图片？")
    assert page.get_attribute("html", "lang") == "zh-CN"
    page.get_by_role("button", name="English").click()
    expect(page.locator("#page-paint h1")).to_have_text("What do you want to see?")
    page.reload()
    expect(page.locator("#page-paint h1")).to_have_text("What do you want to see?")
    assert page.evaluate(UNTRANSLATED) == []
    assert trouble == []


def test_nothing_but_its_own_script_runs(browser: Browser, service: Running) -> None:
    page, trouble = visit(browser, service.url)
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))"
    )
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>no</b>'")
    with pytest.raises(Exception, match="TrustedScript"):
        page.evaluate("document.createElement('script').text = 'document.title = 1'")
    assert any("Content Security Policy" in line for line in trouble)
    policy = httpx.get(service.url).headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well_at_every_width_in_light_and_dark(
    browser: Browser, service: Running, width: int, scheme: str
) -> None:
    page, trouble = visit(browser, service.url, width, color_scheme=scheme)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_text("More settings").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(FAINT) == []
    assert violations(page) == []
    assert trouble == []


def test_a_proxy_may_offer_the_service_below_a_path_of_its_own(browser: Browser, service: Running) -> None:
    below = f"{service.url}/tools/danqing"
    with browser.new_context() as context:
        context.route(
            f"{below}/**",
            lambda route: route.continue_(url=route.request.url.replace("/tools/danqing", "", 1)),
        )
        page, trouble = visit(context, f"{below}/#/paint", ready="#page-paint:not([hidden])")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("gallery", "edit", "explore", "account"):
            if page.locator(f'#menu a[href="#/{name}"]').count():
                page.click(f'#menu a[href="#/{name}"]')
                page.wait_for_selector(f"#page-{name}:not([hidden])")
        page.click('a[data-t="docs"]')
        page.click("text=To the start page")
        page.wait_for_selector("#page-paint:not([hidden])")
        page.goto(f"{below}/judge")
        page.wait_for_selector("#desk")
    assert not trouble
    assert asked
    assert not [address for address in asked if not address.startswith((below, "blob:", "data:"))]


def test_samples_are_given_by_name_alone(service: Running) -> None:
    picture = httpx.get(f"{service.url}/models/vae/samples.png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-content-type-options"] == "nosniff"
    for name in ("none", "..%2Fvae", "%2Fetc", "vae/../vae"):
        answer = httpx.get(f"{service.url}/models/{name}/samples.png")
        assert answer.status_code == (200 if name == "vae/../vae" else 404), name


def test_its_files_are_small_compressed_and_kept_by_browsers(service: Running) -> None:
    page = httpx.get(service.url)
    assert page.headers["content-encoding"] == "gzip"
    assert httpx.get(service.url, headers={"if-none-match": page.headers["etag"]}).status_code == 304
    (base,) = {f"/{found}" for found in re.findall(r'(?<=")studio/[0-9a-f]{20}(?=/)', page.text)}
    folder = Path(studio_page.__file__).with_name("studio")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.js")]
    total = int(page.headers["content-length"])
    for name in (*names, "shared.css", "studio.css"):
        file = httpx.get(f"{service.url}{base}/{name}")
        assert "immutable" in file.headers["cache-control"]
        assert file.headers["x-content-type-options"] == "nosniff"
        total += int(file.headers["content-length"])
    assert total < 150_000  # of all pages together
    plain = httpx.get(f"{service.url}{base}/studio.js", headers={"accept-encoding": "identity"})
    assert plain.content == (folder / "studio.js").read_bytes()
    for wrong in (
        f"{base}/none.js",
        f"{base}/..%2Fstudio_page.py",
        "/studio/0/studio.js",
        f"{base}/index.html",
    ):
        assert httpx.get(f"{service.url}{wrong}").status_code == 404
