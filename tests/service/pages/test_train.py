"""The page that trains in a real browser: from images to a model in service."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.service.pages.browsing import violations, visit
from tests.service.serving import Running, served
from tests.service.training.sets import BUDGET, TRAINING, Client, photos, picture

pytestmark = pytest.mark.slow

WORDS = {
    "en-US": {"run": "running", "finished": "finished", "serve": "Put into service", "done": "In service as"},
    "zh-CN": {"run": "进行中", "finished": "已完成", "serve": "投入使用", "done": "投入使用"},
}


@pytest.fixture(scope="module")
def service(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served({"gan": models["gan"]}, tmp_path_factory.mktemp("data"), training=TRAINING) as running:
        yield running


def test_a_folder_becomes_a_model_in_service(browser: Browser, service: Running, tmp_path: Path) -> None:
    words = WORDS["en-US"]
    folder = tmp_path / "birds"
    for number in range(30):
        place = folder / ("light" if number % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(picture(number % 29))  # the last repeats the first
    (folder / "dark" / "0.txt").write_text("a dark square")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    page, trouble = visit(
        browser, f"{service.url}/#/train", ready="#train-limits:not(:empty)", locale="en-US"
    )
    page.locator("#train-folder").set_input_files(str(folder))
    expect(page.locator("#train-news")).to_contain_text("30 images added", timeout=30_000)
    expect(page.locator("#train-news")).to_contain_text("notes.pdf")
    expect(page.locator("#train-facts")).to_contain_text("labels: 2, with captions: 1")
    expect(page.locator(".train-image img")).to_have_count(30)
    label = page.locator(".train-image input[aria-label^='Label of']").first
    label.fill("night")
    label.press("Tab")
    expect(page.locator("#train-facts")).to_contain_text("labels: 3")
    page.locator("#train-check").click()
    expect(page.locator("#train-findings")).to_contain_text("copies", timeout=60_000)
    expect(page.locator(".train-image.out").first).to_contain_text("alike")
    expect(page.locator("#train-facts")).to_contain_text(re.compile("left out: [1-9]"))
    assert violations(page) == []
    page.locator("#train-preset").select_option("gan-32")
    expect(page.locator("#train-cost")).to_contain_text("about 9 minutes on two cores, as measured")
    page.locator("#train-preset").select_option("flow-32")
    expect(page.locator("#train-cost")).to_contain_text("15 minutes")
    expect(page.locator("#train-cost")).to_contain_text("Fashion-MNIST")
    Client(service.url).run(Client(service.url).ask("GET", "/v1/datasets")["data"][0]["id"], name="tiny")
    page.reload()
    card = page.locator(".train-run")
    expect(card).to_contain_text(words["finished"], timeout=120_000)
    expect(card.locator("svg")).to_have_attribute("aria-label", re.compile("after"))
    expect(card.locator("img")).to_be_visible()
    expect(card.get_by_role("link", name="Report")).to_be_visible()
    card.get_by_role("button", name=words["serve"]).click()
    expect(card).to_contain_text(f"{words['done']} run:tiny", timeout=60_000)
    check_what_it_left(Client(service.url))
    page.locator("#train-preset").select_option("vae-32")
    page.locator("#train-minutes").fill("30")
    page.locator("#train-name").fill("second")
    page.keyboard.press("Enter")
    second = page.locator(".train-run", has_text="second")
    second.get_by_role("button", name="Stop").click()
    expect(second).to_contain_text("stopped", timeout=90_000)
    page.locator("#train-compare summary").click()
    expect(page.locator("#train-compared h4")).to_have_text(["tiny", "second"])
    assert violations(page) == []
    page.on("dialog", lambda dialog: dialog.accept())
    for left in (1, 0):
        page.locator(".train-run").first.get_by_role("button", name="Delete").click()
        expect(page.locator(".train-run")).to_have_count(left)
    assert not list((service.service.training.folder / "runs").iterdir())
    assert [one["id"] for one in Client(service.url).ask("GET", "/v1/models")["data"]] == ["gan"]
    assert trouble == []
    page.close()


def check_what_it_left(client: Client) -> None:
    """The finished run has what programs ask for, and its model generates."""
    (run,) = client.ask("GET", "/v1/runs")["data"]
    done = client.ask("GET", f"/v1/runs/{run['id']}")["progress"]
    assert done["images"] == BUDGET
    assert done["curves"]
    assert client.ask("GET", f"/v1/runs/{run['id']}/samples/{done['samples'][-1]}").startswith(b"\x89PNG")
    report = client.http.get(f"/v1/runs/{run['id']}/report")
    assert b"</html>" in report.content
    assert [one["id"] for one in client.ask("GET", "/v1/models")["data"]] == ["gan", "run:tiny"]
    client.ask("POST", "/v1/images/generations", json={"model": "run:tiny", "prompt": "dark"})


@pytest.mark.parametrize(("scheme", "width"), [("dark", 360)])
def test_the_page_is_usable_in_chinese_on_a_phone(
    browser: Browser, service: Running, scheme: str, width: int
) -> None:
    client = Client(service.url)
    client.data_set(photos(6), name="small")
    page, trouble = visit(
        browser,
        f"{service.url}/#/train",
        width,
        ready=".train-image img",
        locale="zh-CN",
        color_scheme=scheme,
    )
    expect(page.locator("#train-facts")).to_contain_text("张图片")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    use = page.locator(".train-image input[type=checkbox]").first
    use.focus()
    page.keyboard.press("Space")
    expect(page.locator("#train-facts")).to_contain_text("排除 1 张")
    assert trouble == []
    page.close()
