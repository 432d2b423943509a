"""Nobody reaches through the service what is not theirs: other hosts, what belongs to other keys."""

import asyncio
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from danqing.service.app import create_app
from danqing.service.requests.outbound import target
from tests.service.attacks.asking import STAR, assert_refused, picture, raw
from tests.service.serving import Running, served


class _Origin(BaseHTTPRequestHandler):
    """A host of pictures with bad habits."""

    def do_GET(self) -> None:
        body, status, headers = picture(), 200, {}
        if self.path == "/redirect":
            body, status, headers = (
                b"",
                302,
                {"location": f"http://127.0.0.1:{self.server.server_address[1]}/a"},
            )
        elif self.path == "/large":
            body = b"\x89PNG" + bytes(2_000_000)
        elif self.path == "/bomb":
            packed = zlib.compressobj(9, zlib.DEFLATED, 31)
            body, headers = packed.compress(bytes(50_000_000)) + packed.flush(), {"content-encoding": "gzip"}
        elif self.path == "/slow":
            time.sleep(1.5)
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Origin)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_ssrf_no_address_is_called_unless_its_host_is_allowed_and_public(
    running: Running,
    models: dict[str, str],
    origin: ThreadingHTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM CVE-2025-6242, #57157; SGLang #17269; Gradio CVE-2026-28416; Unsloth #11010; vLLM-Omni #2565,
    #4751; A1111, which checks one answer of the DNS and then asks for another (rebinding).
    """
    port = origin.server_port
    here = f"http://127.0.0.1:{port}/a"

    def ask(service: Running, url: str) -> httpx.Response:
        body = {**STAR, "images": [{"image_url": url}]}
        return httpx.post(f"{service.url}/v1/images/edits", json=body, timeout=30)

    names = ("a.example", "b.example", "mixed.example", "mapped.example", "meta.example", "*.wide.example")
    outbound = {"pictures": [f"127.0.0.1:{port}", *names], "seconds": 1.0}
    answers = {
        "a.example": ["127.0.0.1"],
        "b.example": ["10.0.0.7"],
        "mixed.example": ["93.184.215.14", "169.254.169.254"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "meta.example": ["64:ff9b::a9fe:a9fe"],
        "x.wide.example": ["192.168.0.1"],
    }
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host in answers:
            asked.append(host)
            return [real(address, port, type=socket.SOCK_STREAM)[0] for address in answers[host]]
        return real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with served({"masked": models["masked"]}, tmp_path, outbound=outbound) as open_to_some:
        assert ask(open_to_some, here).status_code == 200
        origin.seen.clear()  # type: ignore[attr-defined]
        asked_for = {"endpoint": "edits", "body": {**STAR, "images": [{"image_url": here}]}}
        job = httpx.post(f"{open_to_some.url}/v1/jobs", json=asked_for, timeout=30).json()["id"]
        assert "job.succeeded" in httpx.get(f"{open_to_some.url}/v1/jobs/{job}/events", timeout=60).text
        assert origin.seen == ["/a"]  # type: ignore[attr-defined]  # once, when it was accepted
        origin.seen.clear()  # type: ignore[attr-defined]
        for url in (
            f"http://a.example:{port}/a",  # its port is not the one that is allowed
            "http://a.example/a",
            "https://b.example/a",
            "http://mixed.example/latest/meta-data",
            "http://mapped.example/a",
            "http://meta.example/a",
            "http://x.wide.example/a",
            "http://wide.example.evil.example/a",
            f"http://localhost:{port}/a",
            f"http://127.1:{port}/a",
            f"http://2130706433:{port}/a",
            f"http://0x7f000001:{port}/a",
            f"http://[::ffff:127.0.0.1]:{port}/a",
            f"http://127.0.0.1:{port}@a.example/a",
            f"http://a.example@127.0.0.1:{port}/a",
            f"http://127.0.0.1:{port + 1}/a",
            f"http:\\\\127.0.0.1:{port}\\a",
            "file:///etc/passwd",
            "gopher://127.0.0.1/a",
            "ftp://a.example/a",
            "http:///a",
            "//a.example/a",
            "http://a.example/" + "a" * 9000,
            "http://xn--a/",
        ):
            assert_refused(ask(open_to_some, url))
        assert origin.seen == []  # type: ignore[attr-defined]
        for path in ("redirect", "large", "bomb", "slow"):
            assert_refused(ask(open_to_some, f"http://127.0.0.1:{port}/{path}"))
        assert "/a" not in origin.seen  # type: ignore[attr-defined]
    assert_refused(ask(running, here))  # by default, nothing is called

    answers["a.example"] = ["93.184.215.14"]
    asked.clear()
    where = asyncio.run(target("https://a.example/x?y=1", ["a.example"]))
    answers["a.example"] = ["127.0.0.1"]  # what the name says now is not asked any more
    assert asked == ["a.example"]
    assert str(where.url) == "https://93.184.215.14/x?y=1"
    assert (where.headers["host"], where.extensions["sni_hostname"]) == ("a.example", "a.example")


def routes_of(router: Any) -> Iterator[Any]:
    """All routes of an application, those of the routers that it includes too."""
    for route in router.routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else routes_of(included)


def test_missing_auth_with_keys_every_route_asks_for_one(
    locked: tuple[Running, dict[str, str]],
) -> None:
    """SGLang #26789; Gradio CVE-2024-34511, CVE-2026-27167 (a fixed secret); ShadowRay CVE-2023-48022;
    TorchServe CVE-2023-43654.
    """
    service, tokens = locked
    app = create_app(service.service.settings)
    routes = list(routes_of(app))
    assert {route.path_format for route in routes} >= {*app.openapi()["paths"], "/models/{name}/samples.png"}
    public = {"/", "/judge", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/pictures/{name}"}
    public.add("/studio/{version}/{name}")  # the modules of both pages
    assert public < {route.path_format for route in routes}
    tried = 0
    for path, methods in ((one.path_format, one.methods) for one in routes if one.path_format not in public):
        for method in methods - {"HEAD"}:
            url = service.url + path.replace("{", "").replace("}", "")
            for headers in ({}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer none"}):
                answer = httpx.request(method, url, headers=headers)
                assert answer.status_code == 401, (
                    f"{method} {path} answers without a key: let it depend on needs(scope) or any_key, or "
                    "add it to the public routes above."
                )
                assert_refused(answer, 401)
                tried += 1
    assert tried >= 24
    for token in ("admin", "secret", "danqing", "sk-none", tokens["anna"][:-1], tokens["anna"].upper()):
        answer = httpx.get(f"{service.url}/v1/models", headers={"authorization": f"Bearer {token}"})
        assert_refused(answer, 401)
    assert len(set(tokens.values())) == 2
    files = b"".join(path.read_bytes() for path in service.service.settings.data.rglob("*") if path.is_file())
    assert not any(token.encode() in files for token in tokens.values())  # only hashes are kept


def test_open_redirect_no_answer_leads_elsewhere(running: Running) -> None:
    """Gradio CVE-2024-4940, #13593."""
    for path in (
        "//evil.example/",
        "/\\evil.example/",
        "/%5cevil.example/",
        "/v1/models/",
        "/v1/images/generations/",
        "/docs/",
        "/?next=https://evil.example",
        "/file=https://evil.example",
        "/v1/models//evil.example/..",
        "https://evil.example/",
    ):
        for host in (b"localhost", b"127.0.0.1"):
            request = (
                b"GET " + path.encode() + b" HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n"
            )
            status, answer = raw(running, request)
            assert not 300 <= status < 400, (path, answer[:300])
            assert b"\nlocation:" not in answer.lower()


def test_idor_what_belongs_to_another_key_is_not_there(locked: tuple[Running, dict[str, str]]) -> None:
    """Langflow CVE-2026-4503."""
    service, tokens = locked
    anna, bert = (
        httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {tokens[name]}"}, timeout=30)
        for name in ("anna", "bert")
    )
    with anna, bert:
        asked = {"endpoint": "generations", "body": {**STAR, "prompt": "star"}}
        headers = {"idempotency-key": "the-same"}
        accepted = anna.post("/v1/jobs", json=asked, headers=headers)
        assert accepted.status_code == 202, accepted.text
        job = accepted.json()["id"]
        for method, path in (
            ("GET", f"/v1/jobs/{job}"),
            ("POST", f"/v1/jobs/{job}/cancel"),
            ("GET", f"/v1/jobs/{job}/events"),
            ("GET", f"/v1/jobs/{job}/images/0"),
        ):
            theirs = bert.request(method, path)
            nobodys = bert.request(method, path.replace(job, job[:-4] + "0000"))
            assert_refused(theirs, 404)
            assert theirs.json()["error"]["code"] == nobodys.json()["error"]["code"]
        assert bert.get("/v1/jobs").json()["data"] == []
        assert [one["id"] for one in anna.get("/v1/jobs").json()["data"]] == [job]
        other = bert.post("/v1/jobs", json=asked, headers=headers).json()["id"]
        assert other != job  # the same idempotency key of another caller is another job
        with anna.stream("GET", f"/v1/jobs/{job}/events") as events:
            assert "job.succeeded" in events.read().decode()
        assert anna.get(f"/v1/jobs/{job}/images/0").content.startswith(b"\x89PNG")
        assert_refused(bert.get(f"/v1/jobs/{job}/images/0"), 404)
