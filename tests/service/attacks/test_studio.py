"""Nobody uses the session of a browser, or the routes of the studio, who may not."""

import httpx
import pytest

from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from danqing.service.access.sessions import COOKIE
from tests.service.attacks.asking import STAR, assert_refused
from tests.service.serving import Running

Locked = tuple[Running, dict[str, str]]


def sign_in(running: Running, token: str) -> str:
    answer = httpx.post(f"{running.url}/v1/session", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return answer.cookies[COOKIE]


def ask(running: Running, method: str, path: str, session: str, **headers: str) -> httpx.Response:
    cookie = {"cookie": f"{COOKIE}={session}"}
    body = {"json": {**STAR, "n": 1}} if method == "POST" else {}
    return httpx.request(method, running.url + path, headers={**cookie, **headers}, timeout=60, **body)  # type: ignore[arg-type]


def test_csrf_no_page_of_another_site_or_port_uses_a_session(locked: Locked) -> None:
    running, tokens = locked
    session = sign_in(running, tokens["anna"])
    ours = {"origin": running.url, "sec-fetch-site": "same-origin"}
    path = "/v1/images/generations"
    assert ask(running, "POST", path, session, **ours).status_code == 200
    assert ask(running, "POST", path, session, origin=running.url).status_code == 200
    assert ask(running, "GET", "/v1/models", session).status_code == 200
    assert ask(running, "GET", "/v1/models", session, **{"sec-fetch-site": "none"}).status_code == 200
    for theirs in (
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": running.url, "sec-fetch-site": "same-site"},
        {"origin": f"{running.url}.evil.example"},
    ):
        assert_refused(ask(running, "POST", path, session, **theirs), 403)
        assert_refused(ask(running, "DELETE", "/v1/session", session, **theirs), 403)
    for theirs in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "null"}):
        assert_refused(ask(running, "GET", "/v1/jobs", session, **theirs), 403)


def test_login_csrf_and_fixation_no_session_without_a_key_and_none_of_the_clients_choice(
    locked: Locked,
) -> None:
    running, tokens = locked
    assert_refused(httpx.post(f"{running.url}/v1/session"), 401)
    assert_refused(httpx.post(f"{running.url}/v1/session", json={"key": tokens["anna"]}), 401)
    session = sign_in(running, tokens["anna"])
    assert_refused(ask(running, "POST", "/v1/session", session, origin=running.url), 401)  # no renewal
    chosen = "A" * 43
    answer = httpx.post(
        f"{running.url}/v1/session",
        headers={"authorization": f"Bearer {tokens['anna']}", "cookie": f"{COOKIE}={chosen}"},
    )
    assert answer.cookies[COOKIE] not in (chosen, session)
    assert_refused(ask(running, "GET", "/v1/models", chosen), 401)
    tossed = {"cookie": f"{COOKIE}={session}; {COOKIE}={chosen}"}
    assert_refused(httpx.get(f"{running.url}/v1/models", headers=tossed), 400)


def test_session_theft_no_script_reads_the_cookie_and_signing_out_ends_it(locked: Locked) -> None:
    running, tokens = locked
    answer = httpx.post(f"{running.url}/v1/session", headers={"authorization": f"Bearer {tokens['anna']}"})
    flags = answer.headers["set-cookie"].lower()
    for flag in ("httponly", "samesite=strict", "path=/", "max-age=604800"):
        assert flag in flags
    assert tokens["anna"] not in answer.text
    session = answer.cookies[COOKIE]
    assert session not in answer.text
    assert ask(running, "DELETE", "/v1/session", session, origin=running.url).status_code == 204
    assert_refused(ask(running, "GET", "/v1/models", session), 401)  # replayed
    other = sign_in(running, tokens["bert"])
    key_admin.revoke(running.service.database, "bert")
    for _ in range(100):
        if ask(running, "GET", "/v1/models", other).status_code == 401:
            break
    else:
        pytest.fail("the session outlived its key")


def test_privilege_escalation_only_administrators_see_keys_state_and_audit_log(locked: Locked) -> None:
    running, tokens = locked
    _, token = key_admin.create(running.service.database, Grant("root", scopes=("admin",)))
    root, anna = sign_in(running, token), sign_in(running, tokens["anna"])
    for path in ("keys", "state", "audit", "audit?event=blocked"):
        assert_refused(ask(running, "GET", f"/v1/admin/{path}", anna), 403)
        assert_refused(httpx.get(f"{running.url}/v1/admin/{path}"), 401)
        shown = ask(running, "GET", f"/v1/admin/{path}", root)
        assert shown.status_code == 200
        for secret in (token, *tokens.values(), root, anna):
            assert secret not in shown.text
            assert secret.rpartition("_")[2] not in shown.text
    for query in ("event=%00", "event=' or 1=1", "before=0", "before=x", "limit=100000"):
        assert_refused(ask(running, "GET", f"/v1/admin/audit?{query}", root), 400, 422)
