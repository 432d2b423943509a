"""Renders the picture of the start page in the documents, from a real server in Chromium.

    python benchmarks/service_picture.py demo=src/danqing/model/demo clothes=runs/clothes \\
        clothes-gan=runs/clothes-gan

The first model generates --count images of --prompt; the others are listed beside it. Playwright, Chromium
and a font with Chinese letters are needed. Any models will do; those of the picture in the documents are the
one in the package and two that were trained on Fashion-MNIST for five minutes, with the presets flow-32 and
gan-32.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import expect, sync_playwright
from service_process import ServiceProcess

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "service.png"
SIZE = {"width": 1280, "height": 980}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WAIT = 300_000  # milliseconds: on a busy machine the models take a while to load


def main() -> None:
    """Serve the models, fill in the form and save what the page shows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=PATH", help="the models; the first one generates")
    parser.add_argument("--prompt", default="a red heart")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    models = dict(each.split("=", 1) for each in arguments.models)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"Install a browser first, one of: {', '.join(BROWSERS)}.")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ServiceProcess(Path(folder), models) as service:
        save(browser, service.url, next(iter(models)), arguments)


def save(browser: str, url: str, model: str, arguments: argparse.Namespace) -> None:
    """Generate images on the start page and save a picture of it."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = opened.new_page(viewport=SIZE, color_scheme="light", locale="en-US")  # type: ignore[arg-type]
        page.goto(url)
        page.locator("#models").get_by_text(model, exact=True).click()
        page.locator("#prompt").fill(arguments.prompt)
        page.locator("#n").fill(str(arguments.count))
        page.locator("#seed").fill(str(arguments.seed))
        page.locator("#go").click()
        images = page.locator("#rounds .round:first-child .tile img")
        try:
            expect(images).to_have_count(arguments.count, timeout=_WAIT)
        except AssertionError as error:
            said = " ".join(page.locator("#error, #trouble, #state").all_inner_texts()).strip()
            raise SystemExit(f"The page shows no images; it says: {said}") from error
        page.locator("#go").blur()
        expect(page.locator("#go")).to_be_enabled(timeout=_WAIT)
        page.wait_for_function("[...document.images].every(image => image.complete)")
        page.screenshot(path=arguments.out)
        opened.close()
    print(f"{arguments.out}: {arguments.count} images of {arguments.prompt!r} by {model}")


if __name__ == "__main__":
    main()
