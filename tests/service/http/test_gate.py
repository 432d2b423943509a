"""What the gate lets through, what it refuses and how, and what it writes down."""

import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from danqing.errors import ConfigError
from danqing.service.access import audit, key_admin
from danqing.service.http.origin import check_address, is_local
from danqing.service.observability import logs
from danqing.service.storage.database import Database
from tests.service.gated import Gated, gated

LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    """One without keys, on the loopback."""
    limits = {"body_bytes": LIMIT, "seconds": 2.0, "requests": 4}
    with gated(tmp_path_factory.mktemp("open"), limits=limits, hosts=("studio.lan",)) as server:
        yield server


def asked(method: str = "GET", path: str = "/v1/who", body: str = "", **headers: str) -> str:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", body])


def assert_refused(answer: tuple[int, dict[str, str], Any], status: int, code: str) -> None:
    given, headers, body = answer
    assert (given, body["error"]["code"]) == (status, code)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert headers["x-request-id"].startswith("req_")
    assert not [name for name in headers if name.startswith("access-control")]


def test_every_answer_says_which_request_it_is_and_what_browsers_may_do(open_server: Gated) -> None:
    found = [httpx.get(open_server.url + path) for path in ("/v1/who", "/nothing", "/healthz", "/v1/paint")]
    assert [answer.status_code for answer in found] == [200, 404, 200, 405]
    assert len({answer.headers["x-request-id"] for answer in found}) == 4
    for answer in found:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert int(answer.headers["openai-processing-ms"]) < 1000
        assert answer.headers["openai-version"]


@pytest.mark.parametrize("path", ["/v1/who", "/healthz", "/nothing", "/v1/paint", "/v1/who?n=1"])
def test_head_is_answered_as_get_without_the_body(open_server: Gated, path: str) -> None:
    with httpx.Client(base_url=open_server.url) as client:
        whole, head, again = client.get(path), client.head(path), client.get(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert head.headers["content-type"] == whole.headers["content-type"]
    assert again.content == whole.content  # the connection is still in step


@pytest.mark.parametrize("path", ["//v1/who", "/v1//who", "/who", "/v1/v1/who"])
def test_a_wrong_base_url_is_told_the_right_one(open_server: Gated, path: str) -> None:
    status, _, body = open_server.raw(asked(path=path, host="localhost"))
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert body["error"]["message"] == f"There is nothing at {path}: did you mean /v1/who?"


def test_a_path_that_has_no_other_name_is_not_offered_itself(open_server: Gated) -> None:
    for path, meant in (("/nothing", "/docs lists all routes."), ("/broken/x", "did you mean /v1/broken/x?")):
        _, _, body = open_server.raw(asked(path=path, host="localhost"))
        assert body["error"]["message"] == f"There is nothing at {path}: {meant}"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("paint.localhost:3000", 200),
        ("studio.lan:8000", 200),
        ("attacker.example", 403),
        ("localhost.attacker.example", 403),
        ("127.0.0.1.attacker.example:8000", 403),
        ("localhost:80@attacker.example", 403),
        ("0.0.0.0:8000", 403),
        ("192.168.1.5", 403),
        ("2130706433", 403),
        ("", 403),
    ],
)
def test_dns_rebinding_another_host_is_refused_while_there_are_no_keys(
    open_server: Gated, host: str, status: int
) -> None:
    answer = open_server.raw(asked(Host=host))
    if status == 200:
        assert answer[0] == 200
    else:
        assert_refused(answer, 403, "host_not_allowed")


def test_two_hosts_in_one_request_are_refused(open_server: Gated) -> None:
    answer = open_server.raw("GET /v1/who HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n")
    assert answer[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9"},
        {"Origin": "http://localhost:8000.attacker.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_csrf_pages_of_other_sites_are_refused(open_server: Gated, headers: dict[str, str]) -> None:
    reached = open_server.reached
    sent = asked("POST", "/v1/paint", "{}", Host="localhost:8000", Content_Type="application/json", **headers)
    assert_refused(open_server.raw(sent), 403, "origin_not_allowed")
    assert open_server.reached == reached


def test_missing_auth_a_proxy_without_keys_opens_the_service_to_nobody(
    open_server: Gated, tmp_path: Path
) -> None:
    with gated(tmp_path) as server:
        for name, away, here in (
            ("X-Forwarded-For", "203.0.113.9", "127.0.0.1"),
            ("X-Real-IP", "203.0.113.9", "127.0.0.1"),
            (
                "X-Forwarded-For",
                "127.0.0.1\r\nX-Forwarded-For: 203.0.113.9",
                "127.0.0.1\r\nX-Forwarded-For: ::1",
            ),
            ("Forwarded", 'for=127.0.0.1, proto=http;For="[2001:db8::1]:47"', 'for="[::1]:8000";proto=http'),
            ("Forwarded", "for=127.0.0.1\r\nForwarded: for=203.0.113.9:80", "for=127.0.0.1:80,for=localhost"),
            ("Forwarded", "for=_hidden", "by=203.0.113.9;for=127.0.0.1"),
            ("Forwarded", "proto=https", ""),
        ):
            sent = "GET /v1/who HTTP/1.1\r\nHost: localhost\r\n{}: {}\r\n\r\n"
            assert_refused(server.raw(sent.format(name, away)), 403, "forwarded_without_keys")
            assert server.raw(sent.format(name, here))[0] == 200
            assert open_server.raw(sent.format(name, away))[0] == 200  # it names hosts: that is meant


def test_the_services_own_page_may_ask(open_server: Gated) -> None:
    own = {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec_Fetch_Site": "same-origin"}
    sent = asked("POST", "/v1/paint", "{}", Content_Type="application/json", **own)
    assert open_server.raw(sent)[0] == 200


def test_cors_is_closed_a_preflight_allows_nothing(open_server: Gated) -> None:
    asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    foreign = asked("OPTIONS", "/v1/paint", Host="localhost", Origin="https://attacker.example", **asks)
    assert_refused(open_server.raw(foreign), 403, "origin_not_allowed")
    own = open_server.raw(asked("OPTIONS", "/v1/paint", Host="localhost", Origin="http://localhost", **asks))
    assert_refused(own, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "*/*", "text/json"]
)
def test_csrf_the_types_of_simple_forms_are_no_json(open_server: Gated, kind: str) -> None:
    sent = asked("POST", "/v1/paint", '{"n": 1}', Host="localhost", Content_Type=kind)
    assert_refused(open_server.raw(sent), 415, "unsupported_media_type")


def test_a_compressed_body_is_refused(open_server: Gated) -> None:
    headers = {"Content_Type": "application/json", "Content_Encoding": "gzip"}
    sent = asked("POST", "/v1/paint", "zz", Host="localhost", **headers)
    assert_refused(open_server.raw(sent), 415, "unsupported_content_encoding")


def test_http_dos_a_large_body_is_refused_before_it_is_read(open_server: Gated) -> None:
    head = {"Host": "localhost", "Content_Type": "application/json"}
    sent = asked("POST", "/v1/paint", **head, Content_Length=str(LIMIT + 1))  # and not a byte of it
    assert_refused(open_server.raw(sent), 413, "request_too_large")
    whole = httpx.post(f"{open_server.url}/v1/paint", json={"a": "b" * 8_000_000})
    assert whole.status_code == 413
    fitting = httpx.post(f"{open_server.url}/v1/paint", json={"a": "b" * (LIMIT - 10)})
    assert fitting.status_code == 200


def test_http_dos_a_large_body_in_chunks_is_refused_when_it_grows_too_large(open_server: Gated) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"a": "'
        for _ in range(200):
            yield b"b" * 1024
        yield b'"}'

    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{open_server.url}/v1/paint", content=chunks(), headers=headers)
    assert_refused((answer.status_code, dict(answer.headers), answer.json()), 413, "request_too_large")


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999999999999999", "0x10", "+5"])
def test_http_dos_a_length_that_is_no_number_is_refused(open_server: Gated, length: str) -> None:
    sent = f"POST /v1/paint HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", open_server.port), timeout=60) as connection:
        connection.sendall(sent)
        assert connection.recv(1000).split()[1] in (b"400", b"413")


def test_http_dos_a_body_that_never_comes_is_given_up(open_server: Gated) -> None:
    sent = asked("POST", "/v1/paint", Host="localhost", Content_Type="application/json", Content_Length="100")
    answer = open_server.raw(sent + '{"a": ')
    assert_refused(answer, 408, "timeout")
    assert answer[1]["x-should-retry"] == "false"


def test_more_requests_than_are_answered_at_a_time_are_told_to_wait(open_server: Gated) -> None:
    threads = [threading.Thread(target=httpx.get, args=(f"{open_server.url}/v1/slow",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert open_server.waiting.acquire(timeout=60)
    answer = httpx.get(f"{open_server.url}/v1/who")
    assert_refused((answer.status_code, dict(answer.headers), answer.json()), 429, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert httpx.get(f"{open_server.url}/healthz").status_code == 200
    open_server.let_go.set()
    for thread in threads:
        thread.join()
    assert httpx.get(f"{open_server.url}/v1/who").status_code == 200


def bearer(server: Gated, **grant: Any) -> dict[str, str]:
    """The header of a new key, once the service knows it."""
    database = Database(server.settings.database_url)
    name = f"key-{os.urandom(4).hex()}"
    _, token = key_admin.create(database, key_admin.Grant(name, **grant))
    database.close()
    headers = {"authorization": f"Bearer {token}"}
    deadline = time.process_time() + 5  # that of the processor: other processes take none of it
    while name not in httpx.get(f"{server.url}/v1/who", headers=headers).text:
        assert time.process_time() < deadline
    return headers


def test_one_key_cannot_take_all_places(tmp_path: Path) -> None:
    with gated(tmp_path, limits={"requests": 8}) as server, ThreadPoolExecutor() as threads:
        greedy, other = bearer(server), bearer(server)
        slow = [threads.submit(httpx.get, f"{server.url}/v1/slow", headers=greedy) for _ in range(2)]
        for _ in slow:
            assert server.waiting.acquire(timeout=60)
        answer = httpx.get(f"{server.url}/v1/who", headers=greedy)
        assert_refused((answer.status_code, dict(answer.headers), answer.json()), 429, "overloaded")
        assert httpx.get(f"{server.url}/v1/who", headers=other).status_code == 200
        assert httpx.get(f"{server.url}/healthz", headers=greedy).status_code == 200
        server.let_go.set()
        assert [one.result().status_code for one in slow] == [200, 200]
        assert httpx.get(f"{server.url}/v1/who", headers=greedy).status_code == 200


def test_what_a_key_may_ask_for_in_a_minute_counts_all_but_the_probes(tmp_path: Path) -> None:
    with gated(tmp_path) as server:
        headers = bearer(server, rate=3)
        found = [httpx.get(f"{server.url}/v1/who", headers=headers).status_code for _ in range(6)]
        assert found[-1] == 429
        assert httpx.get(f"{server.url}/healthz", headers=headers).status_code == 200


def test_http_dos_bodies_that_are_held_together_are_bounded(tmp_path: Path) -> None:
    size = 64 * 1024
    limits = {"body_bytes": size, "bytes_in_flight": 4 * size}
    head = f"POST /v1/paint HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n"
    start = f"{head}content-type: application/json\r\n\r\n{{".encode()
    start += b" " * (size - 1000 - len(start))
    with gated(tmp_path, limits=limits) as server:
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(4)]
        for connection in held[:3]:
            connection.sendall(start)
        held[3].sendall(start[: size // 3])  # nobody has more than four fifths, but for what came last
        deadline = time.process_time() + 5
        while (answer := httpx.post(f"{server.url}/v1/paint", json={"a": "b"})).is_success:
            assert time.process_time() < deadline
        assert_refused((answer.status_code, dict(answer.headers), answer.json()), 429, "overloaded")
        held.pop().close()
        while not httpx.post(f"{server.url}/v1/paint", json={"a": "b"}).is_success:
            assert time.process_time() < deadline
        for connection in held:  # or the server waits for the rest of their bodies before it ends
            connection.close()


def test_error_leak_what_goes_wrong_within_is_not_told(open_server: Gated) -> None:
    answer = httpx.get(f"{open_server.url}/v1/broken/model.safetensors")
    assert_refused((answer.status_code, dict(answer.headers), answer.json()), 500, "server_error")
    assert answer.headers["x-should-retry"] == "false"
    assert not any(
        word in answer.text for word in ("secret", "hunter2", "RuntimeError", "safetensors", ".py")
    )


def test_a_path_with_a_nul_leads_nowhere(open_server: Gated) -> None:
    assert_refused(
        open_server.raw("GET /v1/broken/a%00b HTTP/1.1\r\nhost: localhost\r\n\r\n"), 404, "not_found"
    )


def test_half_an_answer_ends_without_its_end(open_server: Gated) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{open_server.url}/v1/half")


def test_a_request_is_one_line_of_the_log_and_counts_by_its_route(tmp_path: Path) -> None:
    written = io.StringIO()
    with logs.configured("json", stream=written), gated(tmp_path) as server:
        httpx.post(f"{server.url}/v1/paint", json={"n": 3, "user": "x\n" * 300}, headers={"x-a": "b"})
        httpx.get(f"{server.url}/v1/broken/a-{'path' * 200}\u2028")
        httpx.get(f"{server.url}/healthz")
        httpx.get(f"{server.url}/v1/pictures/what-lets-see-it.png")
    lines = [json.loads(line) for line in written.getvalue().split("\n") if line]
    paint, broken, picture = (line for line in lines if line["logger"] == "danqing.access")
    assert (paint["method"], paint["path"], paint["status"]) == ("POST", "/v1/paint", 200)
    assert (paint["model"], paint["images"], len(paint["user"])) == ("cats", 3, 200)
    assert (picture["path"], picture["status"]) == ("/v1/pictures/{name}", 404)
    assert paint["request_id"].startswith("req_")
    assert (broken["status"], len(broken["path"])) == (500, 200)
    [failure] = [line for line in lines if line["message"] == "a request failed"]
    assert "hunter2" in failure["error"]
    assert failure["request_id"] == broken["request_id"]
    numbers = server.metrics.text().decode()
    assert 'danqing_requests_total{method="POST",route="/v1/paint",status="200"} 1.0' in numbers
    assert 'danqing_requests_total{method="GET",route="/v1/broken/{what}",status="500"} 1.0' in numbers


def test_what_was_done_stands_in_the_audit_log_and_a_flood_is_one_entry(tmp_path: Path) -> None:
    with gated(tmp_path) as server:
        done = httpx.post(f"{server.url}/v1/paint", json={"n": 2})
        with httpx.Client() as client:
            for _ in range(20):
                client.post(f"{server.url}/v1/paint", content="n=2")
        httpx.get(f"{server.url}/v1/who")
    database = Database(server.settings.database_url)
    try:
        assert audit.verify(database).number >= 4
        entries = database.transact(lambda session: audit.last(session, 100))
    finally:
        database.close()
    assert [entry.event for entry in (entries[0], entries[-1])] == ["service started", "service stopped"]
    facts = [json.loads(entry.facts) for entry in entries if entry.event == "request"]
    assert facts[0]["request"] == done.headers["x-request-id"]
    assert (facts[0]["model"], facts[0]["images"], facts[0]["route"]) == ("cats", 2, "/v1/paint")
    assert sum(fact.get("count", 1) for fact in facts if fact["status"] == 415) == 20
    assert all(fact["method"] == "POST" for fact in facts)


def test_a_public_address_without_keys_is_refused_with_the_way_to_make_one() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert is_local(host)
        check_address(host, has_keys=False)
    for host in ("0.0.0.0", "::", "", "192.168.1.5", "example.org"):
        with pytest.raises(ConfigError, match="danqing keys create"):
            check_address(host, has_keys=False)
        check_address(host, has_keys=True)


def test_missing_auth_a_public_address_never_opens_even_without_keys(tmp_path: Path) -> None:
    with gated(tmp_path, host="0.0.0.0") as server:
        answer = httpx.get(f"{server.url}/v1/who")
        assert_refused((answer.status_code, dict(answer.headers), answer.json()), 401, "missing_api_key")
        assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_the_first_key_closes_a_service_that_runs(tmp_path: Path) -> None:
    with gated(tmp_path) as server:
        assert httpx.get(f"{server.url}/v1/who").json() == {"key": None, "name": "local"}
        database = Database(server.settings.database_url)
        _, token = key_admin.create(database, key_admin.Grant("studio"))
        database.close()
        bearing = {"authorization": f"Bearer {token}"}
        deadline = time.process_time() + 2
        with httpx.Client(timeout=30) as client:
            while client.get(f"{server.url}/v1/who").status_code == 200:
                assert time.process_time() < deadline
            assert client.get(f"{server.url}/v1/who", headers=bearing).json()["name"] == "studio"
