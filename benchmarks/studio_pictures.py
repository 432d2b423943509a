"""Renders pictures of the studio's pages from a real server in Chromium, for the documents.

    python benchmarks/studio_pictures.py demo=src/danqing/model/demo --document --out docs/images

Writes studio-PAGE-SCHEME-WIDTH.png for each page, light and dark, on a desk and on a phone. With
`--document` it writes only studio-paint.png, -edit, -explore and -gallery, for the documents. Playwright,
Chromium and a font with Chinese letters are needed.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright
from service_process import ServiceProcess

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CORNERS = "rocket"
PROMPTS = ("a red apple", "火箭", "a ghost", "butterfly", "an old man", "a blue fish", "octopus")
DOCUMENT = (  # painting adds pictures to the gallery
    ("gallery", "dark", 1280, "en-US"),
    ("paint", "light", 1280, "en-US"),
    ("explore", "light", 1280, "en-US"),
    ("edit", "light", 1280, "en-US"),
)
ALL = tuple(
    (page, scheme, width, "zh-CN" if (scheme == "dark") == (width == 1280) else "en-US")
    for page in ("paint", "edit", "explore", "gallery", "account")
    for scheme in ("light", "dark")
    for width in (1280, 360)
)
_WAIT = 120_000  # milliseconds: on a busy machine the models take a while to load


def main() -> None:
    """Serve the models, generate some pictures and save what each page shows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=PATH", help="the models; the first one generates")
    parser.add_argument("--document", action="store_true", help="only the pictures of the documents")
    parser.add_argument("--out", type=Path, default=Path("studio-pictures"))
    arguments = parser.parse_args()
    models = dict(each.split("=", 1) for each in arguments.models)
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"Install a browser first, one of: {', '.join(BROWSERS)}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        ServiceProcess(Path(folder), models, gallery={"keep": 30}) as service,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        generate(browser, service.url)
        for name, scheme, width, locale in DOCUMENT if arguments.document else ALL:
            page = opened(browser, service.url, name, scheme, width, locale)
            more = "" if arguments.document else f"-{scheme}-{width}"
            path = arguments.out / f"studio-{name}{more}.png"
            page.screenshot(path=path)
            page.close()
            print(path)
        browser.close()


def generate(browser: Browser, url: str) -> None:
    """Generate pictures of all prompts, which fill the gallery."""
    page = browser.new_page(locale="en-US")
    page.goto(url)
    for number, prompt in enumerate(PROMPTS):
        page.locator("#prompt").fill(prompt)
        page.locator("#n").fill("3")
        page.locator("#seed").fill(str(number + 1))
        page.locator("#go").click()
        expect(page.locator("#said")).to_contain_text(prompt, timeout=_WAIT)
    page.close()


def opened(browser: Browser, url: str, name: str, scheme: str, width: int, locale: str) -> Page:
    """Open a page as a visitor would see it who has made a picture."""
    size = {"width": width, "height": 900 if width > 500 else 780}
    page = browser.new_page(viewport=size, color_scheme=scheme, locale=locale)  # type: ignore[arg-type]
    page.goto(f"{url}/#/{name}")
    if name == "paint":
        page.locator("#prompt").fill(PROMPTS[0])
        page.locator("#n").fill("6")
        page.locator("#seed").fill("3")
        page.locator("#go").click()
        expect(page.locator("#rounds .tile button img")).to_have_count(6, timeout=_WAIT)
        page.evaluate("scrollTo(0, 0)")
    elif name == "explore":
        page.locator("#explore-reading").fill(CORNERS)
        page.locator("#explore-reading").blur()
        expect(page.locator(".explore-side [role=status]").first).to_contain_text("50", timeout=_WAIT)
    elif name == "edit":
        first = page.request.get(f"{url}/v1/gallery?limit=1").json()["data"][0]["number"]
        content = page.request.get(f"{url}/v1/gallery/{first}/file").body()
        picture = {"name": "picture.png", "mimeType": "image/png", "buffer": content}
        page.set_input_files("#edit-file", picture)  # type: ignore[arg-type]
        box = page.locator(".layer .picture").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"], steps=8)
        page.mouse.up()
    elif name == "gallery":
        page.wait_for_selector(".cell img")
        expect(page.locator("#gallery-use")).not_to_be_empty()
    else:
        page.wait_for_selector("#admin-panel *")
    page.wait_for_timeout(500)
    return page


if __name__ == "__main__":
    main()
