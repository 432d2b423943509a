"""The page that `danqing export --to web` writes: its bytes, its time to the first image, and its requests.

It opens the page in Chromium, from a server on this machine, some times with an empty cache. `page_gzip` and
`weights_gzip` are the bytes that a server with compression sends, without and with the model. `first_ms` are
from the request of the page to the first image on it, and `image_ms` of each further image, in the order of
the visits. `processor_s` is the processor's time of all processes of the browser until then, which other
programs disturb less. `elsewhere` are requests to other origins, and `printed` the browser's complaints.

    pip install 'danqing[export]' playwright
    python benchmarks/web_page.py [--model demo] [--visits 5]
"""

import argparse
import functools
import gzip
import json
import shutil
import tempfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import psutil
from playwright.sync_api import Playwright, sync_playwright

import danqing as dq
from danqing.compress.runtime import manifest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FIRST = "performance.getEntriesByName('first image').at(0)?.startTime ?? 0"
ROUND = "document.querySelector('.round .facts')?.textContent ?? ''"
IMAGES = 8


class Handler(SimpleHTTPRequestHandler):
    """Serves files and prints nothing."""

    def log_message(self, *_: object) -> None:
        pass


def compressed(files: list[Path]) -> int:
    """Return the bytes of files, each compressed by itself."""
    return sum(len(gzip.compress(file.read_bytes(), 9)) for file in files)


def processor_seconds() -> float:
    """Return the processor's time of the processes that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


class Visit(NamedTuple):
    """What one visit of the page measured."""

    first_ms: int
    processor_s: float
    image_ms: int
    elsewhere: list[str]
    printed: list[str]


def visit(playwright: Playwright, url: str) -> Visit:
    """Open the page in a new browser; return what was measured."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
    page = browser.new_page()
    elsewhere: list[str] = []
    printed: list[str] = []
    own = (url, "blob:", "data:")
    page.context.on("request", lambda sent: None if sent.url.startswith(own) else elsewhere.append(sent.url))
    page.on("console", lambda message: printed.append(message.text))
    page.on("pageerror", lambda error: printed.append(str(error)))
    before = processor_seconds()
    page.goto(f"{url}#seed=1&n={IMAGES}")
    first = 0.0
    while not first:
        page.wait_for_timeout(20)
        first = page.evaluate(FIRST)
    used = processor_seconds() - before
    began = time.monotonic()
    while "seed" not in (facts := page.evaluate(ROUND)) and time.monotonic() - began < 300:
        page.wait_for_timeout(20)
    seconds = float(facts.split(" · ")[1].split()[0])
    browser.close()
    return Visit(round(first), round(used, 2), round(1000 * seconds / IMAGES), elsewhere, printed)


def chromium() -> str:
    """Return the path of the browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("There is no Chromium on this machine: install it.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo", help="a model, or the folder of its export to web")
    parser.add_argument("--visits", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.model)
        if not (folder / "page.json").is_file():
            folder = dq.export(args.model, Path(scratch) / "page", to="web")
        weights = [folder / form.file for form in manifest.read(folder).graphs.values()]
        page = [file for file in folder.rglob("*") if file.is_file() and file not in weights]
        sizes = {"page_gzip": compressed(page), "weights_gzip": compressed(weights)}
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            url = f"http://127.0.0.1:{server.server_port}/"
            visits = [visit(playwright, url) for _ in range(args.visits)]
        server.shutdown()
    measured = dict(zip(Visit._fields, map(list, zip(*visits, strict=True)), strict=True))
    for name in ("elsewhere", "printed"):
        measured[name] = [text for texts in measured[name] for text in texts]
    print(json.dumps(sizes | measured, indent=1))


if __name__ == "__main__":
    main()
