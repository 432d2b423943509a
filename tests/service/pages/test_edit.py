"""The page that edits in a real browser: by mouse, pen, touch and keys, and through reloads and kills."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Error, Locator, Page, Route, expect

from tests.service.editors import EDITORS, save_editor, save_labelled_flow, save_style
from tests.service.pages.browsing import CHROMIUM, FLAGS, violations, visit
from tests.service.pages.test_studio import UNTRANSLATED
from tests.service.serving import Running, served

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 48, 32
# The draft as it is in the database of the browser: the pixels of its mask as ones and zeros.
STORED = """async () => {
    const base = document.querySelector('script[type=module]').src;
    const { Draft } = await import(base.replace('studio.js', 'draft.js'));
    const { Mask } = await import(base.replace('studio.js', 'mask.js'));
    const draft = await Draft.read();
    const bitmap = await createImageBitmap(draft.picture);
    return new Mask(bitmap.width, bitmap.height, draft.operations, draft.facts.done).pixels.join('');
}"""
WORDS = {
    "en-US": {
        "lasso": "Lasso", "box": "Box", "start": "Start", "use": "Use as input", "back": "Back to the mask",
        "save": "Save", "undo": "Undo", "redo": "Redo", "compare": "Before and after",
        "before": "Back to the picture before",
    },
    "zh-CN": {
        "lasso": "套索", "box": "矩形", "start": "开始", "use": "作为输入", "back": "返回蒙版",
        "save": "保存", "undo": "撤销", "redo": "重做", "compare": "前后对比", "before": "返回上一张图片",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def service(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chosen = {name: models[name] for name in ("masked", "text", "vae", "gan")}
    editors = {task: save_editor(task, tmp_path_factory.mktemp(task)) for task in EDITORS}
    others = {
        "ink": save_style(tmp_path_factory.mktemp("ink")),
        "pets": save_labelled_flow(tmp_path_factory.mktemp("pets")),
    }
    with served({**chosen, **editors, **others}, tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("pictures") / "garden.png"
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def opened(browser: Browser | BrowserContext, url: str, **context: Any) -> tuple[Page, list[str]]:
    return visit(browser, f"{url}/#/edit", ready="#page-edit .edit-desk", **context)


def load(page: Page, picture: Path, model: str = "masked") -> Locator:
    """Open a picture, and return the stage that shows it."""
    page.set_input_files("#edit-file", str(picture))
    stage = page.locator(".viewport")
    expect(stage).to_be_visible()
    page.locator("#edit-model").select_option(model)
    return stage


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a place of the picture is on the screen."""
    box = page.locator(".layer .picture").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"] / WIDTH, box["y"] + y * box["height"] / HEIGHT


def drag(page: Page, *places: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *places[0]))
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*at(page, *place), steps=4)
    page.mouse.up()


def stored(page: Page) -> NDArray[np.bool_]:
    """The mask that a reload would show."""
    expect(page.locator(".saved")).to_have_attribute("data-state", "saved")
    return np.array([one == "1" for one in page.evaluate(STORED)]).reshape(HEIGHT, WIDTH)


def saved(page: Page, name: str, folder: Path) -> Path:
    with page.expect_download() as saving:
        page.get_by_role("link", name=name, exact=True).click()
    path = folder / saving.value.suggested_filename
    saving.value.save_as(path)
    return path


@pytest.mark.parametrize("language", list(WORDS))
def test_a_masked_part_is_filled_and_the_download_keeps_every_other_byte(
    browser: Browser, service: Running, picture: Path, tmp_path: Path, language: str
) -> None:
    words = WORDS[language]
    page, trouble = opened(browser, service.url, locale=language)
    load(page, picture)
    drag(page, (5, 5), (20, 9))
    page.get_by_role("radio", name=words["box"]).check(force=True)
    drag(page, (30, 10), (40, 25))
    page.get_by_role("radio", name=words["lasso"]).check(force=True)
    drag(page, (2, 20), (14, 20), (14, 30), (2, 30))
    page.get_by_role("button", name=words["undo"]).click()
    page.get_by_role("button", name=words["redo"]).click()
    where = stored(page)
    assert where[12:24, 31:39].all()
    assert where[22:28, 4:12].all()
    assert 0.1 < where.mean() < 0.5
    page.locator("#edit-feather").fill("2")
    page.locator("#edit-seed").fill("7")
    page.get_by_role("button", name=words["start"], exact=True).click()
    slider = page.get_by_role("slider", name=words["compare"])
    expect(slider).to_be_visible(timeout=60_000)
    path = saved(page, words["save"], tmp_path)
    assert path.name == "garden-fill-7-1.png"
    before, after = pixels_of(picture), pixels_of(path)
    assert np.array_equal(after[~where], before[~where])
    assert (after[where] != before[where]).mean() > 0.5
    slider.focus()
    slider.press("Home")
    assert page.locator(".layer .after").evaluate("node => node.style.clipPath") == "inset(0px 0px 0px 0%)"
    slider.press("End")
    slider.press("ArrowLeft")
    assert "99" in (slider.get_attribute("aria-valuetext") or "")
    page.get_by_role("button", name=words["use"]).click()
    expect(page.get_by_role("button", name=words["before"])).to_be_visible()
    assert not stored(page).any()
    page.get_by_role("button", name=words["before"]).click()
    expect(page.locator(".thumb-button")).to_have_count(1)
    assert np.array_equal(stored(page), where)
    assert page.evaluate(UNTRANSLATED) == []
    assert trouble == []
    page.close()


def test_the_page_shows_what_the_chosen_model_can_do(
    browser: Browser, service: Running, picture: Path
) -> None:
    page, trouble = opened(browser, service.url, locale="en-US")
    stage = load(page, picture)
    known = {}
    for model in ("masked", "text", "gan", "upscale", "enhance", "translate", "ink", "pets"):
        page.locator("#edit-model").select_option(model)
        known[model] = page.locator(".tasks label").all_inner_texts()
    fills = ["Fill", "Expand", "Vary"]
    assert known == {
        "masked": fills, "text": fills, "gan": fills, "upscale": ["Upscale"], "enhance": ["Enhance"],
        "translate": ["Translate"], "ink": ["Stylise"], "pets": [*fills, "Translate"],
    }  # fmt: skip
    for model, task, size in (
        ("upscale", None, "96 × 64"),
        ("enhance", None, "48 × 32"),
        ("ink", None, "48 × 32"),
        ("pets", "translate", "48 × 32"),
        ("vae", "vary", "48 × 32"),
        ("masked", "expand", "55 × 32"),
    ):
        page.locator("#edit-model").select_option(model)
        if task is not None:
            page.locator(f"#edit-task-{task}").check(force=True)
        if task == "expand":
            page.get_by_label("Right").fill("7")
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.locator(".compare p")).to_contain_text(f"{model} · seed", timeout=60_000)
        expect(page.locator(".compare p")).to_contain_text(size)
        page.get_by_role("button", name="Back to the mask").click()
    expect(page.locator(".thumb-button")).to_have_count(6)
    page.locator("#edit-model").select_option("masked")
    page.locator("#edit-task-fill").check(force=True)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="Nothing is in the mask")).to_be_visible()
    expect(stage).to_be_visible()
    assert trouble == []
    page.close()


def test_what_is_started_twice_is_sent_once(browser: Browser, service: Running, picture: Path) -> None:
    page, trouble = opened(browser, service.url)
    load(page, picture, "masked")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/v1/jobs") else None)
    page.get_by_role("button", name="All", exact=True).click()
    page.evaluate("for (const _ of [1, 2]) document.querySelector('.edit-form').requestSubmit()")
    expect(page.locator("#said")).to_contain_text("ready", timeout=60_000)
    assert (len(sent), trouble) == (1, [])
    page.close()


def test_an_original_file_comes_back_in_its_own_format(
    browser: Browser, service: Running, picture: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.webp"
    Image.open(picture).save(photo, lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    page, _ = opened(browser, service.url, locale="en-US")
    load(page, photo)
    page.get_by_text("More settings").click()
    page.get_by_label("File", exact=True).select_option("input")
    drag(page, (5, 5), (20, 9))
    where = stored(page)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("slider", name="Before and after")).to_be_visible(timeout=60_000)
    path = saved(page, "Save", tmp_path)
    assert path.suffix == ".webp"
    assert np.array_equal(pixels_of(path)[~where], pixels_of(photo)[~where])
    page.close()


def test_everything_can_be_done_with_keys(browser: Browser, service: Running, picture: Path) -> None:
    page, trouble = opened(browser, service.url, locale="en-US")
    stage, said = load(page, picture), page.locator("#said")
    stage.focus()
    for key in ("[", "[", "[", "[", "[", "Enter"):
        page.keyboard.press(key)
    expect(said).to_have_text("Pen down at 24, 16")
    for _ in range(10):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    assert stored(page)[16, 24:34].all()
    page.keyboard.press("Control+z")
    expect(said).to_contain_text("Undone. 0% of the picture")
    page.keyboard.press("Control+y")
    assert stored(page)[16, 24:34].all()
    page.keyboard.press("Control+z")
    page.keyboard.press("r")
    for key in ("Enter", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        page.keyboard.press(key)
    box = stored(page)
    assert (box.sum(), box[16:18, 34:37].all()) == (6, True)
    page.keyboard.press("w")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    for key in ("+", "+", "h", "ArrowLeft", "0"):
        page.keyboard.press(key)
    page.get_by_text("A box in numbers").click()
    for name, value in (("Left", 1), ("Top", 2), ("Width", 3), ("Height", 4)):
        page.locator(".boxes").get_by_label(name).fill(str(value))
    page.get_by_role("button", name="Clear").press("Enter")
    page.locator(".boxes").get_by_role("button", name="Add").press("Enter")
    assert (stored(page).sum(), stored(page)[2:6, 1:4].all()) == (12, True)
    page.get_by_role("button", name="Invert").press("Enter")
    assert stored(page).sum() == WIDTH * HEIGHT - 12
    assert trouble == []
    page.close()


def test_pens_press_and_two_fingers_zoom_without_drawing(
    browser: Browser, service: Running, picture: Path
) -> None:
    context = browser.new_context(viewport={"width": 800, "height": 900}, has_touch=True, locale="en-US")
    page, _ = opened(context, service.url)
    load(page, picture)
    page.locator(".viewport").scroll_into_view_if_needed()
    devices = context.new_cdp_session(page)

    def pen(y: float, force: float) -> int:
        for kind, x in (("mousePressed", 10), ("mouseMoved", 20), ("mouseMoved", 30), ("mouseReleased", 30)):
            place = dict(zip("xy", at(page, x, y), strict=True))
            pressed = {"pointerType": "pen", "force": force, "button": "left", "buttons": 1, "clickCount": 1}
            devices.send("Input.dispatchMouseEvent", {"type": kind, **place, **pressed})
        return int(stored(page).sum())

    light = pen(6, 0.2)
    assert 0 < light < pen(22, 1.0) - light
    before, drawn = page.locator(".layer").evaluate("node => node.style.transform"), stored(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    (x, y), (right, _) = at(page, 15, 15), at(page, 30, 15)
    touch("touchStart", (x, y))
    touch("touchMove", (x + 3, y))
    touch("touchStart", (x + 3, y), (right, y))
    for step in range(1, 6):
        touch("touchMove", (x + 3 - 12 * step, y), (right + 12 * step, y))
    touch("touchEnd")
    assert page.locator(".layer").evaluate("node => node.style.transform") != before
    assert np.array_equal(stored(page), drawn)
    page.get_by_role("button", name="Fit", exact=True).click()
    touch("touchStart", at(page, 24, 28))
    touch("touchMove", at(page, 30, 28))
    touch("touchEnd")
    assert stored(page).sum() > drawn.sum()
    context.close()


def test_no_finished_stroke_is_lost_when_the_tab_or_the_browser_is_killed(
    browser: Browser, service: Running, picture: Path, tmp_path: Path
) -> None:
    rng, masks = random.Random(3), [bytes(WIDTH * HEIGHT)]
    for kill in range(3):
        profile = browser.browser_type.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1000, "height": 900},
        )
        page, _ = opened(profile, service.url)
        if kill == 0:
            load(page, picture)
        for way in ("reload", "crash", "go on"):
            expect(page.locator(".viewport")).to_be_visible()
            assert stored(page).tobytes() == masks[-1], "the draft is as it was"
            for _ in range(rng.randrange(1, 4)):
                drag(page, *((rng.uniform(2, 46), rng.uniform(2, 30)) for _ in range(2)))
            if rng.random() < 0.4:
                page.keyboard.press("Control+z")
            masks.append(stored(page).tobytes())
            if way == "reload":
                page.reload()
            elif way == "crash":
                with page.expect_event("crash"), contextlib.suppress(Error):
                    page.goto("chrome://crash")
                page.close()
                page, _ = opened(profile, service.url)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # some have ended meanwhile
                if str(tmp_path / "profile") in " ".join(process.cmdline()):
                    process.kill()
        with contextlib.suppress(Error):
            profile.close()
    assert len(set(masks)) > 5


def test_work_goes_on_while_the_page_is_closed_and_can_be_stopped(
    browser: Browser, service: Running, picture: Path
) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    page, _ = opened(context, service.url)
    load(page, picture)
    drag(page, (5, 5), (20, 9))
    with service.standstill():
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.locator(".edit-status")).to_have_text("Waiting for its turn …")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        page.close()
    page, _ = opened(context, service.url)
    expect(page.locator(".thumb-button")).to_have_count(1, timeout=60_000)
    page.get_by_role("button", name="Back to the mask").click()
    with service.standstill():
        page.get_by_role("button", name="Start", exact=True).click()
        expect(page.locator(".edit-status")).to_have_text("Waiting for its turn …")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#said")).to_have_text("Stopped.", timeout=20_000)
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()
    expect(page.locator(".thumb-button")).to_have_count(1)

    unsent: list[Route] = []
    page.route("**/v1/jobs", lambda route: unsent.append(route), times=1)
    with service.standstill():
        page.get_by_role("button", name="Start", exact=True).click()
        while not unsent:
            page.wait_for_timeout(10)
        page.get_by_role("button", name="Stop").click()
        page.evaluate("document.querySelector('#said').textContent = ''")
        unsent[0].continue_()
        expect(page.locator("#said")).to_have_text("Stopped.", timeout=20_000)
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()
    expect(page.locator(".thumb-button")).to_have_count(1)
    other, _ = opened(context, service.url)
    expect(other.locator(".drop")).to_be_visible()
    context.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it_at_every_width(
    browser: Browser, service: Running, picture: Path, scheme: str, width: int
) -> None:
    language = "zh-CN" if (scheme == "dark") == (width == 360) else "en-US"
    page, trouble = opened(browser, service.url, width=width, color_scheme=scheme, locale=language)

    def check(state: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state
        assert violations(page) == [], state

    check("empty")
    load(page, picture)
    page.locator("#edit-task-expand").check(force=True)
    page.locator("#edit-right").fill("9")
    page.evaluate("document.querySelectorAll('#page-edit details').forEach(one => { one.open = true; })")
    page.get_by_role("radio", name=WORDS[language]["box"]).check(force=True)
    drag(page, (5, 5), (20, 9))
    check("drawn")
    page.get_by_role("button", name=WORDS[language]["start"], exact=True).click()
    expect(page.locator(".thumb-button")).to_be_visible(timeout=60_000)
    check("compared")
    assert trouble == []
    page.close()
