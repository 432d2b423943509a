"""A visitor of the studio in a real browser, who notes whatever goes wrong."""

import shutil
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def visit(
    browser: Browser | BrowserContext,
    url: str,
    width: int = 1280,
    *,
    ready: str = "#room:not([hidden])",
    **context: Any,
) -> tuple[Page, list[str]]:
    """Open a page; return it and the list of what goes wrong on it.

    Errors, messages on the console, and requests to other hosts.
    ready: a selector of what is there once the page can be used.
    """
    if isinstance(browser, BrowserContext):
        page = browser.new_page()
    else:
        page = browser.new_page(viewport={"width": width, "height": 900}, **context)
    trouble: list[str] = []
    host = url.split("/#")[0].rstrip("/")
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((host, "blob:", "data:")) else trouble.append(request.url)
        ),
    )
    page.goto(url)
    page.wait_for_selector(ready)
    return page, trouble


def violations(page: Page) -> list[str]:
    """Return what axe-core finds on a page that somebody could not perceive or use."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in found
    ]
