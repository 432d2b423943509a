"""The studio in Chromium: first load, a gallery of many pictures, and what reloads and crashes lose.

    python benchmarks/studio.py --rows 100000 --pictures 100 --jobs 50

`first_load_kb` counts the compressed bytes of everything that the first page loads, `interactive_s` is the
time until it takes a request, the median of --loads. The gallery gets --rows pictures directly in its
database: `first_paint_s` is the time until it shows pictures, `search_ms` and `alike_ms` those of the server,
each the median and the worst; `heap_mb` is the memory of the page before and after it was scrolled through in
--screens jumps, `cells` the most that existed. `same` counts the pictures, of `pictures` with random
requests, whose file on the page brought back settings that made the same pixels. `lost` counts the jobs, of
`jobs` that the page began, that did not end after it was reloaded and the service killed and started again.
`load` is the number of processes that wanted a core at the end: times on a busy machine are longer.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from service_process import LABELS, ServiceProcess, free_port, write_models
from sqlalchemy import insert
from sqlalchemy.orm import Session

from danqing.service.gallery.manager import new_picture
from danqing.service.gallery.tables import GalleryFile, GalleryPicture, GalleryWord
from danqing.service.gallery.words import words_of
from danqing.service.storage.database import Database

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT = 60_000  # milliseconds
NOUNS = ("heart", "star", "house", "tree", "boat", "cat", "dog", "bird", "fish", "flower", "moon", "car")
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "orange", "pink", "purple", "brown")
SEARCHES = (
    "red",
    "red heart",
    "pink cat",
    "star 4711",
    "ho",
    "h",
    "blue boat 17",
    "orange fish masked",
    "zebra",
)
PIXELS = """async () => Promise.all(
    [...document.querySelectorAll('#rounds .round:first-child .tile img')].map(async (image) => {
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
        const digest = await crypto.subtle.digest('SHA-256', pixels);
        return [...new Uint8Array(digest)].map((one) => one.toString(16).padStart(2, '0')).join('');
    }))"""


def main() -> None:
    """Serve tiny models, and print what was measured as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--screens", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=50)
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(f"Install a browser first, one of: {', '.join(BROWSERS)}.")
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        models = write_models(folder / "models")
        settings = {"gallery": {"keep": 30.0, "pictures": 10 * arguments.rows}}
        service = ServiceProcess(folder, {"masked": models["masked"]}, free_port(), **settings)
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        service.start()
        try:
            for part in (
                lambda: first_load(browser, service.url, arguments.loads),
                lambda: made_again(browser, service.url, arguments.pictures, folder),
                lambda: survived(browser, service, arguments.jobs),
                lambda: gallery(browser, service.url, folder / "data" / "service.db", arguments),
            ):
                told |= (found := part())
                print(json.dumps(found), file=sys.stderr, flush=True)
        finally:
            service.stop()
            browser.close()
    told["load"] = round(os.getloadavg()[0], 1)
    print(json.dumps(told, indent=1))


def opened(browser: Browser, url: str, path: str, ready: str) -> Page:
    """Open a page of the studio as somebody who was never here."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US").new_page()
    page.set_default_timeout(WAIT)
    page.goto(f"{url}/{path}")
    page.wait_for_selector(ready)
    return page


def first_load(browser: Browser, url: str, loads: int) -> dict[str, float]:
    """Measure what the first page transfers, and when it can be used."""
    seconds, sizes = [], []
    for _ in range(loads):
        page = browser.new_context(locale="en-US").new_page()
        page.set_default_timeout(WAIT)
        session = page.context.new_cdp_session(page)
        session.send("Network.enable")
        received: list[float] = []
        add_size = lambda event, all=received: all.append(event["encodedDataLength"])  # noqa: E731
        session.on("Network.loadingFinished", add_size)
        page.goto(url, wait_until="commit")
        page.wait_for_selector("#go:enabled")
        seconds.append(page.evaluate("performance.now()") / 1000)
        page.wait_for_timeout(700)
        sizes.append(sum(received) / 1000)
        page.context.close()
    return {
        "first_load_kb": round(max(sizes), 1),
        "interactive_s": round(statistics.median(seconds), 3),
        "interactive_worst_s": round(max(seconds), 3),
    }


def made_again(browser: Browser, url: str, count: int, folder: Path) -> dict[str, int]:
    """Drop pictures of random requests on the page, and count those whose pixels come back."""
    draw, same = random.Random(0), 0
    page = opened(browser, url, "", "#studio:not([hidden])")
    for _ in range(count):
        body = {
            "model": "masked",
            "prompt": draw.choice(LABELS),
            "n": draw.randint(1, 4),
            "seed": draw.randrange(2**32),
            "embed_settings": draw.random() < 0.5,
            **({"temperature": draw.randint(50, 150) / 100} if draw.random() < 0.5 else {}),
            **({"size": draw.choice(["32x32", "64x64"])} if draw.random() < 0.3 else {}),
        }
        answer = httpx.post(f"{url}/v1/images/generations", json=body, timeout=300).raise_for_status().json()
        files = [base64.b64decode(one["b64_json"]) for one in answer["data"]]
        dropped = folder / "dropped.png"
        dropped.write_bytes(draw.choice(files))
        page.set_input_files("#dropped", str(dropped))
        expect(page.locator("#seed")).to_have_value(str(body["seed"]))
        page.locator("#go").click()
        round_ = page.locator("#rounds .round:first-child")
        expect(round_.locator(".facts")).to_contain_text(f"seed {body['seed']}", timeout=WAIT)
        wanted = [pixels_of(file) for file in files]
        same += page.evaluate(PIXELS) == wanted
    page.context.close()
    return {"pictures": count, "same": same}


def pixels_of(file: bytes) -> str:
    """Return the digest of a file's pixels, as PIXELS computes it."""
    return hashlib.sha256(Image.open(io.BytesIO(file)).convert("RGBA").tobytes()).hexdigest()


def survived(browser: Browser, service: ServiceProcess, count: int) -> dict[str, int]:
    """Begin jobs on the page, reload it, kill the service, and count the jobs that do not end."""
    known = {job["id"] for job in jobs(service.url)}
    page = opened(browser, service.url, "", "#studio:not([hidden])")
    page.locator("#n").fill("1")
    for number in range(count):
        page.locator("#go").click()
        if number % 10 == 9:
            page.reload()
            page.wait_for_selector("#studio:not([hidden])")
        if number == count // 2:
            service.kill()
            service.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        mine = [job for job in jobs(service.url) if job["id"] not in known]
        if len(mine) >= count and all(job["status"] == "succeeded" for job in mine):
            break
        time.sleep(0.5)
    expect(page.locator("#rounds .round progress:not([hidden])")).to_have_count(0, timeout=WAIT)
    failed = page.locator("#rounds .error:not([hidden])").count()
    page.context.close()
    done = sum(job["status"] == "succeeded" for job in mine)
    return {"jobs": count, "lost": max(0, count - done) + failed}


def jobs(url: str) -> list[dict[str, Any]]:
    """Return all jobs of the service."""
    found: list[dict[str, Any]] = []
    while True:
        query = {"limit": 100, **({"after": found[-1]["id"]} if found else {})}
        told = httpx.get(f"{url}/v1/jobs", params=query, timeout=60).json()
        found += told["data"]
        if not told["has_more"]:
            return found


def gallery(browser: Browser, url: str, path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill the gallery, and measure its page and its searches."""
    began = time.perf_counter()
    database = Database(f"sqlite:///{path}")
    for rows in portions(arguments.rows):
        database.transact(add, rows)
    database.close()
    told: dict[str, Any] = {"rows": arguments.rows, "filled_s": round(time.perf_counter() - began, 1)}
    paints = []
    for _ in range(arguments.loads):
        page = opened(browser, url, "#/gallery", ".cell img")
        paints.append(page.evaluate("performance.now()") / 1000)
        page.context.close()
    told["first_paint_s"] = round(statistics.median(paints), 3)
    told["first_paint_worst_s"] = round(max(paints), 3)
    told["search_ms"] = timed(url, [{"search": word} for word in SEARCHES for _ in range(3)])
    told["deep_page_ms"] = timed(url, [{"offset": arguments.rows * k // 10} for k in range(10)])
    numbers = [one["number"] for one in httpx.get(f"{url}/v1/gallery", timeout=60).json()["data"]]
    cold = timed(url, [{"like": numbers[0]}])["median"]
    told["alike_cold_ms"] = cold
    told["alike_ms"] = timed(url, [{"like": number} for number in numbers[:20]])
    page = opened(browser, url, "#/gallery", ".cell img")
    session = page.context.new_cdp_session(page)
    heaps, cells = [heap(session)], 0
    for screen in range(arguments.screens):
        page.evaluate(f"scrollTo(0, document.body.scrollHeight * {screen + 1} / {arguments.screens + 1})")
        page.wait_for_timeout(100)
        cells = max(cells, page.locator(".cell").count())
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)
    heaps.append(heap(session))
    page.context.close()
    return {**told, "heap_mb": heaps, "cells": cells}


def heap(session: Any) -> float:
    """Return the megabytes that scripts hold after a collection."""
    session.send("HeapProfiler.collectGarbage")
    return float(round(session.send("Runtime.getHeapUsage")["usedSize"] / 1e6, 1))


def timed(url: str, queries: list[dict[str, Any]]) -> dict[str, float]:
    """Time requests to the gallery on one connection; return the median and the worst in milliseconds."""
    times = []
    with httpx.Client(timeout=120) as client:
        client.get(f"{url}/v1/gallery?limit=1").raise_for_status()
        for query in queries:
            began = time.perf_counter()
            client.get(f"{url}/v1/gallery", params={"limit": 60, **query}).raise_for_status()
            times.append(1000 * (time.perf_counter() - began))
    return {"median": round(statistics.median(times), 1), "worst": round(max(times), 1)}


def portions(count: int) -> Iterator[list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]]:
    """Yield rows of many pictures: their numbers, prompts and vectors differ, their files do not."""
    draw, noise = random.Random(0), np.random.default_rng(0)
    content = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8)).save(content, "PNG")
    request = {"model": "masked", "prompt": "", "seed": 1}
    record = {"danqing": 1, "endpoint": "generations", "request": request, "title": "", "words": []}
    one = new_picture(content.getvalue(), record, 0)
    now, rows = time.time(), []
    for index in range(count):
        number, title = 1_000_000 + index, f"a {draw.choice(COLOURS)} {draw.choice(NOUNS)} {index % 9000}"
        settings = json.dumps({**record, "request": {**request, "prompt": title}, "index": 0})
        picture = {
            **{"number": number, "owner": "", "hash": f"{index:064x}", "created": now},
            **{"media_type": "image/png", "width": 64, "height": 64, "size": len(one.content)},
            **{"model": "masked", "title": title, "settings": settings, "tags": "[]", "rating": index % 6},
            **{"mark": "", "job": "", "place": 0},
            "vector": noise.integers(-2000, 2000, len(one.vector) // 2, np.int16).tobytes(),
        }
        file = {"number": number, "thumbnail": one.thumbnail, "content": one.content[:400]}
        words = [{"owner": "", "word": word, "number": number} for word in words_of([title, "masked"])]
        rows.append((picture, file, words))
        if len(rows) == 5000:
            yield rows
            rows = []
    if rows:
        yield rows


def add(session: Session, rows: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]) -> None:
    """Insert rows directly."""
    session.execute(insert(GalleryPicture), [picture for picture, _, _ in rows])
    session.execute(insert(GalleryFile), [file for _, file, _ in rows])
    session.execute(insert(GalleryWord), [word for _, _, words in rows for word in words])


if __name__ == "__main__":
    main()
