"""The account page in a real browser: signing in and out, usage, and what administrators see."""

import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from tests.service.pages.browsing import violations, visit
from tests.service.serving import Running, served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(
    models: dict[str, str], broken: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, dict[str, str]]]:
    chosen = {"gan": models["gan"], "broken": broken}
    with served(chosen, tmp_path_factory.mktemp("data")) as running:
        grants = (Grant("anna", quota=50, rate=600), Grant("root", scopes=("admin",)))
        tokens = {one.name: key_admin.create(running.service.database, one)[1] for one in grants}
        deadline = time.monotonic() + 60
        while httpx.get(f"{running.url}/v1/models").status_code != 401:
            assert time.monotonic() < deadline
        yield running, tokens


def test_a_key_opens_the_studio_until_its_owner_signs_out(
    browser: Browser, service: tuple[Running, dict[str, str]]
) -> None:
    running, tokens = service
    page, trouble = visit(browser, running.url, ready="#door:not([hidden])", locale="en-US")
    assert violations(page) == []
    page.get_by_label("Key").fill("dq_wrong")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_have_text("This key is not valid.")
    page.get_by_label("Key").fill(tokens["anna"])
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#said")).to_contain_text("are ready", timeout=60_000)
    page.reload()
    page.wait_for_selector("#room:not([hidden])")
    assert page.evaluate("document.cookie") == ""
    kept = page.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage)")
    assert tokens["anna"] not in kept
    page.get_by_role("link", name="Account").click()
    expect(page.locator("#account-who")).to_contain_text("Signed in as anna")
    expect(page.locator("#account-who")).to_contain_text("of 50")
    expect(page.locator("#account-days tbody tr")).to_have_count(1, timeout=10_000)
    assert page.locator("#account-admin").count() == 0
    assert violations(page) == []
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_selector("#door:not([hidden])")
    assert page.context.cookies() == []
    assert [line for line in trouble if "401" not in line] == []


def test_the_tab_that_was_chosen_last_is_shown_and_failures_are_told(
    browser: Browser, service: tuple[Running, dict[str, str]]
) -> None:
    running, tokens = service
    page, _ = visit(browser, f"{running.url}/#/account", ready="#door:not([hidden])", locale="en-US")
    page.get_by_label("Key").fill(tokens["root"])
    page.keyboard.press("Enter")
    expect(page.locator("#admin-panel")).to_contain_text("anna")
    held: list[Route] = []
    page.route("**/v1/admin/audit", lambda route: held.append(route))
    page.get_by_role("tab", name="Audit").click()
    page.get_by_role("tab", name="Keys").click()
    held[0].continue_()
    page.wait_for_timeout(300)
    page.locator("#language").click()  # draws what is known
    expect(page.locator("#admin-panel")).to_contain_text("anna")
    page.route("**/v1/admin/state", lambda route: route.fulfill(status=503, body="{}"))
    page.locator("#admin-tab-service").click()
    expect(page.locator("#account-error")).to_contain_text("503")
    page.close()


@pytest.mark.parametrize(("locale", "width", "scheme"), [("en-US", 1280, "light"), ("zh-CN", 360, "dark")])
def test_administrators_see_keys_service_models_audit_log_and_moderation(
    browser: Browser, service: tuple[Running, dict[str, str]], locale: str, width: int, scheme: str
) -> None:
    running, tokens = service
    page, trouble = visit(
        browser,
        f"{running.url}/#/account",
        width,
        ready="#door:not([hidden])",
        locale=locale,
        color_scheme=scheme,
    )
    page.locator("#key").fill(tokens["root"])
    page.keyboard.press("Enter")
    panel = page.locator("#admin-panel")
    expect(panel).to_contain_text("anna")
    shown = {"keys": "600", "service": "auto", "models": "broken", "audit": "service started"}
    page.locator("#admin-tab-keys").focus()
    for name, text in shown.items():
        expect(page.locator(f"#admin-tab-{name}")).to_be_focused()
        expect(panel).to_contain_text(text)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("No filter" if locale == "en-US" else "过滤器")
    assert [line for line in trouble if "401" not in line] == []
