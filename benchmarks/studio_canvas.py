"""The editor of the studio in Chromium: the time of a brush stroke on a large picture, and what kills lose.

    python benchmarks/studio_canvas.py --side 2048 --strokes 200 --kills 50

After --strokes strokes, one of --events events is drawn while the browser traces itself. `event_ms` is the
main thread's processor time in the handlers of one pointer event, and `task_ms` all of its work for one:
handlers, style, layout and paint. `end_ms` is that of the event that ends the stroke, `undo_ms` that of one
undo, and `reload_s` the time until a reloaded page shows the draft. `lost` counts the drafts, of `kills`,
that a killed tab or browser left other than they were when the page said that it had saved them.
"""

import argparse
import contextlib
import itertools
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import BrowserContext, Error, Page, Playwright, expect, sync_playwright
from service_process import ServiceProcess, write_models

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CATEGORIES = ["-*", "devtools.timeline", "disabled-by-default-devtools.timeline", "__metadata"]
WAIT = 120_000  # milliseconds
STORED = """async () => {
    const base = document.querySelector('script[type=module]').src;
    const [{ Draft }, { Mask }] = await Promise.all(
        ['draft.js', 'mask.js'].map((name) => import(base.replace('studio.js', name))));
    const draft = await Draft.read(), bitmap = await createImageBitmap(draft.picture);
    const mask = new Mask(bitmap.width, bitmap.height, draft.operations, draft.facts.done);
    const digest = await crypto.subtle.digest('SHA-256', mask.pixels);
    return [draft.facts.done, [...new Uint8Array(digest)].join(' ')];
}"""


def opened(context: BrowserContext, url: str) -> Page:
    """Open the page that edits."""
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{url}/#/edit")
    page.wait_for_selector("#page-edit .edit-desk")
    return page


def load(page: Page, side: int, folder: Path) -> None:
    """Show a picture of noise."""
    path = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(path)
    page.set_input_files("#edit-file", str(path))
    expect(page.locator(".viewport")).to_be_visible()


def stroke(page: Page, rng: random.Random, events: int) -> float:
    """Draw a stroke across the picture in a number of events; return the seconds that it takes."""
    box = page.locator(".viewport").bounding_box()
    assert box is not None

    def place() -> tuple[float, float]:
        return box["x"] + rng.uniform(0.2, 0.8) * box["width"], box["y"] + rng.uniform(0.1, 0.9) * box[
            "height"
        ]

    page.mouse.move(*place())
    page.mouse.down()
    began = time.monotonic()
    for _ in range(max(1, events // 20)):
        page.mouse.move(*place(), steps=min(20, events))
    took = time.monotonic() - began
    page.mouse.up()
    return took


def settled(page: Page) -> tuple[int, str]:
    """Wait until all is saved; return how many operations there are, and a digest of the mask."""
    expect(page.locator(".saved")).to_have_attribute("data-state", "saved", timeout=WAIT)
    done, digest = page.evaluate(STORED)
    return done, digest


def traced(content: bytes) -> Iterator[tuple[str, str, float]]:
    """Yield name, type and processor milliseconds of each event on the main thread in a trace."""
    events: list[dict[str, Any]] = json.loads(content)["traceEvents"]
    main = {(one["pid"], one["tid"]) for one in events if one.get("args", {}).get("name") == "CrRendererMain"}
    for one in events:
        if one.get("ph") == "X" and (one["pid"], one["tid"]) in main:
            kind = one.get("args", {}).get("data", {})
            yield (
                one["name"],
                kind.get("type", "") if isinstance(kind, dict) else "",
                one.get("dur", 0) / 1000,
            )


def summary(values: list[float]) -> dict[str, float]:
    """Return the median, the 95th percentile and the maximum."""
    median, most = np.percentile(values, [50, 95])
    return {"median": round(float(median), 2), "p95": round(float(most), 2), "max": round(max(values), 2)}


def measure(playwright: Playwright, url: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a stroke after many others."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, locale="en-US")
    page, rng = opened(context, url), random.Random(0)
    load(page, args.side, folder)
    for number in itertools.count():
        if number >= args.strokes and settled(page)[0] >= args.strokes:
            break
        if number % 10 == 0:  # the eraser takes away some of it, so that strokes go on to change something
            page.locator(f"[name=edit-tool][value={'eraser' if number % 20 else 'brush'}]").check(force=True)
            page.locator("#edit-tool-brush").fill(str(rng.uniform(40, 75)))
        stroke(page, rng, 10)
    page.locator("[name=edit-tool][value=brush]").check(force=True)
    done, digest = settled(page)
    page.locator("#edit-tool-brush").fill("62")
    brush = int(page.locator(".slider output").first.inner_text())
    browser.start_tracing(page=page, categories=CATEGORIES)
    stroke(page, rng, args.events)
    page.wait_for_timeout(300)
    found = list(traced(browser.stop_tracing()))
    moves = [took for name, kind, took in found if name == "EventDispatch" and kind == "pointermove"]
    ends = [took for name, kind, took in found if name == "EventDispatch" and kind == "pointerup"]
    tasks = sum(took for name, _, took in found if name == "RunTask")
    browser.start_tracing(page=page, categories=CATEGORIES)
    page.get_by_role("button", name="Undo").click()
    page.wait_for_timeout(300)
    undone = [
        took
        for name, kind, took in traced(browser.stop_tracing())
        if name == "EventDispatch" and kind == "click"
    ]
    settled(page)
    began = time.monotonic()
    page.reload()
    expect(page.locator(".viewport")).to_be_visible()
    reload = time.monotonic() - began
    assert settled(page) == (done, digest), "the reloaded draft differs"
    browser.close()
    return {
        "side": args.side,
        "strokes": done,
        "brush": brush,
        "events": len(moves),
        "event_ms": summary(moves),
        "task_ms": round(tasks / len(moves), 2),
        "end_ms": round(sum(ends), 2),
        "undo_ms": round(max(undone), 2),
        "reload_s": round(reload, 2),
    }


def kill(playwright: Playwright, url: str, folder: Path, kills: int) -> dict[str, int]:
    """Kill the tab or the browser again and again; return how many drafts were lost."""
    rng, lost, before, left = random.Random(1), 0, None, kills
    while left:
        context = playwright.chromium.launch_persistent_context(
            str(folder / "profile"),
            executable_path=chromium(),
            args=FLAGS,
            viewport={"width": 1200, "height": 900},
        )
        page = opened(context, url)
        for number in range(min(left, 10)):
            if before is None:
                load(page, 512, folder)
            else:
                expect(page.locator(".viewport")).to_be_visible()
                lost += settled(page) != before
            for _ in range(rng.randrange(1, 5)):
                stroke(page, rng, rng.randrange(1, 30))
            if rng.random() < 0.3:
                page.keyboard.press("Control+z")
            before = settled(page)
            left -= 1
            if number < 9 and left:
                with page.expect_event("crash"), contextlib.suppress(Error):
                    page.goto("chrome://crash")
                page.close()
                page = opened(context, url)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(folder / "profile") in " ".join(process.cmdline()):
                    process.kill()
        with contextlib.suppress(Error):
            context.close()
    return {"kills": kills, "lost": lost}


def chromium() -> str:
    """Return the path of the browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("There is no Chromium on this machine: install it.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--side", type=int, default=2048, help="of the picture, in pixels")
    parser.add_argument("--strokes", type=int, default=200, help="before the one that is measured")
    parser.add_argument("--events", type=int, default=200, help="of the stroke that is measured")
    parser.add_argument("--kills", type=int, default=50, help="of tabs and browsers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = {"vae": write_models(folder)["vae"]}
        with ServiceProcess(folder, models) as service, sync_playwright() as playwright:
            measured = measure(playwright, service.url, folder, args) if args.events else {}
            killed = kill(playwright, service.url, folder, args.kills) if args.kills else {}
    print(json.dumps({**measured, **killed}, indent=1))


if __name__ == "__main__":
    main()
