"""An exported model in a real browser: the images of `danqing sample`, marked, and nothing from elsewhere."""

import contextlib
import functools
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import danqing as dq
from danqing import families, randomness
from danqing.attributes import Attribute, Example
from danqing.compress.browser_runtime import runtime_files
from danqing.errors import DataError
from danqing.model.model import Model
from danqing.requested import image_seeds
from danqing.text.bpe import BytePairs
from tests.e2e.test_report_browser import CHROMIUM, CONTRASTS, browser

__all__ = ["browser"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

GOLDEN = Path(__file__).parents[1] / "golden"
UNNAMED = """[...document.querySelectorAll('input, select, textarea, button, a, img, canvas')]
    .filter(node => node.checkVisibility())
    .filter(node => !(node.labels?.length || node.getAttribute('aria-label') || node.alt))
    .filter(node => !node.textContent.trim())
    .map(node => node.outerHTML)"""
IS_IDLE = (
    "document.querySelector('#state').classList.contains('ready') && !document.querySelector('#go').disabled"
)


class Server(ThreadingHTTPServer):
    """Serves one folder; `headers` are added to all answers."""

    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def end_headers(self) -> None:
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(3)
    config = families.parse_config(
        {
            "family": "gan",
            "width": 12,
            "height": 8,
            "latents": 20,
            "generator_features": 4,
            "discriminator_features": 4,
            "labels": ("cat", "<b>dog"),
            "label_frequencies": (1, 3),
            "attributes": (
                Attribute(
                    name="age", kind="number", mean=(30.0,), deviation=(9.0,), lowest=(1.0,), highest=(80.0,)
                ),
                Attribute(name="hat", kind="category", categories=("red", "blue")),
            ),
            "attribute_examples": [
                Example(label=number % 2, values=(20.0 + number, float(number % 3 > 1)))
                for number in range(12)
            ],
        }
    )
    model = Model(families.build(config), {"data": {"licence": "CC BY 4.0"}}, name="tiny & fast")
    model.marks = "eu"
    return model


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        runtime_files()
    except DataError as error:
        pytest.skip(str(error))
    return dq.export(model, tmp_path_factory.mktemp("web") / "page", to="web")


@pytest.fixture(scope="module")
def transformer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dq.export(
        GOLDEN / "transformer" / "captions-masked", tmp_path_factory.mktemp("web") / "page", to="web"
    )


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    opened = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    opened.headers = {}
    thread = threading.Thread(target=opened.serve_forever)
    thread.start()
    try:
        yield opened
    finally:
        opened.shutdown()
        thread.join()
        opened.server_close()


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as opened:
        yield opened


Visit = Callable[..., tuple[Page, list[str]]]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open a page; collects what is printed, errors, and requests to elsewhere."""
    contexts = []

    def opened(url: str, width: int = 1280, **settings: str) -> tuple[Page, list[str]]:
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)  # type: ignore[arg-type]
        context.set_default_timeout(120_000)
        contexts.append(context)
        page, trouble = context.new_page(), list[str]()
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        own = (url.partition("#")[0], "blob:", "data:")
        context.on(
            "request", lambda request: None if request.url.startswith(own) else trouble.append(request.url)
        )
        page.goto(url)
        return page, trouble

    yield opened
    for context in contexts:
        context.close()


def until(page: Page, condition: str) -> None:
    """Wait for a condition; the page's policy does not let Playwright compile it as text by itself."""
    end = time.monotonic() + 90
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def saved(page: Page, folder: Path) -> list[Path]:
    """Save all images of the newest request."""
    paths = []
    links = page.locator("#rounds .round:first-child .tile a")
    for number in range(links.count()):
        with page.expect_download() as download:
            links.nth(number).click(force=True)
        paths.append(folder / download.value.suggested_filename)
        download.value.save_as(paths[-1])
    return paths


def test_the_page_draws_the_numbers_of_torch(visit: Visit, server: Server) -> None:
    page, trouble = visit(server.url)
    seeds, counts = [*image_seeds(2, 5, None), 2**63 - 1], [1, 7, 15, 16, 17, 40, 700]
    found = page.evaluate(
        """async ([seeds, counts]) => {
            const { derivedSeed, imageSeeds } = await import('./seeds.js');
            const { Generator, normal, uniform } = await import('./normals.js');
            const { sha256 } = await import('./sha256.js');
            const all = seeds.map(BigInt), mixed = new Generator(9), weights = [1, 2, 0, 4];
            const several = [mixed.randn(5), mixed.rand(3), mixed.randn(20), mixed.randn(4)];
            const bytes = (n) => Uint8Array.from({ length: n }, (_, i) => i);
            return {
                seeds: imageSeeds(5n, 2).map(String),
                long: String(derivedSeed(7, 'x'.repeat(200), 1, 2)),
                normal: counts.map(n => [...normal(all, n, 'latents')]),
                uniform: counts.map(n => [...uniform(all, n, 'codes')]),
                mixed: several.flatMap(each => [...each]),
                drawn: [9, 1].map(n => new Generator(3).multinomial(weights, n)),
                digests: [0, 3, 55, 56, 64, 200].map(n => sha256(bytes(n))),
            };
        }""",
        [[str(seed) for seed in seeds], counts],
    )
    assert found["seeds"] == [str(seed) for seed in seeds[:2]]
    assert found["long"] == str(randomness.derived_seed(7, "x" * 200, 1, 2))
    for number, count in enumerate(counts):
        normal = randomness.normal(seeds, (count,)).flatten().numpy()
        assert np.abs(normal - found["normal"][number]).max() < 1e-6
        uniform = randomness.uniform(seeds, (count,), purpose="codes").flatten().tolist()
        assert found["uniform"][number] == uniform
    rng = torch.Generator().manual_seed(9)
    drawn = [torch.randn(5, generator=rng), torch.rand(3, generator=rng), torch.randn(20, generator=rng)]
    drawn.append(torch.randn(4, generator=rng))
    assert np.abs(torch.cat(drawn).numpy() - found["mixed"]).max() < 1e-6
    weights = torch.tensor([1, 2, 0, 4], dtype=torch.float64)
    for indices in found["drawn"]:
        rng = torch.Generator().manual_seed(3)
        assert torch.multinomial(weights, len(indices), replacement=True, generator=rng).tolist() == indices
    assert found["digests"] == [hashlib.sha256(bytes(range(n))).hexdigest() for n in (0, 3, 55, 56, 64, 200)]
    assert trouble == []


def test_a_seed_gives_the_images_of_danqing_sample_with_their_labels(
    visit: Visit, server: Server, model: Model, tmp_path: Path
) -> None:
    page, trouble = visit(f"{server.url}#seed=7&n=3&label=%3Cb%3Edog")
    until(page, IS_IDLE)
    expected = model.unmarked().sample(3, seed=7, label="<b>dog").array
    files = saved(page, tmp_path)
    assert [file.name for file in files] == [f"tiny-fast-7-{number}.png" for number in (1, 2, 3)]
    found = [np.asarray(Image.open(file)).astype(int) for file in files]
    assert np.abs(np.stack(found) - expected).max() <= 1
    told = [dq.verify(file) for file in files]
    for file, pixels, provenance in zip(files, found, told, strict=True):
        packet = Image.open(file).info["xmp"].decode()
        assert hashlib.sha256(pixels.astype(np.uint8).tobytes()).hexdigest() in packet
        assert "Danqing, model tiny &amp; fast" in packet
        assert model.declaration("sample").model_digest[:12] in packet
        assert "trainedAlgorithmicMedia" in str(provenance)
    assert len({Image.open(file).info["xmp"] for file in files}) == 3, "each image has an id of its own"

    page.get_by_role("button", name="cat").click()
    page.get_by_text("More settings").click()
    page.get_by_label("age", exact=True).fill("61")
    page.get_by_label("hat", exact=True).select_option("blue")
    page.get_by_label("Variety").fill("0.5")
    page.get_by_label("Seed").fill("9223372036854775807")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#said")).to_contain_text("3 images are ready: cat", timeout=60_000)
    wanted = {"label": "cat", "attributes": {"age": 61, "hat": "blue"}, "truncation": 0.5}
    expected = model.unmarked().sample(3, seed=2**63 - 1, **wanted).array
    found = [np.asarray(Image.open(file)).astype(int) for file in saved(page, tmp_path)]
    assert np.abs(np.stack(found) - expected).max() <= 1
    command = page.locator("#code").inner_text()
    assert command == (
        "danqing sample 'tiny & fast' --seed 9223372036854775807 -n 3 --label cat --attribute age=61 "
        "--attribute hat=blue --set truncation=0.5 --each images/"
    )
    page.get_by_role("tab", name="Command line").press("ArrowRight")
    compile(page.locator("#code").inner_text(), "the page", "exec")
    assert trouble == []


def test_a_flow_follows_every_sampler_as_in_torch(visit: Visit, tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = {
        "family": "flow",
        "net": "unet",
        "width": 8,
        "height": 8,
        "widths": (8, 16),
        "layers": 1,
        "heads": 1,
    }
    config |= {"labels": ("cat", "dog"), "label_frequencies": (1, 1), "num_steps": 4}
    family = families.build(families.parse_config(config))
    for parameter in family.parameters():
        if not parameter.any():  # it would follow no label otherwise
            torch.nn.init.normal_(parameter, std=0.1)
    model = Model(family, name="flow")
    model.marks = "none"
    out = dq.export(model, tmp_path / "page", to="web")
    with serving(out) as server:
        page, trouble = visit(f"{server.url}#seed=3&n=1&label=dog")
        until(page, IS_IDLE)
        page.get_by_text("More settings").click()
        for sampler in ("ab2", "euler", "heun", "midpoint", "dpm++", "stochastic", "consistency", "adaptive"):
            wanted = {"sampler": sampler, "guidance_scale": 2.0, "guidance_end": 0.7}
            page.get_by_label("Sampler").select_option(sampler)
            page.get_by_label("How strongly to follow").fill("2")
            page.get_by_label("Guidance ends").fill("0.7")
            count = page.locator(".round").count()
            page.keyboard.press("Control+Enter")
            until(page, f"document.querySelectorAll('.round').length === {count + 1} && {IS_IDLE}")
            (file,) = saved(page, tmp_path)
            assert "xmp" not in Image.open(file).info, "the model has no marks"
            expected = model.sample(1, seed=3, label="dog", precision="float32", **wanted).array[0]
            difference = np.abs(np.asarray(Image.open(file)).astype(int) - expected).max()
            assert difference <= (8 if sampler == "adaptive" else 1), sampler  # its steps follow rounding
        assert trouble == []


def test_a_transformer_writes_the_codes_of_a_prompt(
    visit: Visit, transformer_folder: Path, tmp_path: Path
) -> None:
    model = dq.load(GOLDEN / "transformer" / "captions-masked", marks="none")
    captions = cast(Any, model.family.config).captions
    with serving(transformer_folder) as server:
        page, trouble = visit(f"{server.url}#seed=3&n=2&prompt=a+bar")
        until(page, IS_IDLE)
        expected = model.sample(2, seed=3, prompt="a bar", precision="float32").array
        found = [np.asarray(Image.open(file)) for file in saved(page, tmp_path)]
        assert np.array_equal(np.stack(found), expected)
        form = json.loads((transformer_folder / "export.json").read_text())["text"]
        texts = ["", " ", "A  red\tSquare 红色,ok? 12", "ÄÖ é नमस्ते 🙂!?", "สวัสดี world", *captions]
        ids = page.evaluate(
            """async ([form, texts]) => {
                const { Prompts } = await import('./prompts.js');
                return texts.map(text => new Prompts(form).ids(text));
            }""",
            [form, texts],
        )
        assert ids == [BytePairs(form["bpe"]).ids(text)[:-1] for text in texts]
        page.get_by_label("Describe an image").fill("wording " * form["length"])
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("alert").filter(has_text="shorten it")).to_be_visible(timeout=60_000)
        assert page.locator("#prompt").get_attribute("aria-invalid") == "true"
        assert trouble == []


def test_nothing_leaves_the_page_and_its_policy_holds(visit: Visit, server: Server, folder: Path) -> None:
    page, trouble = visit(server.url)
    until(page, IS_IDLE)
    assert trouble == [], "no request to elsewhere, no violation of the policy, no error"
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'blocked')") == "blocked"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    )
    page.evaluate("document.body.setAttribute('onclick', 'document.title = 2')")
    page.click("h1")
    assert page.title() == "tiny & fast · Danqing"
    assert all("Content Security Policy" in each or "127.0.0.1:9" in each for each in trouble)
    named = {"http://www.w3.org/2000/svg", "http://localhost:8000"}
    for file in folder.glob("*.*"):
        if file.suffix in (".html", ".js", ".css"):
            assert set(re.findall(r"https?://[\w.:/-]+", file.read_text(encoding="utf-8"))) <= named, (
                file.name
            )


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well_on_a_phone_and_in_the_dark(
    visit: Visit, server: Server, width: int, scheme: str
) -> None:
    language = {"light": "en-US", "dark": "zh-CN"}[scheme]
    page, trouble = visit(server.url, width, color_scheme=scheme, locale=language)
    until(page, IS_IDLE)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate("document.documentElement.lang") == {"en-US": "en", "zh-CN": "zh-CN"}[language]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(node => node.id)")
    assert len(ids) == len(set(ids))
    page.get_by_role("button", name={"en-US": "中文", "zh-CN": "English"}[language]).click()
    expect(page.locator("#go")).to_contain_text({"en-US": "生成", "zh-CN": "Generate"}[language])
    page.keyboard.press("Control+Enter")
    until(page, f"document.querySelectorAll('.round').length === 2 && {IS_IDLE}")
    assert trouble == []


def test_a_request_is_stopped_and_leaves_the_earlier_images(visit: Visit, server: Server) -> None:
    page, trouble = visit(server.url)
    until(page, IS_IDLE)
    page.locator("#n").fill("16")
    page.evaluate("document.querySelector('#go').click(); document.querySelector('#stop').click()")
    expect(page.locator("#said")).to_have_text("Stopped.", timeout=60_000)
    assert page.locator(".round").count() == 1
    page.keyboard.press("Control+Enter")
    until(page, f"document.querySelectorAll('.round').length === 2 && {IS_IDLE}")
    assert trouble == []


def test_mistakes_are_said_at_their_field(visit: Visit, server: Server) -> None:
    page, _ = visit(server.url)
    until(page, IS_IDLE)
    seed = page.get_by_label("Seed")
    seed.fill("-3")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert").filter(has_text="A seed is a whole number from 0 on.")).to_be_visible()
    assert seed.get_attribute("aria-invalid") == "true"
    assert seed.evaluate("node => node === document.activeElement")
    seed.fill("3")
    page.get_by_role("button", name="Generate").click()
    until(page, f"document.querySelectorAll('.round').length === 2 && {IS_IDLE}")
    assert seed.get_attribute("aria-invalid") is None


def test_what_keeps_it_from_starting_is_said(visit: Visit, server: Server, folder: Path) -> None:
    page, _ = visit((folder / "index.html").as_uri())
    expect(page.get_by_text("python -m http.server").first).to_be_visible(timeout=60_000)
    (folder / "generate.onnx").rename(folder / "away.onnx")
    try:
        page, _ = visit(server.url)
        expect(
            page.get_by_role("alert").filter(has_text="generate.onnx cannot be loaded (404)")
        ).to_be_visible(timeout=60_000)
        expect(page.locator("#go")).to_be_disabled()
    finally:
        (folder / "away.onnx").rename(folder / "generate.onnx")


def test_it_uses_threads_where_the_page_is_isolated(visit: Visit, server: Server) -> None:
    server.headers = {
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
    }
    page, trouble = visit(server.url)
    until(page, IS_IDLE)
    assert trouble == []
    cores = page.evaluate("navigator.hardwareConcurrency")
    threads = "one thread" if cores == 1 else f"{min(cores, 4)} threads"
    expect(page.locator("#card")).to_contain_text(f"WebAssembly, {threads}")
